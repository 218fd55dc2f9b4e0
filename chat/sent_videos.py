"""A delivered video's buttons as they are drawn now, and the video sent once more, which costs nothing."""

from aiogram.enums import ParseMode
from aiogram.exceptions import AiogramError, TelegramBadRequest, TelegramNotFound
from aiogram.types import FSInputFile, InlineKeyboardMarkup

from chat.context import ChatContext
from chat.i18n import Translator, translator
from chat.status_message import delivery_caption
from chat.video_buttons import video_buttons
from ledger import retakes
from ledger.models import Request, Video
from telemetry.logs import get_logger

log = get_logger(__name__)


async def drawn_buttons(
    ctx: ChatContext, request: Request, video: Video, t: Translator | None = None
) -> InlineKeyboardMarkup | None:
    """Return the buttons of a delivered video; in the language of its request, unless `t` is given."""
    number = await retakes.next_number(ctx.ledger, request.request_id)
    shares = await has_inline_mode(ctx)
    t = t or translator(request.language)
    return video_buttons(t, ctx.offer, request, video, number, shares=shares)


async def first_buttons(ctx: ChatContext, request: Request, video: Video) -> InlineKeyboardMarkup | None:
    """Return the buttons of a video that is being delivered: it cannot have another take yet."""
    t, shares = translator(request.language), await has_inline_mode(ctx)
    return video_buttons(t, ctx.offer, request, video, 1, shares=shares)


async def has_inline_mode(ctx: ChatContext) -> bool:
    """Return whether the bot may be named in any chat (BotFather: /setinline); False if that is not known.

    Telegram refuses a keyboard with [Share] of a bot that has no inline mode.
    """
    try:
        return bool((await ctx.bot.me()).supports_inline_queries)
    except AiogramError as error:
        log.info("inline mode not known", error=type(error).__name__)
        return False


async def send_again(ctx: ChatContext, t: Translator, chat_id: int, request: Request, video: Video) -> bool:
    """Send a delivered video once more, by Telegram's id, else from the disk; False if neither has it.

    Raises:
        AiogramError: Telegram cannot be asked now; the update is handled again.
    """
    buttons = await drawn_buttons(ctx, request, video, t)
    caption = delivery_caption(request, video, video.cost, preview=ctx.is_preview(video.provider))
    path = ctx.worker.asset_path(video)
    sources: list[str | FSInputFile] = [] if video.file_id is None else [video.file_id]
    if path.exists():
        sources.append(FSInputFile(path, filename=f"onetake{path.suffix}"))
    timeout = round(ctx.edit_limits.upload_s)
    for source in sources:
        try:
            if video.kind == "image":
                await ctx.bot.send_photo(
                    chat_id, source, caption=caption, parse_mode=ParseMode.HTML, reply_markup=buttons,
                    request_timeout=timeout,
                )  # fmt: skip
                return True
            await ctx.bot.send_video(
                chat_id, source, caption=caption, parse_mode=ParseMode.HTML, supports_streaming=True,
                duration=video.asset_seconds, width=video.asset_width, height=video.asset_height,
                reply_markup=buttons, request_timeout=timeout,
            )  # fmt: skip
        except (TelegramBadRequest, TelegramNotFound) as error:
            log.warning("video not taken again", request=request.request_id, why=error.message)
        else:
            return True
    return False
