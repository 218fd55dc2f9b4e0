"""Pictures of messages: whether one can be used, and how it comes from Telegram into MEDIA_DIR.

Nothing is downloaded before there are words for it.
"""

import asyncio
import io
from typing import Final

from aiogram import Bot
from aiogram.exceptions import AiogramError, TelegramBadRequest
from aiogram.types import Message
from aiohttp import ClientError

from chat.context import ChatContext
from chat.conversations import EARLIER_PICTURE
from guardrails.money import Money
from ledger import requests
from providers.base import Picture
from providers.pictures import MAX_BYTES, PictureRefused, check_bytes, check_sides, clean_picture
from telemetry.logs import get_logger
from tools.offer import Offer
from tools.wishes import shape_of, wish_of
from worker.pictures import copy_picture, save_picture

log = get_logger(__name__)

_MIME: Final = {"image/jpeg", "image/jpg", "image/png", "image/webp"}
_FETCH_S: Final = 25.0
_USUAL_SECONDS: Final = 8
_DECODING: Final = asyncio.Semaphore(2)
"""Pictures that one process unpacks at once: each may take 200 MB of memory."""


class PictureProblem(Exception):
    """A picture cannot be used; `text` names what its sender reads.

    Args:
        text: The name of the text.
        values: What it fills in.
    """

    def __init__(self, text: str, **values: object) -> None:
        super().__init__(text)
        self.text = text
        self.values = values


def shows_picture(message: Message) -> bool:
    """Return whether a message has a photo, or an image of any kind as a file."""
    if message.animation is not None:
        return False
    file = message.document
    return bool(message.photo) or (file is not None and (file.mime_type or "").startswith("image/"))


def why_no_pictures(ctx: ChatContext) -> str:
    """Return the name of the text that says why no picture is used here; empty: pictures are used."""
    if ctx.pictures == "off" or not ctx.offer.capabilities.pictures:
        return "no_pictures"
    return "pictures_unjudged" if ctx.picture_judge is None and ctx.pictures != "unjudged" else ""


def usable_picture(ctx: ChatContext, message: Message) -> str:
    """Return the file id of a message's picture: of a photo, that of its largest size up to 20 MB.

    Raises:
        PictureProblem: Pictures are not used here, or this one cannot be, by what Telegram says of it.
    """
    if why := why_no_pictures(ctx):
        raise PictureProblem(why)
    try:
        return _file_id(message)
    except PictureRefused as refused:
        raise _problem(refused) from None


def _file_id(message: Message) -> str:
    if message.photo:
        sizes = sorted(message.photo, key=lambda one: one.width * one.height)
        best = next((one for one in reversed(sizes) if (one.file_size or 0) <= MAX_BYTES), sizes[0])
        check_bytes(best.file_size or 0)
        check_sides(best.width, best.height)
        return best.file_id
    file = message.document
    if file is None or message.animation is not None:
        raise PictureRefused("type", kind="GIF" if message.animation else "")
    if (mime := file.mime_type or "") not in _MIME:
        raise PictureRefused("type", kind=mime.removeprefix("image/").upper() if "image/" in mime else "")
    check_bytes(file.file_size or 0)
    return file.file_id


def _problem(refused: PictureRefused) -> PictureProblem:
    if refused.fault == "type":
        kind = refused.found.get("kind")
        return PictureProblem("picture_type", kind=kind) if kind else PictureProblem("picture_no_picture")
    return PictureProblem(f"picture_{refused.fault}", **refused.found)


async def store_picture(ctx: ChatContext, bot: Bot, place: str, user_id: int, request_id: str) -> str:
    """Fetch, check, judge and store the picture of a request that is not open yet; return its hash.

    Args:
        ctx: The parts.
        bot: Whose chat the picture was sent to.
        place: Its file id, or `EARLIER_PICTURE` and the request that has it.
        user_id: Whose request.
        request_id: The request.

    Raises:
        PictureProblem: It cannot be used; nothing is stored.
    """
    try:
        if place.startswith(EARLIER_PICTURE):
            return await _copy(ctx, place.removeprefix(EARLIER_PICTURE), user_id, request_id)
        data = await _download(bot, place)
        async with _DECODING:
            picture = await asyncio.to_thread(clean_picture, data)
        await _judge(ctx, picture)
        await save_picture(ctx.worker.media_dir, user_id, request_id, picture)
    except PictureRefused as refused:
        log.info("picture refused", request=request_id, fault=refused.fault)
        raise _problem(refused) from None
    except OSError as error:
        log.error("picture not stored", request=request_id, error=type(error).__name__)
        raise PictureProblem("picture_unsaved") from None
    return picture.sha256


async def _copy(ctx: ChatContext, earlier_id: str, user_id: int, request_id: str) -> str:
    earlier = await requests.find(ctx.ledger, earlier_id)
    if earlier is None or earlier.picture is None or earlier.user_id != user_id:
        raise PictureProblem("picture_forgotten")
    whose = (ctx.worker.media_dir, user_id, earlier_id)
    if not await copy_picture(*whose, request_id, earlier.picture):
        raise PictureProblem("picture_forgotten")
    return earlier.picture


class _Bounded(io.BytesIO):
    """Takes no more bytes than a picture may have, whatever a server says of a file's size."""

    def write(self, data: object) -> int:
        count = super().write(data)  # type: ignore[arg-type]  # bytes, as aiogram has it
        check_bytes(self.tell())
        return count


async def _download(bot: Bot, file_id: str) -> bytes:
    into = _Bounded()
    try:
        async with asyncio.timeout(_FETCH_S):
            file = await bot.get_file(file_id)
            check_bytes(file.file_size or 0)
            await bot.download_file(file.file_path or "", into, timeout=int(_FETCH_S))
    except TelegramBadRequest as error:
        if "too big" in error.message:
            raise PictureRefused("bytes", megabytes=f"> {MAX_BYTES >> 20}", most=MAX_BYTES >> 20) from None
        raise PictureProblem("picture_unreachable") from None
    except (AiogramError, ClientError, OSError) as error:  # a timeout is an OSError
        log.warning("picture not fetched", error=type(error).__name__)
        raise PictureProblem("picture_unreachable") from None
    return into.getvalue()


async def _judge(ctx: ChatContext, picture: Picture) -> None:
    if ctx.picture_judge is None:
        return
    verdict = await ctx.picture_judge.judge_picture(picture.data)
    if verdict.word == "closed":
        raise PictureProblem("picture_unchecked")
    if verdict.word == "refused":
        log.info("picture refused", category=verdict.category or "other")
        raise PictureProblem("picture_objected", category=verdict.category or "other")


def likely_price(offer: Offer, idea: str) -> Money:
    """Return what a video of these words will probably cost; its offer names the price that counts."""
    prices, wish = offer.prices(), wish_of(idea)
    seconds = wish.seconds if wish.seconds in prices else _USUAL_SECONDS
    by_price = prices.get(seconds or 0) or next(iter(prices.values()))
    fits = (price for price, sizes in by_price.items() if wish.shape in {shape_of(one) for one in sizes})
    return next(fits, next(iter(by_price)))
