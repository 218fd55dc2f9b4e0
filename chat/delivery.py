"""Sends the finished video to Telegram; safe to repeat until Telegram confirms it."""

import asyncio
import math
from contextlib import suppress
from pathlib import Path
from typing import Final

from aiogram.enums import ChatAction, ParseMode
from aiogram.exceptions import AiogramError, TelegramBadRequest, TelegramNotFound
from aiogram.methods import SendChatAction
from aiogram.types import (
    FSInputFile,
    InlineKeyboardMarkup,
    InputMediaPhoto,
    InputMediaVideo,
    Message,
    ReplyParameters,
)

from chat.context import ChatContext
from chat.i18n import translator
from chat.sent_videos import first_buttons
from chat.status_message import delivery_caption
from chat.updates import NOT_MODIFIED
from ledger import notifications, transitions
from ledger.due_work import ClaimedRequest
from ledger.models import Request, Video
from providers.video_file import COVER_SUFFIX
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.semconv import FETCH
from worker.poll import fetch_video
from worker.tracing import video_step

log = get_logger(__name__)

_ACTION_S: Final = 2


def _upload_s(ctx: ChatContext) -> int:
    return math.ceil(ctx.edit_limits.upload_s)


def reply_to(request: Request, message_id: int | None = None) -> ReplyParameters | None:
    """Return reply parameters for `message_id`, else for the command, so that a group sees who is meant."""
    above = message_id or request.message_id
    return ReplyParameters(message_id=above, allow_sending_without_reply=True) if above else None


async def deliver(ctx: ChatContext, claimed: ClaimedRequest) -> bool:
    """Send a finished video to its user and record DELIVERED; return whether this call recorded it.

    Uses `editMessageMedia` on the status message, which can be repeated without a second message, and
    `sendVideo` where that message cannot be edited. A lost answer may repeat a message, never a charge.
    Each part ends before the lease does, and renews it for the next.

    Raises:
        LeaseLost: Another process delivers it.
    """
    request, limits = claimed.request, ctx.edit_limits
    video = await _with_asset(ctx, claimed)
    caption = delivery_caption(request, video, video.cost, preview=ctx.is_preview(video.provider))
    buttons = await first_buttons(ctx, request, video)
    await _say_uploading(ctx, request, video)
    async with asyncio.timeout(limits.upload_s + limits.lease_s / 2):
        sent = await _edit(ctx, request, video, caption, buttons)
    if sent is False:
        if request.status_message_id:
            await _renew(ctx, claimed)
        async with asyncio.timeout(limits.upload_s + limits.lease_s / 2):
            sent = await _send(ctx, request, video, caption, buttons)
        await remove_replaced(ctx, request)
    await failpoint("video_sent")
    # "Not modified" answers without the message: the file is there, and its id may stay unknown.
    message_id, file_id = request.status_message_id, video.file_id
    if isinstance(sent, Message):
        message_id, file_id = sent.message_id, _file_id(sent)
    moved = await asyncio.shield(
        transitions.mark_delivered(ctx.ledger, claimed, file_id, message_id, limits.lease_s)
    )
    if moved:
        log.info("video delivered", request=request.request_id)
    return moved


async def _say_uploading(ctx: ChatContext, request: Request, video: Video) -> None:
    """Show above the chat that a video or a still is being sent; a failure costs nothing."""
    does = ChatAction.UPLOAD_VIDEO if video.kind == "video" else ChatAction.UPLOAD_PHOTO
    action = SendChatAction(chat_id=request.chat_id, action=does, message_thread_id=request.message_thread_id)
    with suppress(AiogramError):
        await ctx.bot(action, request_timeout=_ACTION_S)


async def remove_replaced(ctx: ChatContext, request: Request) -> None:
    """Remove the status message in whose place another was sent, or correct it: it would claim to be current.

    It is tried once, before the new one's id is stored, and within the lease. A message that is gone needs
    nothing, and a failure must not send the new one again.
    """
    if not request.status_message_id:
        return
    try:
        async with asyncio.timeout(ctx.edit_limits.lease_s / 4):
            await _remove(ctx, request, request.status_message_id)
    except (AiogramError, TimeoutError) as error:
        log.info("replaced message left", request=request.request_id, error=type(error).__name__)


async def _remove(ctx: ChatContext, request: Request, message_id: int) -> None:
    try:
        await ctx.bot.delete_message(request.chat_id, message_id)
    except TelegramBadRequest:  # it is older than 48 hours, or it is gone
        text = translator(request.language)("replaced", id=request.short_id)
        await ctx.bot.edit_message_text(text, chat_id=request.chat_id, message_id=message_id)


async def _renew(ctx: ChatContext, claimed: ClaimedRequest) -> None:
    await notifications.renew(ctx.ledger, claimed, ctx.edit_limits.upload_lease_s)


def _file_id(sent: Message) -> str | None:
    """Return Telegram's file id. Telegram turns a video without sound into an animation."""
    largest = sent.photo[-1] if sent.photo else None
    shown = sent.video or sent.animation or largest or sent.document
    return shown.file_id if shown else None


async def _with_asset(ctx: ChatContext, claimed: ClaimedRequest) -> Video:
    """Return the video with its file on disk; a missing file is downloaded again, which costs nothing."""
    video = claimed.video
    if video is None:
        raise LookupError(f"request {claimed.request.request_id} has no video")
    path = ctx.worker.asset_path(video)
    if video.file_id is None and not path.exists():
        provider = ctx.worker.provider_of(video)
        if provider is None:
            raise FileNotFoundError(f"{path.name} is gone, and account {video.account} is not configured")
        log.warning("video file missing, downloading again", request=video.request_id)
        with video_step(FETCH, provider=provider.name):
            async with asyncio.timeout(ctx.edit_limits.upload_s):
                await fetch_video(ctx.worker, provider, video)
        await _renew(ctx, claimed)
    return video


def _still(video: Video, path: Path, caption: str) -> InputMediaPhoto:
    media = video.file_id or FSInputFile(path, filename="onetake.jpg")
    return InputMediaPhoto(media=media, caption=caption, parse_mode=ParseMode.HTML)


def _media(video: Video, path: Path, caption: str) -> InputMediaVideo:
    # The film's own: Telegram draws what it is told. The version before stored neither.
    ordered_width, ordered_height = (int(part) for part in video.size.split("x"))
    thumbnail, cover = path.with_suffix(".jpg"), path.with_suffix(COVER_SUFFIX)
    return InputMediaVideo(
        media=video.file_id or FSInputFile(path, filename="onetake.mp4"),
        thumbnail=FSInputFile(thumbnail) if thumbnail.exists() else None,
        cover=FSInputFile(cover) if cover.exists() else None,
        caption=caption,
        parse_mode=ParseMode.HTML,
        width=video.asset_width or ordered_width,
        height=video.asset_height or ordered_height,
        duration=video.asset_seconds or video.seconds,
        supports_streaming=True,
    )


async def _edit(
    ctx: ChatContext, request: Request, video: Video, caption: str, buttons: InlineKeyboardMarkup | None
) -> Message | bool:
    """Replace the status message by the video; False if that message cannot be edited."""
    if not request.status_message_id:  # there is none, or Telegram gave it no id
        return False
    made = _media if video.kind == "video" else _still
    media = made(video, ctx.worker.asset_path(video), caption)
    try:
        return await ctx.bot.edit_message_media(
            media,
            chat_id=request.chat_id,
            message_id=request.status_message_id,
            reply_markup=buttons,
            request_timeout=_upload_s(ctx),
        )
    except (TelegramBadRequest, TelegramNotFound) as error:
        if NOT_MODIFIED in error.message:
            return True
        log.warning("status message cannot be replaced", request=request.request_id, why=error.message)
        return False


async def _send(
    ctx: ChatContext, request: Request, video: Video, caption: str, buttons: InlineKeyboardMarkup | None
) -> Message:
    path = ctx.worker.asset_path(video)
    if video.kind == "image":
        return await ctx.bot.send_photo(
            request.chat_id,
            _still(video, path, caption).media,
            message_thread_id=request.message_thread_id,
            caption=caption,
            parse_mode=ParseMode.HTML,
            reply_parameters=reply_to(request),
            reply_markup=buttons,
            request_timeout=_upload_s(ctx),
        )
    media = _media(video, path, caption)
    return await ctx.bot.send_video(
        request.chat_id,
        media.media,
        message_thread_id=request.message_thread_id,
        duration=media.duration,
        width=media.width,
        height=media.height,
        thumbnail=media.thumbnail,
        cover=media.cover,
        caption=media.caption,
        parse_mode=ParseMode.HTML,
        supports_streaming=True,
        reply_parameters=reply_to(request),
        reply_markup=buttons,
        request_timeout=_upload_s(ctx),
    )
