"""/stats: the figures of today, 7 or 30 days, for admins in a private chat."""

from typing import Final

from aiogram import Bot, F, Router
from aiogram.filters import Command
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message

from chat.context import ChatContext
from chat.handlers.operator import operator_name
from chat.handlers.user import is_for_them_alone
from chat.i18n import Translator
from chat.replies import answer, answer_tap, edit_text
from ledger import stats

STATS: Final = "stats:"
PERIODS: Final = (1, 7, 30)
"""UTC days, today included."""


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="stats")
    router.message.register(show, Command("stats", ignore_case=True))
    router.callback_query.register(switch, F.data.startswith(STATS))
    return router


async def show(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Show today's figures, with buttons for the other periods."""
    if operator_name(ctx, message) is None:
        await answer(message, t("operators_only"))
    elif await is_for_them_alone(message, bot, t, "stats"):
        await answer(message, await _text(ctx, t, PERIODS[0]), _buttons(t, PERIODS[0]))


async def switch(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Show another period in the same message, or the same one as it is now."""
    days = (query.data or "").removeprefix(STATS)
    if operator_name(ctx, query) is None:
        await answer_tap(query, t("tap_operators"))
    elif days not in map(str, PERIODS):
        await answer_tap(query, t("tap_gone"))
    else:
        await edit_text(query, await _text(ctx, t, int(days)), _buttons(t, int(days)))
        await answer_tap(query)


async def _text(ctx: ChatContext, t: Translator, days: int) -> str:
    found = await stats.read(ctx.ledger, days)
    costs = found.costs
    return t(
        "stats", period=_name(t, days), videos=costs.videos, commands=costs.commands,
        charged=costs.charged, refunded=costs.credited, paid=costs.paid, reserved=costs.held,
        refused=found.refused, on_hold=found.on_hold,
    )  # fmt: skip


def _name(t: Translator, days: int) -> str:
    return t("button_today") if days == 1 else t.days(days)


def _buttons(t: Translator, shown: int) -> InlineKeyboardMarkup:
    names = {days: _name(t, days) for days in PERIODS}
    row = [
        InlineKeyboardButton(text=f"✓ {name}" if days == shown else name, callback_data=f"{STATS}{days}")
        for days, name in names.items()
    ]
    return InlineKeyboardMarkup(inline_keyboard=[row])
