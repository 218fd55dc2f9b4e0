"""Translated texts from `locales/*.yaml`, checked at start and filled with escaped values.

Plurals, amounts and numbers are written by Babel, by the rules of the language (CLDR). A text that depends on
a number has one form for each plural category, and its number is called `count`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from html import escape
from pathlib import Path
from string import Formatter
from typing import Final, get_args

import yaml
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal
from babel.units import format_unit

from guardrails.money import MICROS_PER_DOLLAR, Money
from ledger.models import Language

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
_FOLDER: Final = Path(__file__).with_name("locales")
_DAY: Final = 24 * 60

_BABEL: Final[Mapping[Language, str]] = {"en": "en", "es": "es", "pt": "pt_BR"}
_AMOUNT: Final[Mapping[Language, str]] = {
    "en": "'US$'#,##0.00####", "es": "'US$'\u00a0#,##0.00####", "pt": "'US$'\u00a0#,##0.00####",
}  # fmt: skip
"""How natives write dollars. "$" alone is the peso in most countries that speak Spanish."""

Forms = Mapping[str, str]
"""A text's forms by plural category (`one`, `other`)."""


class LocaleError(Exception):
    """A locale lacks a text or a form, has one too many, or uses other placeholders than English."""


@dataclass(frozen=True)
class Translator:
    """The texts of one language."""

    language: Language
    _texts: Mapping[str, str | Forms]

    def __call__(self, name: str, /, **values: object) -> str:
        """Return one text as HTML. Every value is escaped, so no user or model can write markup.

        `Money` is written as the language does. Of a text with plural forms the one for `count` is taken.
        """
        return self._form(name, values).format(
            **{key: escape(self._write(one)) for key, one in values.items()}
        )

    def has(self, name: str) -> bool:
        """Return whether a text of this name exists."""
        return name in self._texts

    def html(self, name: str, /, **values: str) -> str:
        """Return one text whose values are already HTML."""
        return self._form(name, values).format(**values)

    def money(self, amount: Money) -> str:
        """Return an amount of dollars: `US$3.00`, in Spanish and Portuguese `US$ 3,00`."""
        dollars = Decimal(amount.micros) / MICROS_PER_DOLLAR
        return format_decimal(dollars, _AMOUNT[self.language], _BABEL[self.language])

    def _write(self, value: object) -> str:
        return self.money(value) if isinstance(value, Money) else str(value)

    def _form(self, name: str, values: Mapping[str, object]) -> str:
        found = self._texts[name]
        if isinstance(found, str):
            return found
        category = _plural_rule(self.language)(int(str(values["count"])))
        return found.get(category, found["other"])

    def duration(self, milliseconds: int) -> str:
        """Return a duration as `3 h 12 min`, rounded up to at least a minute."""
        minutes = max(1, -(-milliseconds // 60_000))
        if minutes >= _DAY:  # whole hours are enough, and a wait is never announced shorter than it is
            minutes = -(-minutes // 60) * 60
        days, rest = divmod(minutes, _DAY)
        parts = [(days, "unit_day"), (rest // 60, "unit_hour"), (rest % 60, "unit_minute")]
        return " ".join(f"{count} {self(unit)}" for count, unit in parts if count)

    def window(self, seconds: int) -> str:
        """Return the exact length of a rolling window. One day is `24 hours`: it is not a calendar day."""
        if seconds == _DAY * 60:
            return self._unit(24, "hour")
        days, rest = divmod(seconds, _DAY * 60)
        hours, rest = divmod(rest, 3600)
        parts = {"day": days, "hour": hours, "minute": rest // 60, "second": rest % 60}
        return " ".join(self._unit(count, unit) for unit, count in parts.items() if count)

    def within(self, seconds: int) -> str:
        """Return a rolling window as a time that ends now: `in the last 24 hours`."""
        hours = seconds == _DAY * 60 or 3600 <= seconds < _DAY * 60
        return self("within_hours" if hours else "within_other", span=self.window(seconds))

    def days(self, count: int) -> str:
        """Return a number of days: `7 days`."""
        return self._unit(count, "day")

    def _unit(self, count: int, unit: str) -> str:
        return format_unit(count, f"duration-{unit}", "long", locale=_BABEL[self.language])

    def date(self, day: date) -> str:
        """Return a day as the language writes it: `28 Nov 2026`, in English `Nov 28, 2026`."""
        return format_date(day, "medium", _BABEL[self.language])

    def elapsed(self, seconds: float) -> str:
        """Return a running time as a clock shows it: `1:10`."""
        minutes, rest = divmod(int(seconds), 60)
        return f"{minutes}:{rest:02d}"

    def about(self, seconds: float) -> str:
        """Return a usual time: whole minutes, or below a minute tens of seconds."""
        if seconds < 55:
            return self._unit(max(10, round(seconds / 10) * 10), "second")
        return self._unit(round(seconds / 60), "minute")

    def when(self, until: int | None, now: int) -> str:
        """Return from when on something works again; `until` and `now` are milliseconds since the epoch."""
        if until is None:
            return self("when_unknown")
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
def _plural_rule(language: Language) -> Callable[[int], str]:
    return Locale.parse(_BABEL[language]).plural_form


@cache
def _read(language: Language) -> Mapping[str, str | Forms]:
    found: dict[str, str | Forms] = yaml.safe_load((_FOLDER / f"{language}.yaml").read_text(encoding="utf-8"))
    return found


def _fields_of(language: Language) -> dict[str, list[str]]:
    found = {}
    for name, text in _read(language).items():
        try:
            found[name] = _fields(text) if isinstance(text, str) else _fields_of_forms(text)
        except (TypeError, ValueError, AttributeError) as error:  # YAML reads a bare `no` as false
            raise LocaleError(
                f"chat/locales/{language}.yaml: {name} is not a text template: {error}"
            ) from None
    return found


def _fields_of_forms(forms: Forms) -> list[str]:
    if sorted(forms) != ["one", "other"]:
        raise ValueError(f"its forms are {sorted(forms)}; it needs one and other")
    # "One video" needs no figure, so the placeholders of the general form are the text's.
    fields = _fields(forms["other"])
    if extra := set(_fields(forms["one"])) - set(fields):
        raise ValueError(f"`one` fills {sorted(extra)}, which `other` does not")
    if "count" not in fields:
        raise ValueError("`other` does not fill {count}")
    return ["plural", *fields]


def _fields(text: str) -> list[str]:
    fields = sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)
    if mismatched := [name for name in fields if not name.isidentifier()]:
        raise ValueError(f"{{{mismatched[0]}}} is not a name")
    return fields
