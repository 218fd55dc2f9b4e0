"""Translated texts from `locales/*.yaml`, checked at start and filled with escaped values."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from string import Formatter
from typing import Final, get_args

import yaml

from ledger.models import Language

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
_FOLDER: Final = Path(__file__).with_name("locales")
_DAY: Final = 24 * 60


class LocaleError(Exception):
    """A locale lacks a text, has one too many, or uses other placeholders than English."""


@dataclass(frozen=True)
class Translator:
    """The texts of one language."""

    language: Language
    _texts: Mapping[str, str]

    def __call__(self, name: str, /, **values: object) -> str:
        """Return one text as HTML. Every value is escaped, so no user or model can write markup."""
        return self._texts[name].format(**{key: escape(str(value)) for key, value in values.items()})

    def has(self, name: str) -> bool:
        """Return whether a text of this name exists."""
        return name in self._texts

    def html(self, name: str, /, **values: str) -> str:
        """Return one text whose values are already HTML."""
        return self._texts[name].format(**values)

    def duration(self, milliseconds: int) -> str:
        """Return a duration as `3 h 12 min`, rounded up to at least a minute."""
        minutes = max(1, -(-milliseconds // 60_000))
        if minutes >= _DAY:  # whole hours are enough, and a wait is never announced shorter than it is
            minutes = -(-minutes // 60) * 60
        days, rest = divmod(minutes, _DAY)
        parts = [(days, "unit_day"), (rest // 60, "unit_hour"), (rest % 60, "unit_minute")]
        return " ".join(f"{count} {self._texts[unit]}" for count, unit in parts if count)

    def window(self, seconds: int) -> str:
        """Return the exact length of a rolling window. One day is `24 h`: it is not a calendar day."""
        if seconds == _DAY * 60:
            return f"24 {self._texts['unit_hour']}"
        days, rest = divmod(seconds, _DAY * 60)
        hours, rest = divmod(rest, 3600)
        parts = [
            (days, "unit_day"),
            (hours, "unit_hour"),
            (rest // 60, "unit_minute"),
            (rest % 60, "unit_second"),
        ]
        return " ".join(f"{count} {self._texts[unit]}" for count, unit in parts if count)

    def when(self, until: int | None, now: int) -> str:
        """Return from when on something works again; `until` and `now` are milliseconds since the epoch."""
        if until is None:
            return self._texts["when_unknown"]
        # Less the part of a second by which a cooldown lasts longer: ten minutes are not announced as eleven.
        return self("when_in", span=self.duration(max(0, until - now - 999)))


def translator(language: str) -> Translator:
    """Return the texts for a Telegram `language_code`; English for languages that we do not have."""
    known = language_of(language)
    return Translator(known, _read(known))


def language_of(code: str | None) -> Language:
    """Return the language used for this Telegram `language_code`."""
    short = (code or "").replace("_", "-").partition("-")[0].lower()
    return next((language for language in LANGUAGES if language == short), "en")


def check_locales() -> None:
    """Check that all locales have the same texts with the same placeholders.

    Raises:
        LocaleError: Names the file, the text, and what is missing or extra.
    """
    english = _fields_of("en")
    for language in LANGUAGES[1:]:
        other = _fields_of(language)
        if mismatched := sorted(english.keys() ^ other.keys()):
            raise LocaleError(f"chat/locales/{language}.yaml: {mismatched[0]!r} exists in one language only")
        for name, fields in english.items():
            if other[name] != fields:
                raise LocaleError(
                    f"chat/locales/{language}.yaml: {name} fills {other[name]}, English fills {fields}"
                )


@cache
def _read(language: Language) -> Mapping[str, str]:
    found: dict[str, str] = yaml.safe_load((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    return found


def _fields_of(language: Language) -> dict[str, list[str]]:
    found = {}
    for name, text in _read(language).items():
        try:
            found[name] = _fields(text)
        except (TypeError, ValueError) as error:  # YAML reads a bare `no` as false; a lone { is never closed
            raise LocaleError(
                f"chat/locales/{language}.yaml: {name} is not a text template: {error}"
            ) from None
    return found


def _fields(text: str) -> list[str]:
    fields = sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)
    if mismatched := [name for name in fields if not name.isidentifier()]:
        raise ValueError(f"{{{mismatched[0]}}} is not a name")
    return fields
