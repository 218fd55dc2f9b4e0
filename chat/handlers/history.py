"""/history in pages, [▶ #id], and /video: a person's own videos once more, free of charge."""

from collections.abc import Sequence
from typing import Final

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject, CommandStart
from aiogram.types import CallbackQuery, InlineKeyboardButton, InlineKeyboardMarkup, Message

from chat.context import ChatContext
from chat.handlers.user import answer_in_private, is_for_them_alone, only_chat, private_link, row_text
from chat.i18n import Translator
from chat.replies import answer, answer_tap, edit_text
from chat.sent_videos import send_again
from chat.status_message import current_state
from chat.updates import clean, user_of
from chat.video_buttons import is_here
from ledger import requests
from ledger.models import Request, Video

PAGE: Final = "page:"
PLAY: Final = "play:"
_VIDEO_LINK: Final = "video-"
_ROWS: Final = 5
_PLAY_IN_ROW: Final = 3
_LAST_PAGE: Final = 10_000
_ID_CHARACTERS: Final = 12

Rows = Sequence[tuple[Request, Video | None]]


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="history")
    router.message.register(history, Command("history", ignore_case=True))
    router.message.register(history, CommandStart(deep_link=True, magic=F.args == "history"))
    router.message.register(video, Command("video", ignore_case=True))
    router.message.register(linked_video, CommandStart(deep_link=True, magic=F.args.startswith(_VIDEO_LINK)))
    router.callback_query.register(turn_page, F.data.startswith(PAGE))
    router.callback_query.register(play, F.data.startswith(PLAY))
    return router


async def history(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Show the latest requests; in a group, where only their sender sees it, those of this group."""
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif await is_for_them_alone(message, bot, t, "history"):
        chat_id = only_chat(message)
        rows = await _read_page(ctx, user.id, 0, chat_id)
        buttons = page_buttons(t, rows, 0) if chat_id is None else await private_link(bot, t, "history")
        await answer(message, _page_text(t, rows), buttons)


async def _read_page(ctx: ChatContext, user_id: int, page: int, chat_id: int | None = None) -> Rows:
    """Return the rows of a page, and one more where another page follows."""
    return await requests.list_for_user(ctx.ledger, user_id, _ROWS + 1, chat_id=chat_id, offset=page * _ROWS)


def _page_text(t: Translator, rows: Rows) -> str:
    shown = [row_text(t, *one) for one in rows[:_ROWS]]
    return "\n".join([t("history_head"), *shown]) if shown else t("history_none")


def page_buttons(t: Translator, rows: Rows, page: int) -> InlineKeyboardMarkup | None:
    """Return [▶ #id] for each video that is still here, and below them [Newer] [Older]."""
    shown = [request.short_id for request, video in rows[:_ROWS] if is_here(request, video)]
    play = [InlineKeyboardButton(text=f"▶ #{one}", callback_data=f"{PLAY}{one}") for one in shown]
    lines = [play[at : at + _PLAY_IN_ROW] for at in range(0, len(play), _PLAY_IN_ROW)]
    turns = [] if page == 0 else [(t("button_newer"), page - 1)]
    turns += [(t("button_older"), page + 1)] if len(rows) > _ROWS else []
    if turns:
        lines.append([InlineKeyboardButton(text=one, callback_data=f"{PAGE}{to}") for one, to in turns])
    return InlineKeyboardMarkup(inline_keyboard=lines) if lines else None


async def turn_page(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Older], [Newer]: show another page in the same message, in private alone."""
    wanted, where = (query.data or "").removeprefix(PAGE), query.message
    if not wanted.isdecimal() or int(wanted) > _LAST_PAGE or where is None or not _is_private(where):
        await answer_tap(query, t("tap_gone"))
        return
    rows = await _read_page(ctx, query.from_user.id, int(wanted))
    await edit_text(query, _page_text(t, rows), page_buttons(t, rows, int(wanted)))
    await answer_tap(query)


def _is_private(where: object) -> bool:
    chat = getattr(where, "chat", None)
    return chat is not None and chat.type == ChatType.PRIVATE


async def play(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[▶ #id]: send the video again, in private alone; a second tap at once is taken for a slip."""
    short_id, where = (query.data or "").removeprefix(PLAY), query.message
    if where is None or not _is_private(where):
        await answer_tap(query, t("tap_gone"))
        return
    found = await _find(ctx, query.from_user.id, short_id)
    if found is None or found[1] is None or not is_here(*found):
        await answer_tap(query, _why_not(t, short_id, found), alert=True)
        return
    first = await ctx.conversations.is_first_tap(f"play:{query.from_user.id}:{short_id}", query.id)
    if first and not await send_again(ctx, t, where.chat.id, found[0], found[1]):
        await answer_tap(query, t("video_gone", id=short_id), alert=True)
        return
    await answer_tap(query)


async def video(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Send one of the person's own videos again: `/video #1a2b3c`."""
    user = user_of(message)
    wanted = clean(command.args or "").partition(" ")[0].lstrip("#").lower()[:_ID_CHARACTERS]
    if user is None:
        await answer(message, t("no_payer"))
    elif not wanted:
        await answer(message, t("video_usage"))
    elif message.chat.type == ChatType.PRIVATE:
        await _send_named(message, ctx, t, user.id, wanted)
    else:  # the video would be seen by all
        name = f"{_VIDEO_LINK}{wanted}" if wanted.isalnum() and wanted.isascii() else "history"
        await answer_in_private(message, bot, t, name)


async def linked_video(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """Send the video that a link from a group names."""
    user = user_of(message)
    if user is not None and message.chat.type == ChatType.PRIVATE:
        wanted = (command.args or "").removeprefix(_VIDEO_LINK).lower()
        await _send_named(message, ctx, t, user.id, wanted[:_ID_CHARACTERS])
    else:
        await answer(message, t("no_payer"))


async def _send_named(message: Message, ctx: ChatContext, t: Translator, user_id: int, short_id: str) -> None:
    found = await _find(ctx, user_id, short_id)
    if found is None or found[1] is None or not is_here(*found):
        await answer(message, _why_not(t, short_id, found))
    elif not await send_again(ctx, t, message.chat.id, found[0], found[1]):
        await answer(message, t("video_gone", id=short_id))


async def _find(ctx: ChatContext, user_id: int, short_id: str) -> tuple[Request, Video | None] | None:
    named = await requests.find_named(ctx.ledger, short_id, user_id)
    return None if named is None else await requests.find_with_video(ctx.ledger, named.request_id)


def _why_not(t: Translator, short_id: str, found: tuple[Request, Video | None] | None) -> str:
    """Say why there is no video; of another person's no more than of one that does not exist."""
    if found is None:
        return t("video_unknown", id=short_id)
    if found[0].erasure is not None:
        return t("video_erased", id=short_id)
    return t("video_not", id=short_id, state=t(f"state_{current_state(*found)}"))
