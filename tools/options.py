"""What a person may choose on an offer: the lengths, shapes, sound and styles that its provider offers."""

from collections.abc import Mapping
from dataclasses import dataclass

from guardrails.money import Money
from ledger.models import Video
from ledger.options import Option, Wanted
from tools.offer import Offer
from tools.preferences import size_of_shape
from tools.styles import STYLES, with_style
from tools.wishes import Shape, shape_of

NO_STYLE = "-"
"""The value of the option `style` that takes a style back."""

_SHAPES: tuple[Shape, ...] = ("upright", "wide", "square")


@dataclass(frozen=True, slots=True)
class Options:
    """What may be chosen instead of what an offer has.

    Attributes:
        lengths: Seconds, and the price of the video with each.
        shapes: The shapes in which its length is on offer.
        sound: Whether it may be chosen with or without sound.
    """

    lengths: Mapping[int, Money]
    shapes: tuple[Shape, ...]
    sound: bool


def options_of(offer: Offer, video: Video) -> Options:
    """Return what may be chosen instead of what this offer has."""
    lengths = {}
    for seconds in offer.capabilities.seconds:
        new = wanted(offer, video, "seconds", str(seconds))
        if new is not None:
            lengths[seconds] = new.terms.quote
    shapes = tuple(one for one in _SHAPES if wanted(offer, video, "shape", one) is not None)
    return Options(lengths, shapes, all(wanted(offer, video, "sound", one) is not None for one in "01"))


def wanted(offer: Offer, video: Video, option: Option, value: str) -> Wanted | None:
    """Return what an offer becomes with one option changed; None: that is not on offer.

    Args:
        offer: What may be ordered now.
        video: The offer.
        option: What is changed.
        value: Seconds; a shape; `1` or `0` for sound; the word of a style, or `NO_STYLE`.
    """
    seconds, sound, style = video.seconds, video.with_sound, video.style
    size: str | None = video.size
    if option == "seconds":
        seconds = int(value) if value.isascii() and value.isdecimal() else 0
        size = _size_for(offer, video, seconds)
    elif option == "shape":
        shape = next((one for one in _SHAPES if one == value), None)
        size = None if shape is None else size_of_shape(offer, shape, seconds, video.size, sound=sound)
    elif option == "sound":
        if not offer.silenceable or value not in ("0", "1"):
            return None
        sound = value == "1"
    else:
        style = None if value == NO_STYLE else value
    if size is None or (option == "style" and style is not None and style not in STYLES):
        return None
    return _wanted(offer, video, seconds, size, sound, style)


def _size_for(offer: Offer, video: Video, seconds: int) -> str | None:
    """Return a size in which a length is on offer: of the offer's shape if there is one."""
    shapes = sorted(_SHAPES, key=lambda one: one != shape_of(video.size))
    found = (size_of_shape(offer, one, seconds, video.size, sound=video.with_sound) for one in shapes)
    return next((one for one in found if one is not None), None)


def _wanted(
    offer: Offer, video: Video, seconds: int, size: str, sound: bool, style: str | None
) -> Wanted | None:
    terms = offer.terms(seconds, size, sound=sound)
    if terms is None:
        return None
    kept = style == video.style  # its sentence is the row's own, also where the code has another by now
    prompt, sentence = (video.prompt, video.style_prompt) if kept else with_style(video.own_prompt, style)
    return Wanted(seconds, size, sound if offer.silenceable else None, style, sentence, prompt, terms)
