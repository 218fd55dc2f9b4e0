"""/alerts: what is open, and who has taken it on; [I take it on]. For admins alone."""

from typing import Final

from aiogram import Bot, F, Router
from aiogram.filters import Command, CommandObject
from aiogram.types import CallbackQuery, InlineKeyboardMarkup, Message

from chat.alert_list import open_text
from chat.context import ChatContext
from chat.handlers.operator import operator_name
from chat.handlers.user import is_for_them_alone
from chat.i18n import Translator
from chat.keyboards import ACKNOWLEDGE
from chat.replies import answer, answer_tap, edit_buttons
from chat.updates import clean
from ledger import operator_alerts
from telemetry.logs import get_logger

log = get_logger(__name__)

_BIGGEST: Final = 2**31
"""PostgreSQL refuses to compare an integer column with more."""


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="alerts")
    router.message.register(alerts, Command("alerts", ignore_case=True))
    router.callback_query.register(acknowledge, F.data.startswith(ACKNOWLEDGE))
    return router


async def alerts(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """`/alerts` lists what is open; `/alerts NUMBER` takes one on."""
    who = operator_name(ctx, message)
    number = clean(command.args or "").lstrip("#")
    if who is None:
        await answer(message, t("operators_only"))
    elif not await is_for_them_alone(message, bot, t, "alerts"):
        return
    elif number.isdecimal():
        await answer(message, await _acknowledge(ctx, t, int(number), who))
    else:
        await answer(message, await open_text(ctx, t) or t("alerts_none"))


async def acknowledge(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[I take it on]: write the admin's name; the buttons that resolve the cause stay."""
    who = operator_name(ctx, query)
    number = (query.data or "").removeprefix(ACKNOWLEDGE)
    if who is None:
        await answer_tap(query, t("tap_operators"))
        return
    if not number.isdecimal():
        await answer_tap(query, t("tap_gone"))
        return
    await answer_tap(query, await _acknowledge(ctx, t, int(number), who))
    await edit_buttons(query, _others(query))


async def _acknowledge(ctx: ChatContext, t: Translator, alert_id: int, who: str) -> str:
    found = None
    if alert_id < _BIGGEST:
        found = await operator_alerts.acknowledge(ctx.ledger, alert_id, who)
    if found is None:
        return t("alert_unknown", id=alert_id)
    if found.ack_who != who:
        return t("alert_taken_before", id=alert_id, who=found.ack_who)
    log.warning("alert taken on", alert=alert_id, subject=found.item.subject, who=who)
    return t("alert_taken", id=alert_id)


def _others(query: CallbackQuery) -> InlineKeyboardMarkup | None:
    """Return the buttons of the tapped message without [I take it on]."""
    keyboard = query.message.reply_markup if isinstance(query.message, Message) else None
    rows = [
        row
        for row in (keyboard.inline_keyboard if keyboard else ())
        if not any((button.callback_data or "").startswith(ACKNOWLEDGE) for button in row)
    ]
    return InlineKeyboardMarkup(inline_keyboard=rows) if rows else None
