"""The styles that a person may choose for a video, and the fixed sentence that asks a provider for each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

STYLES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "realistic": "Style: realistic live-action footage with natural light and true colours.",
        "animation": "Style: 3D animated film with soft light and rounded shapes.",
        "anime": "Style: hand-drawn anime with clean lines and painted backgrounds.",
        "watercolour": "Style: moving watercolour painting with soft edges on white paper.",
        "clay": "Style: stop-motion clay animation with handmade figures.",
        "black_and_white": "Style: black-and-white film with soft grain and strong contrast.",
    }
)
"""Each style's word, as rows, buttons and texts name it, and its sentence. Fixed words: they need no policy.

An order keeps the sentence that it was made with, so that changing one here changes no order.
"""


def with_style(prompt: str, style: str | None) -> tuple[str, str | None]:
    """Return what is sent for a prompt in this style, and the sentence that was added to it."""
    sentence = STYLES.get(style or "")
    return (prompt, None) if sentence is None else (f"{prompt.rstrip()} {sentence}", sentence)
