"""Inline keyboards and their callback data.

A button only names what was offered; what a tap may do is decided from the ledger.
"""

from collections.abc import Callable
from typing import Final

from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup

from chat.i18n import Translator
from guardrails.money import Money
from ledger.breaker import OpenBreaker
from ledger.models import Video

APPROVE: Final = "make:"
DECLINE: Final = "drop:"
CHANGE_IDEA: Final = "edit:"
TAKE_IDEA: Final = "idea:yes"
DECLINE_IDEA: Final = "idea:no"
TAKE_WORDS: Final = "idea:words"
ALLOW_PICTURE: Final = "mine:"
TAKE_EXAMPLE: Final = "example:"
SHOW_PRICES: Final = "show:prices"
SHOW_LEFT: Final = "show:left"
OPTION: Final = "opt:"
STILL: Final = "still:"
STOP: Final = "stop:"
PAID_HELP: Final = "paid:"
UNPAID: Final = "unpaid:"
CONFIRM_UNPAID: Final = "really:"
BACK: Final = "keep:"
CLOSE_BREAKER: Final = "close:"
ACKNOWLEDGE: Final = "alert:take:"

HoldButtons = Callable[[Translator, str, int], InlineKeyboardMarkup]


def approval_buttons(t: Translator, video: Video) -> InlineKeyboardMarkup:
    """Return [Make it · price], [Change] [Cancel], with the order's nonce: a double tap is one approval.

    Under a picture, [This is me, or I may use it] comes first, in place of [Make it].
    """
    make = InlineKeyboardButton(
        text=t("button_make", price=video.quote), callback_data=f"{APPROVE}{video.nonce}"
    )
    if video.asks_for_rights:
        mine = f"{ALLOW_PICTURE}{video.nonce}"
        make = InlineKeyboardButton(text=t("button_allow_picture"), callback_data=mine)
    change = InlineKeyboardButton(text=t("button_change"), callback_data=f"{CHANGE_IDEA}{video.short_id}")
    decline = InlineKeyboardButton(text=t("button_cancel"), callback_data=f"{DECLINE}{video.nonce}")
    return InlineKeyboardMarkup(inline_keyboard=[[make], [change, decline]])


def still_buttons(t: Translator, video: Video) -> InlineKeyboardMarkup:
    """Return [Make it · price] [Cancel] under the offer of a still."""
    return _row(
        (t("button_make", price=video.quote), f"{APPROVE}{video.nonce}"),
        (t("button_cancel"), f"{DECLINE}{video.nonce}"),
    )


def idea_buttons(t: Translator) -> InlineKeyboardMarkup:
    """Return [Yes, show me] [No] under a question about the message that it replies to."""
    return _row((t("button_yes_show"), TAKE_IDEA), (t("button_no"), DECLINE_IDEA))


def words_buttons(t: Translator, price: Money) -> InlineKeyboardMarkup:
    """Return [Make it from the words · price] [No] under a message about a picture that cannot be used."""
    words = InlineKeyboardButton(text=t("button_only_words", price=price), callback_data=TAKE_WORDS)
    no = InlineKeyboardButton(text=t("button_no"), callback_data=DECLINE_IDEA)
    return InlineKeyboardMarkup(inline_keyboard=[[words], [no]])


EXAMPLES: Final = ("example_1", "example_2", "example_3")
"""Names of the ideas that a newcomer may tap."""


def welcome_buttons(t: Translator) -> InlineKeyboardMarkup:
    """Return three ideas, and below them [Prices] [What is left]."""
    rows = [[InlineKeyboardButton(text=t(name), callback_data=f"{TAKE_EXAMPLE}{name}")] for name in EXAMPLES]
    more = ((t("button_prices"), SHOW_PRICES), (t("button_left"), SHOW_LEFT))
    rows.append([InlineKeyboardButton(text=text, callback_data=data) for text, data in more])
    return InlineKeyboardMarkup(inline_keyboard=rows)


def stop_buttons(t: Translator, short_id: str) -> InlineKeyboardMarkup:
    """Return [Cancel] under a request that nothing was charged for yet."""
    return _row((t("button_cancel"), f"{STOP}{short_id}"))


def link_button(text: str, url: str) -> InlineKeyboardMarkup:
    """Return one button that opens a link."""
    return InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text=text, url=url)]])


def change_buttons(t: Translator, short_id: str) -> InlineKeyboardMarkup:
    """Return [Change idea] under a refusal that other words may avoid."""
    return _row((t("button_change_idea"), f"{CHANGE_IDEA}{short_id}"))


def offer_nonce(data: str | None) -> str | None:
    """Return the nonce of the offer that a tap is about; None for any other tap."""
    for prefix in (APPROVE, DECLINE, ALLOW_PICTURE):
        if data is not None and data.startswith(prefix):
            return data.removeprefix(prefix)
    return None


def hold_buttons(t: Translator, short_id: str, held_at: int) -> InlineKeyboardMarkup:
    """Return [Paid …] [Unpaid …] for an operator alert; `held_at` identifies the HOLD."""
    return _row(
        (t("button_paid"), f"{PAID_HELP}{short_id}:{held_at}"),
        (t("button_unpaid"), f"{UNPAID}{short_id}:{held_at}"),
    )


def confirm_buttons(t: Translator, short_id: str, held_at: int) -> InlineKeyboardMarkup:
    """Return [Yes, nothing was charged] [Back]: one tap alone never releases money."""
    return _row(
        (t("button_really"), f"{CONFIRM_UNPAID}{short_id}:{held_at}"),
        (t("button_back"), f"{BACK}{short_id}:{held_at}"),
    )


def breaker_buttons(t: Translator, opened: OpenBreaker) -> InlineKeyboardMarkup:
    """Return [Close breaker]; it closes this opening and no later one."""
    return _row((t("button_close", scope=opened.scope), f"{CLOSE_BREAKER}:{opened.at}:{opened.scope}"))


def _row(*buttons: tuple[str, str]) -> InlineKeyboardMarkup:
    row = [InlineKeyboardButton(text=text, callback_data=data) for text, data in buttons]
    return InlineKeyboardMarkup(inline_keyboard=[row])


REPORT_SEE: Final = "report:see:"
REPORT_BAN: Final = "report:ban:"
REPORT_CONFIRM: Final = "report:really:"
REPORT_BACK: Final = "report:back:"
REPORT_DISMISS: Final = "report:dismiss:"


def report_buttons(t: Translator, report_id: int) -> InlineKeyboardMarkup:
    """Return [See the video], and below it [Ban …] [Dismiss]."""
    see, *decide = [
        InlineKeyboardButton(text=t(name), callback_data=f"{prefix}{report_id}")
        for name, prefix in (
            ("button_see", REPORT_SEE), ("button_ban", REPORT_BAN), ("button_dismiss", REPORT_DISMISS),
        )
    ]  # fmt: skip
    return InlineKeyboardMarkup(inline_keyboard=[[see], decide])


def confirm_ban_buttons(t: Translator, report_id: int, user_id: int) -> InlineKeyboardMarkup:
    """Return [Yes, ban USER] [Back]."""
    return _row(
        (t("button_really_ban", user_id=user_id), f"{REPORT_CONFIRM}{report_id}"),
        (t("button_back"), f"{REPORT_BACK}{report_id}"),
    )
