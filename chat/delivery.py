"""Sends the finished video to Telegram; safe to repeat until Telegram confirms it."""

from pathlib import Path
from typing import Final

from aiogram.enums import ParseMode
from aiogram.exceptions import TelegramBadRequest, TelegramNotFound
from aiogram.types import FSInputFile, InputMediaVideo, Message, ReplyParameters

from chat.context import ChatContext
from chat.status_message import delivery_caption
from chat.updates import NOT_MODIFIED
from ledger import reports, requests, transitions
from ledger.models import Request, Video, VideoState
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.semconv import FETCH
from worker.tracing import video_step

log = get_logger(__name__)

_UPLOAD_S: Final = 120


def reply_to(request: Request, message_id: int | None = None) -> ReplyParameters | None:
    """Return reply parameters for `message_id`, else for the command, so that a group sees who is meant."""
    above = message_id or request.message_id
    return ReplyParameters(message_id=above, allow_sending_without_reply=True) if above else None


async def deliver(ctx: ChatContext, request: Request, video: Video) -> None:
    """Send a finished video to its user and record DELIVERED; return once Telegram has it.

    Uses `editMessageMedia` on the status message, which can be repeated without a second message, and
    `sendVideo` where that message cannot be edited. A lost answer may repeat a message, never a charge.
    """
    video = await _with_asset(ctx, video)
    charged = await reports.net_charged(ctx.ledger, request.request_id)
    caption = delivery_caption(request, video, charged, preview=ctx.is_preview(video.provider))
    sent = await _edit(ctx, request, video, caption) or await _send(ctx, request, video, caption)
    await failpoint("video_sent")
    # "Not modified" answers without the message: the file is there, and its id may stay unknown.
    file_id = _file_id(sent) if isinstance(sent, Message) else video.file_id
    moved = await transitions.transition(
        ctx.ledger, request.request_id, VideoState.SUCCEEDED, VideoState.DELIVERED,
        "tell", "Telegram has it", file_id=file_id,
    )  # fmt: skip
    if moved is not None:
        log.info("video delivered", request=request.request_id)


def _file_id(sent: Message) -> str | None:
    """Return Telegram's file id. Telegram turns a video without sound into an animation."""
    shown = sent.video or sent.animation or sent.document
    return shown.file_id if shown else None


async def _with_asset(ctx: ChatContext, video: Video) -> Video:
    """Return the video with its file on disk, or known to Telegram.

    A missing file is downloaded again, which costs nothing.
    """
    path = ctx.worker.asset_path(video)
    if video.file_id is None and not path.exists():
        provider = ctx.providers.get(video.provider)
        if provider is None:
            raise FileNotFoundError(f"{path.name} is gone, and provider {video.provider} is not configured")
        log.warning("video file missing, downloading again", request=video.request_id)
        with video_step(FETCH, video.request_id, provider=provider.name):
            await provider.fetch(video.job_id or "", path)
    return video


def _media(video: Video, path: Path, caption: str) -> InputMediaVideo:
    width, height = (int(part) for part in video.size.split("x"))
    thumbnail = path.with_suffix(".jpg")
    return InputMediaVideo(
        media=video.file_id or FSInputFile(path, filename="onetake.mp4"),
        thumbnail=FSInputFile(thumbnail) if thumbnail.exists() else None,
        caption=caption,
        parse_mode=ParseMode.HTML,
        width=width,
        height=height,
        duration=video.asset_seconds or video.seconds,
        supports_streaming=True,
    )


async def _edit(ctx: ChatContext, request: Request, video: Video, caption: str) -> Message | bool:
    """Replace the status message by the video; False if that message cannot be edited."""
    if request.status_message_id is None:
        return False
    media = _media(video, ctx.worker.asset_path(video), caption)
    try:
        return await ctx.bot.edit_message_media(
            media, chat_id=request.chat_id, message_id=request.status_message_id, request_timeout=_UPLOAD_S
        )
    except (TelegramBadRequest, TelegramNotFound) as error:
        if NOT_MODIFIED in error.message:
            return True
        log.warning("status message cannot be replaced", request=request.request_id, why=error.message)
        return False


async def _send(ctx: ChatContext, request: Request, video: Video, caption: str) -> Message:
    media = _media(video, ctx.worker.asset_path(video), caption)
    sent = await ctx.bot.send_video(
        request.chat_id,
        media.media,
        duration=media.duration,
        width=media.width,
        height=media.height,
        thumbnail=media.thumbnail,
        caption=media.caption,
        parse_mode=ParseMode.HTML,
        supports_streaming=True,
        reply_parameters=reply_to(request),
        request_timeout=_UPLOAD_S,
    )
    await requests.update_fields(ctx.ledger, request.request_id, status_message_id=sent.message_id)
    return sent
