"""Every way to ask for a video: /create with an idea or without one, as a reply, or a plain text.

A request is opened by a command with an idea, by the idea that /create asked for, or by a tap on
[Yes, show me]. Its id is that of the message with the idea, so no way opens it twice.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.methods import SendMessage
from aiogram.types import CallbackQuery, ForceReply, Message, ReactionTypeEmoji, ReplyParameters

from chat.context import ChatContext
from chat.conversations import EARLIER_PICTURE
from chat.handlers.payments import STAR_MENU
from chat.handlers.user import COMMANDS, help_text, is_active, stop_request
from chat.i18n import LANGUAGES, Translator, translator
from chat.ideas import IDEA_CHARACTERS, idea_in, is_question, is_small_talk, nearest_command, replied_idea
from chat.keyboards import (
    CHANGE_IDEA,
    DECLINE_IDEA,
    EXAMPLES,
    TAKE_EXAMPLE,
    TAKE_IDEA,
    idea_buttons,
)
from chat.message_checks import ORDERS
from chat.notifier import notify_request
from chat.pictures import why_no_pictures
from chat.replies import REPLY_TIMEOUT_S, answer, answer_tap, edit_text, send_once
from chat.updates import clean, request_id_of, topic_of, user_of
from guardrails.admission import AdmissionRequest, Decision, with_extra
from ledger import requests, video_credits
from ledger.models import Request, RequestState, provider_key
from ledger.requests import NewRequest
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.tracing import join_request, request_traceparent
from tools.registry import GENERATE_VIDEO
from tools.text import trimmed
from worker.run_agent import refuse_request

log = get_logger(__name__)

QUESTIONS: Final = ("ask_idea", "ask_change", "ask_picture", "ask_picture_album")
"""Names of the texts that ask for an idea."""

_SHOWN_IDEA: Final = 3000
_SEEN: Final = "👀"


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent. Edited messages do not reach it."""
    router = Router(name="create")
    router.message.register(create, Command("create", ignore_case=True))
    router.callback_query.register(take_idea, F.data == TAKE_IDEA)
    router.callback_query.register(decline_idea, F.data == DECLINE_IDEA)
    router.callback_query.register(take_example, F.data.startswith(TAKE_EXAMPLE))
    router.callback_query.register(change_idea, F.data.startswith(CHANGE_IDEA))
    return router


def build_text_router() -> Router:
    """Return the router for messages that are no known command, which comes last."""
    router = Router(name="texts")
    router.message.register(awaited_idea, F.text, is_awaited, flags=ORDERS)
    # Other messages are answered in private chats only: in groups they are meant for other people.
    private = F.chat.type == ChatType.PRIVATE
    router.message.register(unknown_command, F.text.startswith("/"), private)
    router.message.register(plain_text, F.text, private)
    router.message.register(late_idea, F.text, answers_question)
    router.message.register(no_text, private)
    return router


async def create(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Open a request for the idea after the command or in the replied message; without one, ask for it."""
    idea = clean(command.args or "") or replied_idea(message, bot.id)
    if user_of(message) is None:
        await answer(message, t("no_payer"))
    elif message.forward_origin is not None:
        await answer(message, t("forwarded"))
    elif not idea:
        await _ask_for_idea(message, ctx, t)
    elif command.args and is_question(idea):
        await ask_to_confirm(message, t("confirm_question"), t)
    else:
        await open_asked(Asked(message, idea), bot, ctx, t)


async def _ask_for_idea(message: Message, ctx: ChatContext, t: Translator) -> None:
    """Ask for the idea; the sender's next message, or in a group their next reply, is taken for it."""
    user = user_of(message)
    if user is not None:
        await ctx.conversations.ask_for_idea(message.chat.id, user.id)
        await answer(message, t("ask_idea"), idea_field(t), quote=True)


def idea_field(t: Translator) -> ForceReply:
    """Open the field for a reply, in a group for the person alone whose message is replied to."""
    return ForceReply(selective=True, input_field_placeholder=t("ask_idea_placeholder"))


async def ask_to_confirm(message: Message, text: str, t: Translator) -> None:
    """Ask whether the words of this message shall become a video; a reply, so that the tap finds them."""
    await answer(message, text, idea_buttons(t), quote=True)


async def is_awaited(message: Message, bot: Bot, ctx: ChatContext) -> bool:
    """Return whether this text is the idea that /create has asked for."""
    if message.text is None or message.text.startswith("/") or user_of(message) is None:
        return False
    if message.chat.type != ChatType.PRIVATE:
        source = message.reply_to_message
        if source is None or source.from_user is None or source.from_user.id != bot.id:
            return False
    return await ctx.conversations.takes_idea(message)


async def awaited_idea(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Open a request for the idea that /create has asked for."""
    idea = idea_in(message)
    if message.forward_origin is not None or is_question(idea):
        await ask_to_confirm(message, t("confirm_idea"), t)
    else:
        parent_id = await ctx.conversations.parent_of_idea(message)
        await open_asked(Asked(message, idea, parent_id=parent_id), bot, ctx, t)


def answers_question(message: Message, bot: Bot) -> bool:
    """Return whether a message replies to the bot's question for an idea, which may be forgotten by now."""
    source = message.reply_to_message
    if source is None or source.from_user is None or source.from_user.id != bot.id:
        return False
    asked = (translator(one)(name, idea="") for one in LANGUAGES for name in QUESTIONS)
    return (source.text or "").partition("\n")[0] in {text.partition("\n")[0] for text in asked}


async def late_idea(message: Message, t: Translator) -> None:
    """Ask about an idea whose question is forgotten: it came late, or Redis was away."""
    await ask_to_confirm(message, t("confirm_idea"), t)


async def unknown_command(message: Message, ctx: ChatContext, t: Translator) -> None:
    """Name the command that was meant; a misspelt /create keeps its idea."""
    meant = nearest_command(message.text or "", COMMANDS if ctx.stars is None else COMMANDS + STAR_MENU)
    if meant == "create" and idea_in(message) and user_of(message) and message.forward_origin is None:
        await ask_to_confirm(message, t("did_you_mean_create"), t)
    elif meant is not None:
        await answer(message, t("did_you_mean", command=meant))
    else:
        await answer(message, t("unknown_command"))


async def plain_text(message: Message, ctx: ChatContext, t: Translator) -> None:
    """Offer to film a text that may be an idea; answer a question or small talk with help."""
    idea = idea_in(message)
    if user_of(message) is None:
        await answer(message, t("no_payer"))
    elif len(idea) > IDEA_CHARACTERS:
        await answer(message, t("too_long", count=len(idea), most=IDEA_CHARACTERS))
    elif is_question(idea):
        await answer(message, help_text(ctx, t))
    elif is_small_talk(idea):
        await answer(message, t("chatter"))
    else:
        await ask_to_confirm(message, t("confirm_idea"), t)


async def no_text(message: Message, ctx: ChatContext, t: Translator) -> None:
    """Answer what is neither a text nor a picture (`chat.handlers.pictures`)."""
    await answer(message, t("no_text" if why_no_pictures(ctx) else "no_text_or_picture"))


async def take_idea(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[Yes, show me]: open a request for the words that the question replies to."""
    asked = await tapped_idea(query, t)
    if asked is None:
        return
    await open_asked(asked, bot, ctx, t)
    await answer_tap(query, t("tap_done"))


async def decline_idea(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[No]: nothing is made; where [Yes, show me] was tapped before, what it asked for is cancelled."""
    asked = await tapped_idea(query, t)
    if asked is None:
        return
    opened = await requests.find(ctx.ledger, request_id_of(asked.message, bot.id))
    if opened is not None:
        await stop_request(query, ctx, t, opened.short_id)
        return
    await answer_tap(query, t("tap_done"))
    await edit_text(query, t("idea_declined"))


async def take_example(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Open a request for an idea of the welcome: one for each person, however often it is tapped."""
    name, where = (query.data or "").removeprefix(TAKE_EXAMPLE), query.message
    if name not in EXAMPLES or not isinstance(where, Message):
        await answer_tap(query, t("tap_gone"))
        return
    shown = where.message_id or f"ephemeral-{where.ephemeral_message_id}"
    request_id = f"tg:{bot.id}:-:{where.chat.id}:{name}-{shown}-{query.from_user.id}"
    new = NewRequest(
        request_id, bot.id, where.chat.id, 0, query.from_user.id, t.language, t(name),
        request_traceparent(provider_key(request_id)), topic_of(where),
    )  # fmt: skip
    await _open_request(ctx, None, new, t)
    found = await requests.find_with_video(ctx.ledger, request_id)
    ended = found is not None and not is_active(*found)
    await answer_tap(query, t("example_used" if ended else "tap_done"), alert=ended)


async def change_idea(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[Change]: ask for the idea in other words. The offer stays open until they come."""
    short_id = (query.data or "").removeprefix(CHANGE_IDEA)
    found = await requests.find_named(ctx.ledger, short_id, query.from_user.id)
    if found is None:
        await answer_tap(query, t("tap_not_yours"))
        return
    if found.erasure is not None:
        await answer_tap(query, t("tap_erased"), alert=True)
        return
    await ask_for_other_words(bot, ctx, t, found)
    await answer_tap(query, t("tap_done"))


async def ask_for_other_words(
    bot: Bot, ctx: ChatContext, t: Translator, found: Request, parent_id: str | None = None
) -> None:
    """Ask the person of a request for its idea in other words; with `parent_id` these name that request."""
    if found.picture is None:
        await ctx.conversations.ask_for_idea(found.chat_id, found.user_id, parent_id)
    else:  # the new words are for the same picture
        place = f"{EARLIER_PICTURE}{found.request_id}"
        await ctx.conversations.keep_picture(found.chat_id, found.user_id, place)
    reply = ReplyParameters(message_id=found.message_id, allow_sending_without_reply=True)
    await send_once(
        bot,
        SendMessage(
            chat_id=found.chat_id, text=t("ask_change", idea=trimmed(found.idea, _SHOWN_IDEA)),
            message_thread_id=found.message_thread_id, reply_markup=idea_field(t),
            reply_parameters=reply if found.message_id else None,
        ),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """An idea, the message that it stands in, and the question about it, which becomes the status message.

    `parent_id` is the request whose video it says in other words, if any; `picture` the hash of the picture
    that is stored for it (`worker.pictures`), if it has one.
    """

    message: Message
    idea: str
    question: Message | None = None
    parent_id: str | None = None
    picture: str | None = None


async def tapped_idea(query: CallbackQuery, t: Translator) -> Asked | None:
    """Return what the tapped question is about; None, after an answer, if that is not for this person."""
    question = query.message if isinstance(query.message, Message) else None
    source = question.reply_to_message if question is not None else None
    user = user_of(source) if source is not None else None
    if source is None or not idea_in(source):
        await answer_tap(query, t("idea_gone"), alert=True)
        return None
    if user is None or user.id != query.from_user.id:
        await answer_tap(query, t("tap_not_yours"))
        return None
    return Asked(source, idea_in(source), question)


async def open_asked(asked: Asked, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Open the request once, look at the rules and limits, and wake the agent's run."""
    message, idea = asked.message, asked.idea
    user = user_of(message)
    if user is None:
        return
    if len(idea) > IDEA_CHARACTERS:
        await answer(message, t("too_long", count=len(idea), most=IDEA_CHARACTERS))
        return
    # A message that Telegram has only scheduled has the id 0: it is not there to be edited.
    question_id = (asked.question.message_id or None) if asked.question else None
    request_id = request_id_of(message, bot.id)
    new = NewRequest(
        request_id, bot.id, message.chat.id, message.message_id, user.id, t.language,
        idea, request_traceparent(provider_key(request_id)), topic_of(message), question_id, asked.parent_id,
        asked.picture,
    )  # fmt: skip
    await _open_request(ctx, message, new, t)


async def _open_request(ctx: ChatContext, message: Message | None, new: NewRequest, t: Translator) -> None:
    """Open a request for what this message, or a tap, asked for."""
    quiet_s = ctx.edit_limits.quiet_s
    request, created = await requests.open_request(ctx.ledger, new, ctx.max_open, quiet_s)
    join_request(request.traceparent)
    log.info("request", request=request.request_id, new=created)
    await failpoint("opened")
    if request.state is RequestState.OPEN and not await _refuse_early(ctx, request):
        queued = await ctx.queue.wake("run_agent", request.request_id)
        await failpoint("woken")
        # Not before a final word may have come, which is then the only message.
        await ctx.queue.wake("notify", request.request_id, after_s=quiet_s)
        if created and message is not None:
            await _react(message)
            if not queued:  # a worker finds the request in the ledger; the user gets a reply now
                await answer(message, t("kept"))
    elif not await ctx.queue.wake("notify", request.request_id) and created:
        await notify_at_once(ctx, request.request_id)


async def _react(message: Message) -> None:
    """Show on the command that it was seen; where reactions are not allowed it goes without."""
    if message.bot is not None and message.message_id:
        await send_once(message.bot, message.react([ReactionTypeEmoji(emoji=_SEEN)]))


async def notify_at_once(ctx: ChatContext, request_id: str) -> None:
    """Send what the ledger says as the status message, which later steps edit: the queue is away."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            await notify_request(ctx, request_id)


async def _refuse_early(ctx: ChatContext, request: Request) -> bool:
    """Check the content rules and the limits before the run: a refusal is immediate and calls no model.

    With Redis or the ledger unavailable no limit refuses here; the guard decides later.
    """
    verdict = await ctx.rules.judge(request.idea)
    if verdict.word == "refused":
        decision = Decision("content", "content", why=verdict.category or "other")
        return await refuse_request(ctx.worker, request.request_id, decision, verdict.matched or None)
    price = ctx.offer.cheapest()
    ask = AdmissionRequest(
        GENERATE_VIDEO, request.request_id, request.user_id, price=price, limits=ctx.limits
    )
    decision = await with_extra(
        ctx.admission.check, ask, partial(video_credits.left, ctx.ledger, request.user_id)
    )
    if decision.word in ("admitted", "replay", "closed"):
        return False
    return await refuse_request(ctx.worker, request.request_id, decision)
