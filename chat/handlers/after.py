"""The buttons under a delivered video: another take, other words, as a file, delete.

A take is a request of its own with an offer of its own, so nothing is paid without [Make it]. Its id stands
in the button: however often that is tapped it opens one request. When that one has ended, the next tap draws
a new button, and only the one after it opens another take.
"""

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from aiogram import Bot, F, Router
from aiogram.exceptions import AiogramError, TelegramBadRequest
from aiogram.methods import SendDocument
from aiogram.types import CallbackQuery, FSInputFile, Message, ReplyParameters

from chat.context import ChatContext
from chat.handlers.create import ask_for_other_words, notify_at_once
from chat.handlers.user import is_active
from chat.i18n import Translator
from chat.replies import REPLY_TIMEOUT_S, TAP_CHARACTERS, answer_tap, edit_buttons
from chat.sent_videos import drawn_buttons
from chat.status_message import refusal_text
from chat.updates import topic_of
from chat.video_buttons import (
    AS_FILE,
    CONFIRM_DELETE,
    DELETE,
    KEEP_VIDEO,
    OTHER_WORDS,
    TAKE,
    TakeButton,
    confirm_delete_buttons,
    is_here,
    terms_of_take,
)
from guardrails.limits import LimitExceeded
from ledger import erasure, requests, retakes
from ledger.models import Request, Video, VideoState, provider_key
from ledger.offers import Terms, new_nonce
from ledger.orders import Order
from ledger.requests import NewRequest
from telemetry.logs import get_logger
from telemetry.tracing import join_request, request_traceparent
from tools.offer import APPROVAL_TIMEOUT_S
from tools.text import plain_text
from worker.erasure import erase
from worker.pictures import KEPT_S, copy_picture

log = get_logger(__name__)

_FILE_BYTES: Final = 50_000_000
"""Telegram takes files of up to 50 MB from a bot."""

_UPLOAD_S: Final = 40
"""Less than a handler may take: Telegram waits for the answer to a webhook call."""


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="after")
    router.callback_query.register(take, F.data.startswith(TAKE))
    router.callback_query.register(other_words, F.data.startswith(OTHER_WORDS))
    router.callback_query.register(as_file, F.data.startswith(AS_FILE))
    router.callback_query.register(ask_to_delete, F.data.startswith(DELETE))
    router.callback_query.register(delete, F.data.startswith(CONFIRM_DELETE))
    router.callback_query.register(keep, F.data.startswith(KEEP_VIDEO))
    return router


async def take(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Another take], [Upright], [Wide]: offer it, once for each button that was drawn."""
    button = TakeButton.from_data(query.data)
    found = None if button is None else await _find_own(query, ctx, t, button.short_id)
    if button is None or found is None:
        return
    parent, video = found
    standing = await requests.find_with_video(
        ctx.ledger, retakes.take_id(parent.request_id, button.kind, button.number)
    )
    if standing is None:
        await _offer(query, ctx, t, button, parent, video)
    elif is_active(*standing):
        await _say_standing(query, t, *standing)
    else:
        await edit_buttons(query, await drawn_buttons(ctx, parent, video, t))
        await answer_tap(query, t("tap_take_ended", id=standing[0].short_id), alert=True)


async def _say_standing(query: CallbackQuery, t: Translator, request: Request, video: Video | None) -> None:
    offered = video is not None and video.state is VideoState.AWAITING_APPROVAL
    await answer_tap(query, t("tap_take_offered", id=request.short_id) if offered else t("tap_already"))


async def _offer(
    query: CallbackQuery, ctx: ChatContext, t: Translator, button: TakeButton, parent: Request, video: Video
) -> None:
    """Open the request with its offer; what is refused leaves no request, and the button stays good."""
    terms = terms_of_take(ctx.offer, video, button.kind)
    if terms is None:
        await answer_tap(query, t("tap_ended"), alert=True)
        return
    for text in (parent.idea, video.prompt):  # the rules may have changed since
        if (await ctx.rules.judge(text)).word != "allowed":
            await answer_tap(query, t("tap_content"), alert=True)
            return
    new = _new_request(query, ctx, t, button, parent)
    if parent.picture is not None and not await _copy_picture(ctx, parent, new.request_id):
        await answer_tap(query, t("tap_picture_gone", window=t.window(KEPT_S)), alert=True)
        return
    order = _order(new.request_id, video, *terms)
    opened = await retakes.open_take(ctx.ledger, new, order, ctx.limits, ctx.max_open)
    if isinstance(opened, LimitExceeded | str):
        await answer_tap(query, _refusal(ctx, t, opened), alert=True)
        return
    join_request(opened[0].traceparent)
    log.info("take offered", request=new.request_id, parent=parent.request_id, kind=button.kind)
    if not await ctx.queue.wake("notify", new.request_id):
        await notify_at_once(ctx, new.request_id)
    await _say_standing(query, t, *opened)


def _new_request(
    query: CallbackQuery, ctx: ChatContext, t: Translator, button: TakeButton, parent: Request
) -> NewRequest:
    """Return the request of a take, to be shown where its button was tapped, as a reply to the video."""
    where = _shown_in(query, parent)
    request_id = retakes.take_id(parent.request_id, button.kind, button.number)
    return NewRequest(
        request_id, ctx.bot.id, where.chat_id, where.message_id, query.from_user.id, t.language, parent.idea,
        request_traceparent(provider_key(request_id)), where.message_thread_id, parent_id=parent.request_id,
        picture=parent.picture,
    )  # fmt: skip


async def _copy_picture(ctx: ChatContext, parent: Request, request_id: str) -> bool:
    """Store the picture of the parent for a take of it; False if it is kept no longer."""
    sha256 = parent.picture or ""
    return await copy_picture(ctx.worker.media_dir, parent.user_id, parent.request_id, request_id, sha256)


def _shown_in(query: CallbackQuery, request: Request) -> Request:
    """Return the request as if it had been sent where the video is shown that was tapped."""
    where = query.message
    if where is None:
        return request
    topic = topic_of(where) if isinstance(where, Message) else None
    return replace(request, chat_id=where.chat.id, message_id=where.message_id, message_thread_id=topic)


def _order(request_id: str, video: Video, size: str, terms: Terms) -> Order:
    """Return what is offered: the same words and length, at today's terms, always for a tap of its own."""
    return Order(
        request_id, terms.provider, terms.model, video.prompt, video.seconds, size, terms.quote,
        account=terms.account, approval_nonce=new_nonce(), valid_s=APPROVAL_TIMEOUT_S, style=video.style,
        style_prompt=video.style_prompt, sound=None if video.sound is None else bool(video.sound),
        avoid=video.avoid,
    )  # fmt: skip


def _refusal(ctx: ChatContext, t: Translator, denied: LimitExceeded | str) -> str:
    """Return why there is no offer, in the words of a refused command."""
    if isinstance(denied, str):
        return t("refused_busy")
    text = refusal_text(t, denied.verdict, denied.until, denied.at, ctx.limits)
    return plain_text(text, TAP_CHARACTERS)


async def _find_own(
    query: CallbackQuery, ctx: ChatContext, t: Translator, short_id: str
) -> tuple[Request, Video] | None:
    """Return this person's delivered video; None after an answer, if it is not theirs or was deleted."""
    named = await requests.find_named(ctx.ledger, short_id, query.from_user.id)
    found = None if named is None else await requests.find_with_video(ctx.ledger, named.request_id)
    if found is None:
        await answer_tap(query, t("tap_not_yours"))
    elif found[0].erasure is not None:
        await answer_tap(query, t("tap_erased"), alert=True)
    elif found[1] is None or not is_here(*found):
        await answer_tap(query, t("tap_not_yet", id=short_id))
    else:
        return found[0], found[1]
    return None


async def other_words(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[Change the words]: ask for the idea in other words; the request that they open names this one."""
    found = await _find_own(query, ctx, t, _named(query, OTHER_WORDS))
    if found is not None:
        await ask_for_other_words(bot, ctx, t, _shown_in(query, found[0]), found[0].request_id)
        await answer_tap(query, t("tap_done"))


async def as_file(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[As file]: send the video as it came from its provider, once for each tap."""
    found = await _find_own(query, ctx, t, _named(query, AS_FILE))
    if found is None:
        return
    request, video = found
    path = ctx.worker.asset_path(video)
    if (fault := await asyncio.to_thread(_unsendable, path)) is not None:
        await answer_tap(query, t(fault), alert=True)
        return
    first = await ctx.conversations.is_first_tap(f"file:{query.from_user.id}:{request.short_id}", query.id)
    await answer_tap(query, t("tap_sending"))
    if first and not await _send_file(bot, _shown_in(query, request), path):
        await _say_file_failed(bot, t, _shown_in(query, request))


def _unsendable(path: Path) -> str | None:
    """Return the name of the text that says why a file cannot be sent; None if it can."""
    try:
        return "tap_file_big" if path.stat().st_size > _FILE_BYTES else None
    except OSError:
        return "tap_file_gone"


async def _send_file(bot: Bot, request: Request, path: Path) -> bool:
    file = SendDocument(
        chat_id=request.chat_id,
        document=FSInputFile(path, filename=f"onetake-{request.short_id}{path.suffix}"),
        message_thread_id=request.message_thread_id, disable_content_type_detection=True,
        reply_parameters=ReplyParameters(message_id=request.message_id, allow_sending_without_reply=True),
    )  # fmt: skip
    try:
        await bot(file, request_timeout=_UPLOAD_S)
    except (AiogramError, OSError) as error:
        log.warning("file not sent", request=request.request_id, error=type(error).__name__)
        return False
    return True


async def _say_file_failed(bot: Bot, t: Translator, request: Request) -> None:
    with suppress(AiogramError):
        await bot.send_message(
            request.chat_id, t("file_failed", id=request.short_id),
            message_thread_id=request.message_thread_id, request_timeout=REPLY_TIMEOUT_S,
        )  # fmt: skip


async def ask_to_delete(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Delete]: say what goes and what stays, and ask once."""
    found = await _find_own(query, ctx, t, _named(query, DELETE))
    if found is not None:
        await edit_buttons(query, confirm_delete_buttons(t, found[0].short_id))
        await answer_tap(query, t("tap_delete_ask", id=found[0].short_id), alert=True)


async def keep(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[No]: nothing is deleted, and the buttons are back."""
    found = await _find_own(query, ctx, t, _named(query, KEEP_VIDEO))
    if found is not None:
        await edit_buttons(query, await drawn_buttons(ctx, *found, t))
        await answer_tap(query, t("tap_kept"))


async def delete(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[Yes, delete]: erase the request's texts, file and link, and remove the video from the chat."""
    short_id = _named(query, CONFIRM_DELETE)
    request = await requests.find_named(ctx.ledger, short_id, query.from_user.id)
    if request is None:
        await answer_tap(query, t("tap_not_yours"))
        return
    answer = await erasure.ask(ctx.ledger, request.request_id, query.from_user.id)
    if answer == "open":
        await answer_tap(query, t("tap_delete_open", id=short_id), alert=True)
        return
    said = "tap_deleted" if answer == "done" or await _erase_now(ctx, request) else "tap_delete_later"
    for chat_id, message_id in _messages(query, request):
        await _remove_message(bot, t, request, chat_id, message_id)
    await answer_tap(query, t(said, id=short_id), alert=True)


async def _erase_now(ctx: ChatContext, request: Request) -> bool:
    try:
        return await erase(ctx.worker, request.request_id)
    except OSError as error:
        log.warning("request not erased yet", request=request.request_id, error=type(error).__name__)
        return False


def _messages(query: CallbackQuery, request: Request) -> set[tuple[int, int]]:
    """Return the messages that show the video, as far as they are known."""
    found = {(request.chat_id, request.status_message_id or 0)}
    if query.message is not None:
        found.add((query.message.chat.id, query.message.message_id))
    return {one for one in found if one[1]}


async def _remove_message(bot: Bot, t: Translator, request: Request, chat_id: int, message_id: int) -> None:
    """Delete a message; one that Telegram keeps, as after 48 hours, loses its text and buttons."""
    try:
        await bot.delete_message(chat_id, message_id, request_timeout=REPLY_TIMEOUT_S)
    except TelegramBadRequest:
        with suppress(AiogramError):
            await bot.edit_message_caption(
                chat_id=chat_id, message_id=message_id, caption=t("video_deleted", id=request.short_id),
                request_timeout=REPLY_TIMEOUT_S,
            )  # fmt: skip
    except AiogramError as error:
        log.warning("deleted video still shown", request=request.request_id, error=type(error).__name__)


def _named(query: CallbackQuery, prefix: str) -> str:
    return (query.data or "").removeprefix(prefix)
