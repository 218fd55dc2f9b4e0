"""A video that begins with a picture: sent with /create, with words, before words, or replied to.

The request's id is that of the message with the words, as for any other. Its picture is stored before the
request is opened. Before anything can be ordered, its person says that they may use it.
"""

from dataclasses import replace
from typing import Any

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.types import CallbackQuery, Message

from chat.context import ChatContext
from chat.handlers.create import Asked, ask_to_confirm, idea_field, open_asked, tapped_idea
from chat.handlers.user import COMMANDS
from chat.i18n import Translator
from chat.ideas import IDEA_CHARACTERS, idea_in, nearest_command, replied_idea
from chat.keyboards import ALLOW_PICTURE, TAKE_IDEA, TAKE_WORDS, words_buttons
from chat.message_checks import ORDERS
from chat.pictures import PictureProblem, likely_price, shows_picture, store_picture, usable_picture
from chat.replies import answer, answer_tap, edit_text
from chat.updates import clean, request_id_of, user_of
from ledger import offers, requests
from ledger.models import RequestState
from worker.pictures import KEPT_S, remove_picture


def build_router() -> Router:
    """Return the router for /create with a picture and for taps, which comes before that of /create."""
    router = Router(name="pictures")
    create = Command("create", ignore_case=True)
    router.message.register(create_with_file, create, ~F.text, flags=ORDERS)
    router.message.register(create_as_reply, create, replies_to_picture, flags=ORDERS)
    router.callback_query.register(take_picture, F.data == TAKE_IDEA, asks_about_picture)
    router.callback_query.register(take_words, F.data == TAKE_WORDS)
    router.callback_query.register(allow_picture, F.data.startswith(ALLOW_PICTURE))
    return router


def build_message_router() -> Router:
    """Return the router for words and pictures without a command, which comes before that of texts."""
    router = Router(name="plain pictures")
    private = F.chat.type == ChatType.PRIVATE
    router.message.register(words_for_picture, F.text, awaits_words, flags=ORDERS)
    router.message.register(mistyped_reply, private, means_create, replies_to_picture)
    router.message.register(plain_picture, private, shows_picture)
    return router


def replies_to_picture(message: Message, bot: Bot) -> bool:
    """Return whether a message replies to a picture that is not the bot's."""
    source = message.reply_to_message
    if source is None or (source.from_user is not None and source.from_user.id == bot.id):
        return False
    return shows_picture(source)


def asks_about_picture(query: CallbackQuery) -> bool:
    """Return whether a tapped question replies to a picture."""
    question = query.message if isinstance(query.message, Message) else None
    source = question.reply_to_message if question is not None else None
    return source is not None and shows_picture(source)


async def awaits_words(message: Message, bot: Bot, ctx: ChatContext) -> bool | dict[str, Any]:
    """Return the place of the picture that a text is for, if its sender was asked for these words."""
    if (message.text or "/").startswith("/") or user_of(message) is None or message.forward_origin:
        return False
    if message.chat.type != ChatType.PRIVATE:
        source = message.reply_to_message
        if source is None or source.from_user is None or source.from_user.id != bot.id:
            return False
    place = await ctx.conversations.takes_picture(message)
    return {"place": place} if place is not None else False


async def create_with_file(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """/create as the caption of a picture, or of a file that is none."""
    await _create(message, message, idea_in(message), bot, ctx, t)


async def create_as_reply(
    message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator
) -> None:
    """/create as a reply to a picture: with the words after it, else with those of the picture."""
    source = message.reply_to_message or message
    idea = clean(command.args or "") or replied_idea(message, bot.id)
    await _create(message, source, idea, bot, ctx, t)


async def _create(
    message: Message, source: Message, idea: str, bot: Bot, ctx: ChatContext, t: Translator
) -> None:
    if user_of(message) is None:
        await answer(message, t("no_payer"))
        return
    if message.forward_origin is not None:
        await answer(message, t("forwarded"))
        return
    try:
        place = usable_picture(ctx, source)
        if not idea:
            await _ask_for_words(message, place, ctx, t)
        elif message.media_group_id is not None:
            await ask_to_confirm(message, t("confirm_picture_album"), t)
        else:
            await _open(Asked(message, idea), place, bot, ctx, t)
    except PictureProblem as problem:
        await _explain(message, problem, ctx, t)


def means_create(message: Message) -> bool:
    """Return whether a text is a misspelt /create."""
    return nearest_command(message.text or "", COMMANDS) == "create"


async def mistyped_reply(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """A misspelt /create as a reply to a picture: its offer asks, so "Did you mean" would ask twice.

    And a tap on that question would find its words, but not the picture that they reply to.
    """
    source = message.reply_to_message or message
    await _create(message, source, idea_in(message) or replied_idea(message, bot.id), bot, ctx, t)


async def plain_picture(message: Message, ctx: ChatContext, t: Translator) -> None:
    """Ask for the words of a picture, or whether those that came with it shall become a video."""
    if user_of(message) is None:
        await answer(message, t("no_payer"))
        return
    try:
        place = usable_picture(ctx, message)
    except PictureProblem as problem:
        await _explain(message, problem, ctx, t)
        return
    if idea_in(message):
        question = "confirm_picture" if message.media_group_id is None else "confirm_picture_album"
        await ask_to_confirm(message, t(question), t)
    else:
        await _ask_for_words(message, place, ctx, t)


async def words_for_picture(message: Message, place: str, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Open a request for the words that the bot has asked for, with the picture that they are for."""
    idea = idea_in(message)
    if len(idea) > IDEA_CHARACTERS:
        await answer(message, t("too_long", count=len(idea), most=IDEA_CHARACTERS))
        return
    try:
        await _open(Asked(message, idea), place, bot, ctx, t)
    except PictureProblem as problem:
        await _explain(message, problem, ctx, t)


async def take_picture(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[Yes, show me] under a picture: open a request for it and its words."""
    asked = await tapped_idea(query, t)
    if asked is None:
        return
    try:
        await _open(asked, usable_picture(ctx, asked.message), bot, ctx, t)
    except PictureProblem as problem:
        await edit_text(
            query, _text(problem, asked.idea, t), words_buttons(t, likely_price(ctx.offer, asked.idea))
        )
    await answer_tap(query, t("tap_done"))


async def take_words(query: CallbackQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """[Make it from the words]: open a request for the words alone."""
    asked = await tapped_idea(query, t)
    if asked is None:
        return
    await open_asked(asked, bot, ctx, t)
    await answer_tap(query, t("tap_done"))


async def allow_picture(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[This is me, or I may use it]: write it down and show the offer with [Make it]."""
    nonce = (query.data or "").removeprefix(ALLOW_PICTURE)
    outcome = await offers.allow_picture(ctx.ledger, nonce, query.from_user.id)
    if outcome == "allowed":
        video = await offers.find(ctx.ledger, nonce)
        if video is not None:
            await ctx.queue.wake("notify", video.request_id)
    allowed = outcome in ("allowed", "already")
    await answer_tap(query, t("tap_picture_allowed") if allowed else t(f"tap_{outcome}"))


async def _ask_for_words(message: Message, place: str, ctx: ChatContext, t: Translator) -> None:
    """Ask what happens in a picture; the sender's next message, or in a group their next reply, is for it."""
    user = user_of(message)
    if user is not None:
        await ctx.conversations.keep_picture(message.chat.id, user.id, place)
        question = "ask_picture" if message.media_group_id is None else "ask_picture_album"
        await answer(message, t(question), idea_field(t), quote=True)


async def _explain(message: Message, problem: PictureProblem, ctx: ChatContext, t: Translator) -> None:
    """Say why a picture is not used, and offer to film the words of this message, if it has some."""
    words = idea_in(message)
    if not words:
        await answer(message, _text(problem, words, t))
        return
    buttons = words_buttons(t, likely_price(ctx.offer, words))
    await answer(message, _text(problem, words, t), buttons, quote=True)


def _text(problem: PictureProblem, words: str, t: Translator) -> str:
    if problem.text == "no_pictures" and words:
        return t("no_pictures_words")
    if problem.text == "picture_objected":
        return t("picture_objected", category=t(f"category_{problem.values['category']}"))
    return t(problem.text, **problem.values, window=t.window(KEPT_S))


async def _open(asked: Asked, place: str, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Store the picture of a request, unless it is open already, and open the request.

    Raises:
        PictureProblem: The picture cannot be used, and no request was opened.
    """
    user = user_of(asked.message)
    if user is None:
        return
    request_id = request_id_of(asked.message, bot.id)
    if await requests.find(ctx.ledger, request_id) is not None:  # it was delivered before
        await open_asked(asked, bot, ctx, t)
        return
    picture = await store_picture(ctx, bot, place, user.id, request_id)
    await open_asked(replace(asked, picture=picture), bot, ctx, t)
    opened = await requests.find(ctx.ledger, request_id)
    if opened is None or opened.state is RequestState.REFUSED:
        await remove_picture(ctx.worker.media_dir, user.id, request_id, picture)
