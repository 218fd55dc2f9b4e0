"""Inline mode: a person's own videos, in any chat that they choose.

Needs `/setinline` at BotFather. No one is ever offered another person's video.
"""

from html import escape
from typing import Final

from aiogram import Bot, Router
from aiogram.enums import ParseMode
from aiogram.exceptions import AiogramError, TelegramBadRequest
from aiogram.types import InlineQuery, InlineQueryResultCachedVideo

from chat.context import ChatContext
from chat.replies import REPLY_TIMEOUT_S
from chat.status_message import fit_utf16
from ledger import shares
from ledger.shares import SharedVideo
from telemetry.logs import get_logger
from tools.text import trimmed

log = get_logger(__name__)

_MOST: Final = 10
_CACHE_S: Final = 1
"""How long Telegram repeats an answer: a deleted video must not be offered for longer."""

_TITLE_CHARACTERS: Final = 60
_CAPTION_UNITS: Final = 600


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="inline")
    router.inline_query.register(offer_videos)
    return router


async def offer_videos(query: InlineQuery, bot: Bot, ctx: ChatContext) -> None:
    """Answer with the person's own delivered videos: those that the query names, or the latest ones."""
    wanted = query.query.strip().lstrip("#").lower()
    found = await shares.own_videos(ctx.ledger, query.from_user.id, bot.id, wanted, _MOST)
    if not await _answer(query, bot, [_result(one) for one in found]):
        await _answer(query, bot, [])


async def _answer(query: InlineQuery, bot: Bot, results: list[InlineQueryResultCachedVideo]) -> bool:
    """Answer; False if Telegram refuses a result, as a video without sound, which it made an animation."""
    try:
        await bot.answer_inline_query(
            query.id, list(results), cache_time=_CACHE_S, is_personal=True, request_timeout=REPLY_TIMEOUT_S
        )
    except TelegramBadRequest as error:
        log.warning("inline query not answered", why=error.message)
        return not results
    except AiogramError as error:
        log.warning("inline query not answered", error=type(error).__name__)
    return True


def _result(one: SharedVideo) -> InlineQueryResultCachedVideo:
    return InlineQueryResultCachedVideo(
        id=one.short_id,
        video_file_id=one.file_id,
        title=f"#{one.short_id} · {trimmed(one.idea, _TITLE_CHARACTERS)}",
        caption=escape(fit_utf16(one.caption or one.idea, _CAPTION_UNITS)),
        parse_mode=ParseMode.HTML,
    )
