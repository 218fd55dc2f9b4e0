"""The packs of credits on sale for Telegram Stars, and what an invoice's payload says."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Final
from uuid import uuid4

CURRENCY: Final = "XTR"
PACKS: Final = 3
MAX_CREDITS: Final = 1000
MAX_STARS: Final = 10_000
"""Telegram's limit of one invoice in Stars."""

_PAYLOAD: Final = re.compile(r"credits:(\d{1,6}):(\d{1,6}):(\d{1,16}):[0-9a-f]{12}")


@dataclass(frozen=True, slots=True, order=True)
class Pack:
    """So many credits for so many Stars."""

    credits: int
    stars: int

    @property
    def name(self) -> str:
        """By which a payment's row names it."""
        return str(self.credits)


@dataclass(frozen=True, slots=True)
class StarShop:
    """What is on sale, and since when at these prices."""

    packs: tuple[Pack, ...]
    prices_of: date

    def pack(self, name: str) -> Pack | None:
        """Return the pack of this name at its price of now."""
        return next((one for one in self.packs if one.name == name), None)


@dataclass(frozen=True, slots=True)
class Invoice:
    """What a payload says: for whom it was made, and what was promised at which price."""

    pack: Pack
    user_id: int


def new_payload(pack: Pack, user_id: int) -> str:
    """Return the payload of a new invoice; only Telegram and this bot ever see it."""
    return f"credits:{pack.credits}:{pack.stars}:{user_id}:{uuid4().hex[:12]}"


def read_payload(payload: str) -> Invoice | None:
    """Return what a payload says; None if it is none of ours."""
    found = _PAYLOAD.fullmatch(payload)
    if found is None:
        return None
    credits_, stars, user_id = map(int, found.groups())
    return Invoice(Pack(credits_, stars), user_id)


def parse_packs(text: str) -> tuple[Pack, ...]:
    """Read `3:750, 10:2400, 25:5700`: credits and their price in Stars.

    Raises:
        ValueError: It is not three packs of different sizes within the limits.
    """
    packs = []
    for part in text.replace(",", " ").split():
        size, _, stars = part.partition(":")
        if not (size.isdecimal() and stars.isdecimal()):
            raise ValueError(f"{part!r} is not CREDITS:STARS, as in 3:750")
        packs.append(Pack(int(size), int(stars)))
    if len({one.credits for one in packs}) != PACKS or len(packs) != PACKS:
        raise ValueError(f"{text!r} is not {PACKS} packs of different sizes; write 3:750,10:2400,25:5700")
    for one in packs:
        if not (1 <= one.credits <= MAX_CREDITS and 1 <= one.stars <= MAX_STARS):
            raise ValueError(
                f"{one.credits}:{one.stars} is out of range: up to {MAX_CREDITS} credits, {MAX_STARS} Stars"
            )
    return tuple(sorted(packs))
