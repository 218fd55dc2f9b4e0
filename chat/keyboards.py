"""Inline buttons. What a tap may do stands in the ledger; a button carries only which one was meant."""

from collections.abc import Callable
from typing import Final

from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from chat.i18n import Translator
from ledger.breaker import OpenBreaker
from ledger.models import Video

MAKE: Final = "make:"
DROP: Final = "drop:"
HOW_PAID: Final = "paid:"
UNPAID: Final = "unpaid:"
REALLY: Final = "really:"
KEEP: Final = "keep:"
CLOSE: Final = "close:"

HoldButtons = Callable[[Translator, str, int], InlineKeyboardMarkup]


def approval_buttons(t: Translator, video: Video) -> InlineKeyboardMarkup:
    """Return [Make it · price] [Cancel]; the nonce was minted with the order, so a double tap is one act."""
    make = InlineKeyboardButton(
        text=t("button_make", price=video.quote), callback_data=f"{MAKE}{video.nonce}"
    )
    drop = InlineKeyboardButton(text=t("button_cancel"), callback_data=f"{DROP}{video.nonce}")
    return InlineKeyboardMarkup(inline_keyboard=[[make, drop]])


def offer_nonce(data: str | None) -> str | None:
    """Return the nonce of the offer that a tap decides about; None for any other tap."""
    for prefix in (MAKE, DROP):
        if data is not None and data.startswith(prefix):
            return data.removeprefix(prefix)
    return None


def hold_buttons(t: Translator, short_id: str, held_at: int) -> InlineKeyboardMarkup:
    """Return [Paid …] [Unpaid …] under an operator's alert; `held_at` says which HOLD was meant."""
    return _row(
        (t("button_paid"), f"{HOW_PAID}{short_id}:{held_at}"),
        (t("button_unpaid"), f"{UNPAID}{short_id}:{held_at}"),
    )


def confirm_buttons(t: Translator, short_id: str, held_at: int) -> InlineKeyboardMarkup:
    """Return [Yes, nothing was charged] [Back]: money is not given back by one tap."""
    return _row(
        (t("button_really"), f"{REALLY}{short_id}:{held_at}"),
        (t("button_back"), f"{KEEP}{short_id}:{held_at}"),
    )


def breaker_buttons(t: Translator, one: OpenBreaker) -> InlineKeyboardMarkup:
    """Return [Close breaker]; it closes this opening and no later one."""
    return _row((t("button_close", scope=one.scope), f"{CLOSE}:{one.at}:{one.scope}"))


def _row(*buttons: tuple[str, str]) -> InlineKeyboardMarkup:
    row = [InlineKeyboardButton(text=text, callback_data=data) for text, data in buttons]
    return InlineKeyboardMarkup(inline_keyboard=[row])
