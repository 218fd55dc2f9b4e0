"""Which of the rules' languages a text may be in.

Used for the few words that are harmless in another language ("rape" is a fish in Spanish). Detection only
drops such a word where a text is clearly in another language; a doubtful text keeps every language's words.
"""

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Final, Protocol

from .wordforms import Language

if TYPE_CHECKING:
    from lingua import LanguageDetector

EVERY_LANGUAGE: Final[frozenset[Language]] = frozenset({"en", "es", "pt"})
_IMPLAUSIBLE_BELOW: Final = 0.05  # of a confidence that sums to 1 over the three languages

_log = logging.getLogger(__name__)


class Languages(Protocol):
    """Says which languages a text may be in; never raises."""

    def plausible(self, text: str) -> frozenset[Language]: ...


class DetectedLanguages:
    """Detects with lingua if it is installed; else every language is plausible.

    The detector is imported and built at the first question: about 50 ms and 10 MB in its low-accuracy mode,
    which is enough for three languages. The other mode takes 1.3 s and 120 MB.
    """

    def plausible(self, text: str) -> frozenset[Language]:
        """Return the languages that cannot be ruled out, at least one."""
        if self._detector is None:
            return EVERY_LANGUAGE
        values = self._detector.compute_language_confidence_values(text)
        known: dict[str, Language] = {"EN": "en", "ES": "es", "PT": "pt"}
        likely = {
            known[each.language.iso_code_639_1.name] for each in values if each.value >= _IMPLAUSIBLE_BELOW
        }
        return frozenset(likely) or EVERY_LANGUAGE

    @cached_property
    def _detector(self) -> "LanguageDetector | None":
        try:
            from lingua import Language as Lingua  # noqa: PLC0415 - an extra, and slow
            from lingua import LanguageDetectorBuilder  # noqa: PLC0415
        except ImportError:
            _log.info("language detection off")
            return None
        three = LanguageDetectorBuilder.from_languages(Lingua.ENGLISH, Lingua.SPANISH, Lingua.PORTUGUESE)
        return three.with_low_accuracy_mode().build()
