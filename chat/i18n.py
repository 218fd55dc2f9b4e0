"""What users read: one YAML file a language, checked at start, filled with escaped values."""

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
    """A language lacks a text, has one too many, or fills other names than English does."""


@dataclass(frozen=True)
class Translator:
    """The texts of one language."""

    language: Language
    _texts: Mapping[str, str]

    def __call__(self, name: str, /, **values: object) -> str:
        """Return one text as HTML; every value is escaped, so no user or model writes markup."""
        return self._texts[name].format(**{key: escape(str(value)) for key, value in values.items()})

    def has(self, name: str) -> bool:
        """Say whether there is a text of this name."""
        return name in self._texts

    def html(self, name: str, /, **values: str) -> str:
        """Return one text whose values are HTML of ours already."""
        return self._texts[name].format(**values)

    def duration(self, milliseconds: int) -> str:
        """Return a length of time as people say it, rounded up to a minute or more: `3 h 12 min`."""
        minutes = max(1, -(-milliseconds // 60_000))
        if minutes >= _DAY:  # whole hours will do, and a wait is never said shorter than it is
            minutes = -(-minutes // 60) * 60
        days, rest = divmod(minutes, _DAY)
        parts = [(days, "unit_day"), (rest // 60, "unit_hour"), (rest % 60, "unit_minute")]
        return " ".join(f"{count} {self._texts[unit]}" for count, unit in parts if count)

    def window(self, seconds: int) -> str:
        """Return the length of a rolling window, exactly: a day is `24 h`, since no calendar counts it."""
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
        """Say from when on something works again; `until` and `now` are milliseconds since the epoch."""
        if until is None:
            return self._texts["when_unknown"]
        return self("when_in", span=self.duration(max(0, until - now)))


def translator(language: str) -> Translator:
    """Return the texts for a Telegram `language_code`; English where we have no better."""
    known = language_of(language)
    return Translator(known, _read(known))


def language_of(code: str | None) -> Language:
    """Return the language in which a user with this `language_code` is written to."""
    short = (code or "").replace("_", "-").partition("-")[0].lower()
    return next((one for one in LANGUAGES if one == short), "en")


def check_locales() -> None:
    """Check at start that all languages say the same things.

    Raises:
        TextsError: The language, the text, and what is missing or too much.
    """
    english = _fields_of("en")
    for language in LANGUAGES[1:]:
        other = _fields_of(language)
        if odd := sorted(english.keys() ^ other.keys()):
            raise LocaleError(f"chat/locales/{language}.yaml: {odd[0]!r} stands in one language only")
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
        except (TypeError, ValueError) as error:  # YAML reads a bare `no` as false; a lone { ends nowhere
            raise LocaleError(f"chat/locales/{language}.yaml: {name} is no text to fill: {error}") from None
    return found


def _fields(text: str) -> list[str]:
    fields = sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)
    if odd := [name for name in fields if not name.isidentifier()]:
        raise ValueError(f"{{{odd[0]}}} is not a name")
    return fields
