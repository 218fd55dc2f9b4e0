"""Which length, size, sound and style an order has.

The idea's own words come first, then what its person usually chooses, then what the model wrote.

What the provider does not offer is left out at each step, so that an old choice never blocks an order.
"""

from dataclasses import dataclass
from itertools import product

from ledger.people import Person
from tools.offer import Offer
from tools.styles import STYLES
from tools.wishes import Shape, Wish, shape_of


@dataclass(frozen=True, slots=True)
class Preferences:
    """What an order is made with.

    Attributes:
        seconds, size: Its length and its size, as on offer.
        sound: With sound; None where the model has no switch for it.
        style: The word of a style; None: none.
    """

    seconds: int
    size: str
    sound: bool | None = None
    style: str | None = None


def settle(offer: Offer, wish: Wish, person: Person, seconds: int, size: str) -> Preferences:
    """Return what an order is made with for which the model wrote `seconds` and `size`.

    Where the model's own values are not on offer and nothing better is known, they come back as they are: the
    price list then says what is.
    """
    sound = _sound(offer, wish, person)
    with_sound = sound is not False
    lengths, sizes = _lengths(wish, person, seconds), _sizes(offer, wish, person, size)
    ways = sorted(
        product(lengths, sizes), key=lambda way: _misses(wish, *way)
    )  # the order stays among equals
    for one, other in ways:
        if offer.offers(one, other, sound=with_sound):
            return Preferences(one, other, sound, _style(wish, person))
    return Preferences(seconds, size, None if sound is None else True, _style(wish, person))


def size_of_shape(offer: Offer, shape: Shape, seconds: int, size: str, *, sound: bool = True) -> str | None:
    """Return the size of this shape that is on offer and nearest to `size`; None: there is none."""
    fine = _short_side(size)
    found = [
        one for one in offer.capabilities.sizes
        if shape_of(one) == shape and offer.offers(seconds, one, sound=sound)
    ]  # fmt: skip
    return min(found, key=lambda one: (one != size, abs(_short_side(one) - fine)), default=None)


def _short_side(size: str) -> int:
    return min(int(side) for side in size.split("x"))


def _lengths(wish: Wish, person: Person, seconds: int) -> list[int]:
    """Return the lengths to try, best first. One that the idea names replaces the usual one."""
    first = person.default_seconds if wish.seconds is None else wish.seconds
    return [seconds] if first is None else [first, seconds]


def _sizes(offer: Offer, wish: Wish, person: Person, size: str) -> list[str]:
    usual = [size] if person.default_size is None else [person.default_size, size]
    if wish.shape is None:
        return usual
    fitting = [one for one in (*usual, *offer.capabilities.sizes) if _has_shape(one, wish.shape)]
    return [*fitting, size]


def _misses(wish: Wish, seconds: int, size: str) -> int:
    """Return how much of what the idea names this is not."""
    shape = wish.shape
    return (wish.seconds not in (None, seconds)) + (shape is not None and not _has_shape(size, shape))


def _has_shape(size: str, shape: Shape) -> bool:
    try:
        return shape_of(size) == shape
    except ValueError:  # the model wrote something else
        return False


def _sound(offer: Offer, wish: Wish, person: Person) -> bool | None:
    if not offer.silenceable:
        return None
    named = person.sound if wish.sound is None else wish.sound
    return True if named is None else named


def _style(wish: Wish, person: Person) -> str | None:
    return person.style if person.style in STYLES and not wish.look else None
