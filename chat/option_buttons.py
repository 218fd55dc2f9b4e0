"""The keyboard of an offer: [Make it · price], its options once they are asked for, [Change] [Cancel]."""

from typing import Final

from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from chat.i18n import Translator
from chat.keyboards import OPTION, STILL, approval_buttons
from guardrails.money import Money
from ledger.models import Video
from tools.offer import Offer
from tools.options import NO_STYLE, options_of
from tools.styles import STYLES
from tools.wishes import shape_of

SHOW: Final = "show"
_IN_A_ROW: Final = 2
"""Telegram cuts what does not fit: on a phone a third of the width is too little for a price."""

Row = list[InlineKeyboardButton]


def offer_buttons(
    t: Translator, video: Video, offer: Offer | None, still: Money | None = None
) -> InlineKeyboardMarkup:
    """Return the buttons of an offer; without what is on offer now, those that need nothing of it.

    `still` is the price of one still of it; None: it has none to order.
    """
    first, last = approval_buttons(t, video).inline_keyboard
    if offer is None:
        return InlineKeyboardMarkup(inline_keyboard=[first, last])
    if not video.options_open:
        rows = [first, [_button(video, SHOW, "1", t("button_options"))], last]
        if still is not None:
            see = t("button_still", price=still)
            rows.insert(1, [InlineKeyboardButton(text=see, callback_data=f"{STILL}{video.nonce}")])
        return InlineKeyboardMarkup(inline_keyboard=rows)
    less = [_button(video, SHOW, "0", t("button_fewer"))]
    # [Make it] comes first: where [Options] was, a second tap meets what undoes the first, and never a price.
    return InlineKeyboardMarkup(inline_keyboard=[first, *_option_rows(t, video, offer), less, last])


def _option_rows(t: Translator, video: Video, offer: Offer) -> list[Row]:
    """Return rows for each option, with a mark at what the offer has; a choice of one is none."""
    options, shape = options_of(offer, video), shape_of(video.size)
    lengths = [
        _choice(video, "seconds", str(seconds), t("option_seconds", seconds=seconds, price=price),
                chosen=seconds == video.seconds)
        for seconds, price in options.lengths.items()
    ]  # fmt: skip
    shapes = [_choice(video, "shape", one, t(f"shape_{one}"), chosen=one == shape) for one in options.shapes]
    sounds = [
        _choice(video, "sound", value, t(name), chosen=video.with_sound == (value == "1"))
        for value, name in (("1", "offer_sound"), ("0", "offer_silent"))
        if options.sound
    ]
    return [row for one in (lengths, shapes, sounds, _styles(t, video)) if len(one) > 1 for row in _rows(one)]


def _rows(buttons: Row) -> list[Row]:
    return [buttons[at : at + _IN_A_ROW] for at in range(0, len(buttons), _IN_A_ROW)]


def _styles(t: Translator, video: Video) -> Row:
    """Return the styles; the chosen one is taken back with a second tap."""
    return [
        _choice(video, "style", NO_STYLE if word == video.style else word, t(f"style_{word}"),
                chosen=word == video.style)
        for word in STYLES
    ]  # fmt: skip


def _choice(video: Video, option: str, value: str, text: str, *, chosen: bool) -> InlineKeyboardButton:
    return _button(video, option, value, f"✓ {text}" if chosen else text)


def _button(video: Video, option: str, value: str, text: str) -> InlineKeyboardButton:
    return InlineKeyboardButton(text=text, callback_data=f"{OPTION}{video.short_id}:{option}:{value}")
