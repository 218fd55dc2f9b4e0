"""Alerts: what a person must look at reaches the log and every admin, once for each state it stands in."""

import asyncio
from html import escape
from typing import Final

from aiogram.exceptions import TelegramAPIError
from aiogram.types import InlineKeyboardMarkup
from sqlalchemy.exc import SQLAlchemyError

from chat.answers import ANSWER_S
from chat.desk import Desk
from chat.keyboards import breaker_buttons, hold_buttons
from chat.texts import texts
from ledger import breaker
from ledger.breaker import OpenBreaker
from ledger.rows import Request, Video
from ledger.words import VideoState
from telemetry.logs import get_logger

log = get_logger(__name__)

_OPERATORS: Final = frozenset({"invalid", "auth", "funds"})
"""Refusals of the provider that only the operator can mend."""

_ENGLISH: Final = texts("en")
"""An admin's language is known only once they write; alerts come unasked."""

_ONCE_S: Final = 86_400
"""A user who cannot be told keeps the state untold; the admins are reminded of it once a day."""


def needs_operator(video: Video | None) -> bool:
    """Say whether a person must look at this video."""
    if video is None:
        return False
    if video.state in (VideoState.HOLD, VideoState.FAILED_PAID):
        return True
    return video.state is VideoState.FAILED_UNPAID and video.failure in _OPERATORS


async def alert(desk: Desk, request: Request, video: Video | None) -> None:
    """Tell the admins, once for each state, whether or not the user can be reached. It never raises."""
    if video is None or request.told == video.state or not needs_operator(video):
        return
    if not desk.hush.first("alert", request.request_id, video.updated_at, seconds=_ONCE_S):
        return
    log.error("operator needed", request=request.request_id, state=video.state, failure=video.failure)
    words = (
        f"#{request.short_id} is <b>{video.state}</b> ({video.failure or 'no word'}), "
        f"{video.provider}, quoted {video.quote}."
    )
    if video.state is VideoState.HOLD:
        words += (
            "\nLook it up at the provider, then:"
            f"\n<code>python -m bot resolve {request.short_id} paid JOB_ID</code>"
            f"\n<code>python -m bot resolve {request.short_id} unpaid</code>"
            f"\n(paid, and no video will come: <code>gone JOB_ID</code>)"
            f"\nor here: <code>/resolve #{request.short_id} paid JOB_ID</code>"
        )
    held = video.state is VideoState.HOLD
    await _send(desk, words, hold_buttons(_ENGLISH, request.short_id, video.updated_at) if held else None)


async def _send(desk: Desk, words: str, buttons: InlineKeyboardMarkup | None) -> int:
    """Send to every admin; return how many were reached."""
    reached = 0
    for admin in sorted(desk.admins):
        try:
            await desk.bot.send_message(admin, words, reply_markup=buttons, request_timeout=ANSWER_S)
            reached += 1
        except TelegramAPIError as error:
            log.warning("an admin was not reached", admin=admin, error=type(error).__name__)
    return reached


async def watch_breakers(desk: Desk) -> None:
    """Tell of each breaker that opens, until cancelled. Every worker looks; the ledger says who tells."""
    while True:
        try:
            await tell_openings(desk)
        except (SQLAlchemyError, OSError) as error:
            log.warning("breakers cannot be read", error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - the loop that calls for help must not end
            log.error("telling of breakers failed", error=type(error).__name__)
        await asyncio.sleep(desk.studio.pace.sweep_s)


async def tell_openings(desk: Desk) -> None:
    """Tell the log and every admin of openings that nobody was told of: each once, whoever else looks."""
    for one in await breaker.opened(desk.ledger):
        if one.told or not await breaker.take_news(desk.ledger, one):
            continue
        log.error("breaker open: paid work is stopped", scope=one.scope, why=one.why)
        if desk.admins and not await _send(desk, _opening(one), breaker_buttons(_ENGLISH, one)):
            await breaker.give_news_back(desk.ledger, one)


def _opening(one: OpenBreaker) -> str:
    return (
        f"<b>Paid work is stopped for {escape(one.scope)}</b>: {escape(one.why)}."
        "\nOrders that wait go on when it is closed, or end unpaid after 30 minutes. Look, then close it"
        f"\nhere, by <code>/breaker close {escape(one.scope)}</code>"
        f"\nor <code>python -m bot breaker close {escape(one.scope)}</code>"
    )
