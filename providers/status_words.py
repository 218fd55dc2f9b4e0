"""The words by which servers name the state of a job, in one table of synonyms.

Asking is free, so a spelling that a server does not document costs nothing to understand. A word is compared
without its case; blanks and hyphens count as underscores. A word that may mean several things is left out.
"""

from collections.abc import Mapping
from typing import Final, TypeVar

from providers.base import EndedAs, Phase

_Meaning = TypeVar("_Meaning", bound=str)


def _by_word(synonyms: Mapping[_Meaning, str]) -> Mapping[str, _Meaning]:
    return {word: meaning for meaning, words in synonyms.items() for word in words.split()}


_PHASES: Final[Mapping[str, Phase]] = _by_word(
    {
        "queued": (
            "queued in_queue enqueued queueing pending waiting submitted created accepted scheduled starting"
            " initializing initialized preparing not_started"
        ),
        "running": (
            "in_progress running processing started working generating rendering active executing finalizing"
            " uploading"
        ),
        "succeeded": "succeeded success successful completed complete done finished",
    }
)
_BAD_ENDS: Final[Mapping[str, EndedAs]] = _by_word(
    {
        "failed": "failed failure fail error errored rejected",
        "moderated": "moderated content_moderated moderation_blocked content_filtered content_filter nsfw",
        "cancelled": "cancelled canceled aborted terminated",
        "expired": "expired timeout timed_out timedout",
    }
)


def read_phase(word: object) -> Phase:
    """Return the phase of a job that a server's word means; `unknown` for a bad end, or for no known word."""
    return _PHASES.get(_spelled(word), "unknown")


def read_bad_end(word: object) -> EndedAs | None:
    """Return how a job ended without a video by a server's word; None if it did not, or is not known to."""
    return _BAD_ENDS.get(_spelled(word))


def _spelled(word: object) -> str:
    if not isinstance(word, str):
        return ""
    return word.strip().casefold().replace("-", "_").replace(" ", "_").removeprefix("job_state_")
