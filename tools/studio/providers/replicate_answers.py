"""Reading what Replicate's predictions API answers: a prediction, a refusal, a failure, or nothing we know.

Sources, read in November 2026: replicate.com/docs/reference/http, …/topics/predictions/lifecycle (status
words), …/rate-limits (429), …/data-retention; the error bodies as `replicate` 1.0.7 reads them (RFC 7807).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from providers.base import (
    Gone,
    InDoubt,
    Job,
    JobFailed,
    JobModerated,
    Phase,
    Rejected,
    RejectedFor,
    Status,
    Throttled,
)
from providers.http import Reply

REFUSALS: Mapping[int, RejectedFor] = MappingProxyType(
    {401: "auth", 402: "funds", 404: "invalid", 422: "invalid"}
)
WORDS: Mapping[str, Phase] = MappingProxyType(
    {"starting": "queued", "processing": "running", "succeeded": "succeeded"}
)
PAUSE_S = 60.0  # where a throttled answer names no time; limits are counted by the minute
_PREDICTION_ID = re.compile(r"[A-Za-z0-9]{8,64}")
_MODERATED = re.compile(r"\bE005\b|flagged as sensitive", re.IGNORECASE)
_RESETS = re.compile(r"resets in ~?(\d{1,4})\s?s\b")
_SECONDS = re.compile(r"\d{1,4}(\.\d{1,3})?")


def readable(prediction_id: object) -> bool:
    """Say whether an id can stand as one segment of a path."""
    return isinstance(prediction_id, str) and _PREDICTION_ID.fullmatch(prediction_id) is not None


@dataclass(frozen=True, slots=True)
class ReplicateReader:
    """`scrub` makes a stranger's words fit for an error text."""

    scrub: Callable[[str], str]

    def accepted(self, reply: Reply) -> Job:
        """Read the answer to the POST.

        Raises:
            Rejected, Throttled: A documented refusal in Replicate's own words: there is no prediction.
            InDoubt: Anything else.
        """
        data = reply.json() or {}
        if 200 <= reply.status < 300:
            if not readable(data.get("id")):
                raise InDoubt(f"the POST was answered {reply.status} without a prediction id")
            return Job(data["id"])
        words = [data[name] for name in ("title", "detail") if isinstance(data.get(name), str)]
        if not words:
            raise InDoubt(f"the POST was answered {reply.status}: no words that we know")
        said = f"refused with {reply.status}: {self.scrub(': '.join(words))}"
        if reply.status == 429:
            raise Throttled(said, _pause(reply, data))
        if (reason := REFUSALS.get(reply.status)) is None:
            raise InDoubt(f"the POST was {said}")
        raise Rejected(said, reason)

    def status(self, data: Mapping[str, Any]) -> Status:
        """Read how far a prediction is.

        Replicate does not say in general whether a failed or cancelled prediction of an official model is
        billed; an aborted one never started, and only active time costs.

        Raises:
            JobFailed, JobModerated: It is over, without a video.
            Gone: It succeeded, and its output has been removed since.
        """
        word = data.get("status")
        if word == "failed":
            error = data.get("error")
            said = self.scrub(error) if isinstance(error, str) else "no words that we know"
            if isinstance(error, str) and _MODERATED.search(error):
                raise JobModerated(said, "unknown")
            raise JobFailed(said, "unknown")
        if word == "canceled":
            raise JobFailed("the prediction was cancelled", "unknown")
        if word == "aborted":
            raise JobFailed("the prediction was given up before it started", "unbilled")
        phase = WORDS.get(str(word), "unknown")
        if phase == "succeeded" and data.get("data_removed") is True:
            raise Gone("the output was removed, as it is after an hour")
        return Status(phase, progress=100 if phase == "succeeded" else None)


def _pause(reply: Reply, data: Mapping[str, Any]) -> float:
    """Seconds to wait: from the header, the field `retry_after`, the documented words, or a minute."""
    resets = _RESETS.search(str(data.get("detail")))
    told = (reply.headers.get("retry-after", ""), data.get("retry_after", ""), resets[1] if resets else "")
    known = (str(value).strip() for value in told if not isinstance(value, bool))
    return next((float(value) for value in known if _SECONDS.fullmatch(value)), PAUSE_S)
