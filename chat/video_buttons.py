"""The buttons under a delivered video, and their callback data."""

from dataclasses import dataclass
from typing import Final

from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from chat.i18n import Translator
from chat.offer_text import shape_word
from ledger.models import Request, Video, VideoState
from ledger.offers import Terms
from ledger.retakes import TakeKind
from tools.offer import Offer
from tools.wishes import shape_of

TAKE: Final = "take:"
OTHER_WORDS: Final = "words:"
AS_FILE: Final = "file:"
DELETE: Final = "delete:"
CONFIRM_DELETE: Final = "gone:"
KEEP_VIDEO: Final = "stays:"

_KINDS: Final[dict[str, TakeKind]] = {"again": "again", "upright": "upright", "wide": "wide"}


@dataclass(frozen=True, slots=True)
class TakeButton:
    """What one button for another take says: of which video, what changes, and its number."""

    kind: TakeKind
    number: int
    short_id: str

    @property
    def data(self) -> str:
        return f"{TAKE}{self.kind}:{self.number}:{self.short_id}"

    @classmethod
    def from_data(cls, data: str | None) -> "TakeButton | None":
        """Return the button of a tap; None if that is none of ours."""
        kind, _, rest = (data or "").removeprefix(TAKE).partition(":")
        number, _, short_id = rest.partition(":")
        if kind not in _KINDS or not number.isdecimal() or not short_id:
            return None
        return cls(_KINDS[kind], int(number), short_id)


def size_of_take(offer: Offer, video: Video, kind: TakeKind) -> str | None:
    """Return the size of a take; None if it is not on offer, or the video has that shape already."""
    if kind == "again":
        return video.size if offer.terms(video.seconds, video.size) else None
    if shape_of(video.size) == kind:
        return None
    turned = "x".join(reversed(video.size.split("x")))
    sizes = [one for one in (turned, *offer.capabilities.sizes) if shape_of(one) == kind]
    return next((one for one in sizes if offer.terms(video.seconds, one) is not None), None)


def terms_of_take(offer: Offer, video: Video, kind: TakeKind) -> tuple[str, Terms] | None:
    """Return size and terms of a take now; None if it is not on offer."""
    size = size_of_take(offer, video, kind)
    terms = None if size is None else offer.terms(video.seconds, size, sound=video.sound is not False)
    return None if size is None or terms is None else (size, terms)


def video_buttons(
    t: Translator, offer: Offer, request: Request, video: Video, number: int, *, shares: bool
) -> InlineKeyboardMarkup | None:
    """Return what its person may do with a delivered video; None for one that is erased.

    Args:
        t: Texts in the person's language.
        offer: What may be ordered now; a take that is not on offer has no button.
        request: Of the video.
        video: Its length and shape are those of another take.
        number: Of the buttons for takes that are drawn now (`ledger.retakes.next_number`).
        shares: The bot has inline mode.
    """
    if request.erasure is not None:
        return None
    one, rows = request.short_id, []
    end = [_button(t("button_file"), f"{AS_FILE}{one}"), _button(t("button_delete"), f"{DELETE}{one}")]
    if video.kind == "image":
        return InlineKeyboardMarkup(inline_keyboard=[end])
    if (again := terms_of_take(offer, video, "again")) is not None:
        text = t("button_again", price=again[1].quote)
        rows.append([_button(text, TakeButton("again", number, one).data)])
    shapes = [
        _button(shape_word(t, kind).capitalize(), TakeButton(kind, number, one).data)
        for kind in ("upright", "wide")
        if terms_of_take(offer, video, kind) is not None
    ]
    rows.append([_button(t("button_words"), f"{OTHER_WORDS}{one}"), *shapes])
    share = [InlineKeyboardButton(text=t("button_share"), switch_inline_query=f"#{one}")] if shares else []
    rows.append([*share, *end])
    return InlineKeyboardMarkup(inline_keyboard=rows)


def confirm_delete_buttons(t: Translator, short_id: str) -> InlineKeyboardMarkup:
    """Return [Yes, delete] [No]: one tap alone deletes nothing."""
    row = [
        _button(t("button_yes_delete"), f"{CONFIRM_DELETE}{short_id}"),
        _button(t("button_no"), f"{KEEP_VIDEO}{short_id}"),
    ]
    return InlineKeyboardMarkup(inline_keyboard=[row])


def is_here(request: Request, video: Video | None) -> bool:
    """Return whether a request has a video that its person may see again."""
    return video is not None and video.state is VideoState.DELIVERED and request.erasure is None


def _button(text: str, data: str) -> InlineKeyboardButton:
    return InlineKeyboardButton(text=text, callback_data=data)
