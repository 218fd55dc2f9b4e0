"""Money: an integer number of micro-dollars, with a type of its own so that no float can get in."""

import re
from dataclasses import dataclass
from typing import Self

MICROS_PER_DOLLAR = 1_000_000
_DOLLARS = re.compile(r"\$?([0-9]{1,9})(?:\.([0-9]{1,6}))?")


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An amount of United States dollars, counted in millionths (the unit of every column and Lua number).

    Adding, subtracting, comparing and multiplying by a whole number stay exact; anything with a float raises.
    """

    micros: int = 0

    def __post_init__(self) -> None:
        if type(self.micros) is not int:
            raise TypeError(f"micro-dollars are whole numbers, not {self.micros!r}")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `$3`, `3.00` or `$0.375` exactly.

        Raises:
            ValueError: `text` is not an amount of dollars with at most six decimals.
        """
        match = _DOLLARS.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is not an amount of dollars such as '$15' or '$0.375'")
        whole, part = match[1], match[2] or ""
        return cls(int(whole) * MICROS_PER_DOLLAR + int(part.ljust(6, "0") or 0))

    @classmethod
    def exact(cls, value: object) -> Self:
        """Return an amount from a price list: text, as `parse` reads it. YAML makes floats of bare numbers.

        Raises:
            ValueError: It is no text.
        """
        if isinstance(value, cls):
            return value
        if isinstance(value, str):
            return cls.parse(value)
        raise ValueError(f"{value!r} is not exact; write amounts as text, such as '$0.10'")

    def __add__(self, other: Self) -> Self:
        return type(self)(self.micros + other.micros)

    def __sub__(self, other: Self) -> Self:
        return type(self)(self.micros - other.micros)

    def __mul__(self, times: int) -> Self:
        return type(self)(self.micros * times)

    def __bool__(self) -> bool:
        return self.micros != 0

    def __str__(self) -> str:
        """The amount as people read it: `$3.00`; a third decimal only where there is one."""
        sign, (whole, part) = "-" if self.micros < 0 else "", divmod(abs(self.micros), MICROS_PER_DOLLAR)
        return f"{sign}${whole}.{f'{part:06d}'.rstrip('0').ljust(2, '0')}"


ZERO = Money(0)
DOLLAR = Money(MICROS_PER_DOLLAR)
