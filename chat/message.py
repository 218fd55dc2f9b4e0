"""The status message: sent once, then edited, and sent anew where it is gone."""

import time

from aiogram.enums import ParseMode
from aiogram.exceptions import TelegramBadRequest, TelegramNotFound

from chat.delivery import NOT_MODIFIED, reply_to
from chat.desk import Desk, Teller
from chat.status import View
from ledger import requests
from ledger.models import Request
from telemetry.logs import get_logger

log = get_logger(__name__)


async def show(desk: Desk, teller: Teller, request: Request, view: View) -> bool:
    """Send or edit the status message if its text changed; False if it is too early to edit."""
    if view.text == teller.text:
        return True
    if request.status_message_id is None:
        await _first(desk, request, view)
    elif time.monotonic() < teller.free_at:
        return False
    else:
        await _edit(desk, request, request.status_message_id, view)
    teller.text = view.text
    teller.free_at = time.monotonic() + desk.manners.between_edits(request.chat_id)
    return True


async def _first(desk: Desk, request: Request, view: View) -> None:
    sent = await desk.bot.send_message(
        request.chat_id,
        view.text,
        parse_mode=ParseMode.HTML,
        reply_markup=view.keyboard,
        reply_parameters=reply_to(request),
    )
    await requests.note(desk.ledger, request.request_id, status_message_id=sent.message_id)


async def _edit(desk: Desk, request: Request, message_id: int, view: View) -> None:
    try:
        await desk.bot.edit_message_text(
            view.text,
            chat_id=request.chat_id,
            message_id=message_id,
            parse_mode=ParseMode.HTML,
            reply_markup=view.keyboard,
        )
    except (TelegramBadRequest, TelegramNotFound) as error:
        if NOT_MODIFIED in error.message:
            return
        log.warning(
            "the status message is gone; a new one is sent", request=request.request_id, why=error.message
        )
        await _first(desk, request, view)
