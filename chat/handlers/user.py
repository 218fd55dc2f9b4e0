"""/start, /help, /status, /quota, /cancel."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.types import CallbackQuery, InlineKeyboardMarkup, Message

from chat.alert_list import open_text
from chat.context import ChatContext
from chat.i18n import Translator
from chat.keyboards import SHOW_LEFT, SHOW_PRICES, STOP, link_button, welcome_buttons
from chat.offer_text import shape_word
from chat.pictures import why_no_pictures
from chat.replies import TAP_CHARACTERS, answer, answer_below, answer_tap
from chat.status_message import current_state
from chat.updates import clean, user_of
from guardrails.admission import Availability, ReleaseScope
from guardrails.limits import Limits, Usage
from guardrails.money import Money
from ledger import requests, transitions, video_credits
from ledger.models import (
    CANCELLABLE_STATES,
    FINAL_STATES,
    Request,
    RequestState,
    Video,
    VideoState,
    act_of,
)
from ledger.pruning import PRUNED
from tools.registry import GENERATE_VIDEO
from tools.text import plain_text, trimmed
from tools.wishes import shape_of

COMMANDS: Final = (
    "create", "start", "help", "status", "history", "video", "quota", "cancel", "settings", "report",
    "privacy", "forget",
)  # fmt: skip
_MAX_STATUS_ROWS: Final = 10


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent. Edited messages do not reach it."""
    router = Router(name="commands")
    for handler in (start, help_, status, quota, cancel):
        name = handler.__name__.rstrip("_")
        router.message.register(handler, Command(name, ignore_case=True))
    router.callback_query.register(show_prices, F.data == SHOW_PRICES)
    router.callback_query.register(show_left, F.data == SHOW_LEFT)
    router.callback_query.register(stop, F.data.startswith(STOP))
    return router


async def start(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Welcome a person; a link from a group says what it was about."""
    handler = _PRIVATE.get((command.args or "").strip())
    if handler is not None and message.chat.type == ChatType.PRIVATE:
        await handler(message, bot, ctx, t)
    else:
        await answer(message, await _welcome(message, ctx, t), welcome_buttons(t))


async def _welcome(message: Message, ctx: ChatContext, t: Translator) -> str:
    """Return the welcome; an admin reads below it what is open."""
    text, user = start_text(ctx, t), user_of(message)
    if user is None or user.id not in ctx.admins or message.chat.type != ChatType.PRIVATE:
        return text
    return f"{text}\n\n{await open_text(ctx, t) or t('alerts_none')}"


def start_text(ctx: ChatContext, t: Translator) -> str:
    """Return the welcome, with a note where no real money is taken."""
    lines = [t("start"), *([t("start_price")] if ctx.asks else [])]
    return " ".join([*lines, *([t("preview_note")] if ctx.is_preview(ctx.offer.provider) else [])])


async def show_prices(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Prices]: answer below the welcome."""
    await answer_below(query, price_text(ctx, t))


async def show_left(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[What is left]: answer below the welcome, in a group on the screen of the person alone."""
    text = await quota_text(ctx, t, query.from_user.id)
    if isinstance(query.message, Message) and query.message.chat.type == ChatType.PRIVATE:
        await answer_below(query, text)
    else:
        await answer_tap(query, plain_text(text, TAP_CHARACTERS), alert=True)


async def stop(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """[Cancel] under the status message: stop what is not paid yet."""
    await stop_request(query, ctx, t, (query.data or "").removeprefix(STOP))


async def stop_request(query: CallbackQuery, ctx: ChatContext, t: Translator, short_id: str) -> None:
    """Stop what is not paid yet, and answer the tap."""
    text, request_id = await cancel_request(ctx, t, query.from_user.id, short_id)
    if request_id is not None:
        await ctx.queue.wake("notify", request_id)
    await answer_tap(query, plain_text(text, TAP_CHARACTERS), alert=request_id is None)


async def help_(message: Message, ctx: ChatContext, t: Translator) -> None:
    await answer(message, help_text(ctx, t))


def help_text(ctx: ChatContext, t: Translator) -> str:
    """Return the commands, the prices, and where pictures are used how to send one."""
    lines = [price_text(ctx, t), *([] if why_no_pictures(ctx) else [t("help_pictures")])]
    return t.html("help", prices="\n".join(lines))


def price_text(ctx: ChatContext, t: Translator) -> str:
    """Return the provider's prices, with a note where they are test credits."""
    prices, quota, window = price_list(ctx, t), ctx.limits.quota, t.window(ctx.limits.quota_window_s)
    line = (
        t("prices_free", list=prices)
        if quota is None
        else t("prices", list=prices, count=quota, window=window)
    )
    return f"{line} {t('preview_note')}" if ctx.is_preview(ctx.offer.provider) else line


def price_list(ctx: ChatContext, t: Translator) -> str:
    """Return every length with its price, and with the shapes that it is for where prices differ by shape."""
    return ", ".join(f"{seconds} s: {_priced(t, prices)}" for seconds, prices in ctx.offer.prices().items())


def _priced(t: Translator, prices: Mapping[Money, Sequence[str]]) -> str:
    shapes = {price: dict.fromkeys(shape_of(size) for size in sizes) for price, sizes in prices.items()}
    if len(shapes) == 1:
        return t.money(next(iter(shapes)))
    return " / ".join(
        f"{t.money(price)} ({', '.join(shape_word(t, one) for one in those)})"
        for price, those in shapes.items()
    )


async def status(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif await is_for_them_alone(message, bot, t, "status"):
        await answer(message, await status_text(ctx, t, user.id, only_chat(message)))


async def is_for_them_alone(message: Message, bot: Bot, t: Translator, name: str) -> bool:
    """Return whether nobody else reads the answer; else send a link to where that is so."""
    if message.chat.type == ChatType.PRIVATE or message.ephemeral_message_id is not None:
        return True
    await answer_in_private(message, bot, t, name)
    return False


async def answer_in_private(message: Message, bot: Bot, t: Translator, name: str) -> None:
    """Send a link to the private chat, where the answer of this name is given."""
    await answer(message, t("in_private"), await private_link(bot, t, name))


async def private_link(bot: Bot, t: Translator, name: str) -> InlineKeyboardMarkup:
    """Return a button that opens the private chat and asks for the answer of this name there."""
    me = await bot.me()
    return link_button(t("button_open"), f"https://t.me/{me.username}?start={name}")


def only_chat(message: Message) -> int | None:
    """Return the chat whose requests may be shown here: in a group nothing of another chat."""
    return None if message.chat.type == ChatType.PRIVATE else message.chat.id


async def status_text(ctx: ChatContext, t: Translator, user_id: int, chat_id: int | None = None) -> str:
    """Return this user's requests that are in progress, in one chat or in all."""
    found = await requests.list_for_user(ctx.ledger, user_id, 50, chat_id=chat_id)
    rows = [row_text(t, *one) for one in found if is_active(*one)][:_MAX_STATUS_ROWS]
    return "\n".join([t("status_head"), *rows]) if rows else t("status_none")


def row_text(t: Translator, request: Request, video: Video | None) -> str:
    """Return one line about a request: its id, its state, its idea."""
    state = t(f"state_{current_state(request, video)}")
    gone = t("idea_pruned") if request.erasure is None else t("idea_erased")
    idea = gone if request.idea == PRUNED else trimmed(request.idea, 60)
    return t("row", id=request.short_id, state=state, idea=idea)


def is_active(request: Request, video: Video | None) -> bool:
    """Return whether a request is still in progress."""
    return request.state is RequestState.OPEN if video is None else video.state not in FINAL_STATES


async def quota(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif await is_for_them_alone(message, bot, t, "quota"):
        await answer(message, await quota_text(ctx, t, user.id))


async def quota_text(ctx: ChatContext, t: Translator, user_id: int) -> str:
    """Return this user's usage, and when the next video is possible."""
    credits_left = await video_credits.left(ctx.ledger, user_id)
    found = await ctx.admission.availability(user_id, ctx.offer.cheapest(), ctx.limits, credits_left)
    more = [t("quota_credits", count=credits_left)] if credits_left > 0 else []
    return "\n".join([*_used(t, found.usage, ctx.limits), *more, _next(t, found)])


def _used(t: Translator, usage: Usage, limits: Limits) -> list[str]:
    """Return videos and dollars used, each with its limit (if any) and its own window."""
    quota_within, budget_within = t.within(limits.quota_window_s), t.within(limits.user_window_s)
    used, spent, quota, budget = usage.used, usage.spent, limits.quota, limits.user_budget
    return [
        t("quota_used_free", count=used, within=quota_within)
        if quota is None
        else t("quota_used", used=used, count=quota, within=quota_within),
        t("quota_spent_free", spent=spent, within=budget_within)
        if budget is None
        else t("quota_spent", spent=spent, budget=budget, within=budget_within),
    ]


def _next(t: Translator, found: Availability) -> str:
    match found.word:
        case "admitted" | "replay":
            return t("quota_ready")
        case "breaker" | "closed":
            return t(f"quota_{found.word}")
        case "content":  # a request's verdict, and this asks about none
            return t("quota_closed")
        case "budget":
            return t("quota_budget", when=t.when(found.until, found.now))
        case "quota" | "cooldown":
            return t("quota_wait", when=t.when(found.until, found.now))


async def cancel(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """Cancel the named request (`/cancel #1a2b3c`), else the newest that is not paid yet."""
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif message.forward_origin is not None:
        await answer(message, t("forwarded"))
    else:
        wanted = clean(command.args or "").partition(" ")[0].lstrip("#")
        text, request_id = await cancel_request(ctx, t, user.id, wanted, only_chat(message))
        if request_id is not None:
            await ctx.queue.wake("notify", request_id)
        await answer(message, text)


async def cancel_request(
    ctx: ChatContext, t: Translator, user_id: int, wanted: str, chat_id: int | None = None
) -> tuple[str, str | None]:
    """Cancel one request, of one chat or of all; return the reply and the cancelled request's id, if any."""
    found = await requests.list_for_user(ctx.ledger, user_id, 50, chat_id=chat_id)
    if wanted:
        found = [one for one in found if one[0].short_id == wanted.lower()]
        if not found:
            return t("cancel_unknown", id=wanted[:12]), None
    else:
        found = [one for one in found if _is_cancellable(*one)]
        if not found:
            return t("cancel_none"), None
    request, _ = found[0]
    ended = await transitions.cancel(ctx.ledger, request.request_id, user_id)
    if ended.state not in (RequestState.CANCELLED, VideoState.CANCELLED):
        return _too_late(t, request, ended), None
    what: ReleaseScope = "all" if ended.video is None else "unpaid"
    version = None if ended.video is None else ended.video.version
    tool = GENERATE_VIDEO if ended.video is None else ended.video.tool
    await ctx.admission.release(tool, act_of(request.request_id), user_id, what, version)
    return t("cancel_done", id=request.short_id), request.request_id


def _too_late(t: Translator, request: Request, found: transitions.Cancellation) -> str:
    """Say why a request cannot be cancelled: what was paid will still arrive."""
    video = found.video
    if video is not None and video.state in (VideoState.ACCEPTED, VideoState.SUCCEEDED):
        return t("cancel_paid", id=request.short_id, price=video.quote)
    if video is not None and video.state is VideoState.SUBMITTING:
        return t("cancel_sending", id=request.short_id, price=video.quote)
    return t("cancel_late", id=request.short_id, state=t(f"state_{found.state}"))


def _is_cancellable(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state in CANCELLABLE_STATES


_PRIVATE: Final[Mapping[str, Callable[[Message, Bot, ChatContext, Translator], Awaitable[None]]]] = {
    "status": status, "quota": quota,
}  # fmt: skip
"""Answers that only their person reads, by the word in a link."""
