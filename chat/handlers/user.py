"""/create, /status, /history, /quota, /cancel, /help."""

import asyncio
from contextlib import suppress

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.types import Message

from chat.context import IDEA_CHARACTERS, ChatContext
from chat.i18n import Translator
from chat.notifier import notify
from chat.replies import REPLY_TIMEOUT_S, answer
from chat.status_message import current_state
from chat.updates import clean, request_id_of, user_of
from guardrails.admission import AdmissionRequest, Availability, ReleaseScope
from guardrails.limits import Limits, Usage
from ledger import requests, transitions
from ledger.models import CANCELLABLE_STATES, FINAL_STATES, Request, RequestState, Video, VideoState
from ledger.requests import NewRequest
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.tracing import traceparent
from tools.registry import GENERATE_VIDEO
from tools.text import trimmed
from worker.run_agent import refuse_request

log = get_logger(__name__)
_MAX_STATUS_ROWS = 10


def build_router() -> Router:
    """Return a router of its own for each dispatcher; no edited message reaches it: an edit never creates."""
    router = Router(name="commands")
    for handler in (create, start, help_, status, history, quota, cancel):
        name = handler.__name__.rstrip("_")
        router.message.register(handler, Command(name, ignore_case=True))
    # Below stands what is no command of ours; in groups it is meant for somebody else.
    private = F.chat.type == ChatType.PRIVATE
    router.message.register(unknown, F.text.startswith("/"), private)
    router.message.register(chatter, F.text, private)
    router.message.register(wordless, private)
    return router


async def create(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Open this request once, look whether it may be made, and wake the director."""
    payer, idea = user_of(message), clean(command.args or "")
    # What follows this message may be the rest of a long text, or of an album: it is no news to answer.
    ctx.throttle.allow("hint", message.chat.id, message.from_user and message.from_user.id)
    if payer is None:
        await answer(message, t("no_payer"))
    elif message.forward_origin is not None:
        await answer(message, t("forwarded"))
    elif not idea:
        await answer(message, t("usage"))
    elif len(idea) > IDEA_CHARACTERS:
        await answer(message, t("too_long", count=len(idea), most=IDEA_CHARACTERS))
    else:
        await _open_request(ctx, message, _new_request(message, bot, payer.id, idea, t), t)


def _new_request(message: Message, bot: Bot, user_id: int, idea: str, t: Translator) -> NewRequest:
    request_id = request_id_of(message, bot.id)
    return NewRequest(
        request_id, bot.id, message.chat.id, message.message_id, user_id, t.language, idea, traceparent()
    )


async def _open_request(ctx: ChatContext, message: Message, new: NewRequest, t: Translator) -> None:
    waiting = await requests.active_count(ctx.ledger, new.user_id)
    request, created = await requests.open_request(ctx.ledger, new)
    log.info("request", request=request.request_id, new=created)
    await failpoint("opened")
    goes_on = request.state is RequestState.OPEN
    if goes_on and created and waiting >= ctx.max_open:
        await requests.close_request(ctx.ledger, request.request_id, RequestState.REFUSED, "chat", "busy")
        goes_on = False
    elif goes_on:
        goes_on = not await _refuse_early(ctx, request)
        if goes_on:
            await ctx.queue.wake("run_agent", request.request_id)
            await failpoint("woken")
    if not await ctx.queue.wake("notify", request.request_id) and created:
        # The queue is away: the sweep of a worker takes the request up, and the user is told at once.
        await (answer(message, t("kept")) if goes_on else _notify_inline(ctx, request))


async def _notify_inline(ctx: ChatContext, request: Request) -> None:
    """Show the refusal as the ledger has it, in the message that every later teller finds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(REPLY_TIMEOUT_S):
            await notify(ctx, request.request_id)


async def _refuse_early(ctx: ChatContext, request: Request) -> bool:
    """Look before the run: a refusal is instant and calls no model. A store that is away refuses nothing."""
    price = ctx.offer.cheapest()
    decision = await ctx.admission.check(
        AdmissionRequest(GENERATE_VIDEO, request.request_id, request.user_id, price=price, limits=ctx.limits)
    )
    if decision.word in ("admitted", "replay", "closed"):
        return False
    return await refuse_request(ctx.worker, request.request_id, decision)


async def start(message: Message, ctx: ChatContext, t: Translator) -> None:
    await answer(message, t.html("start", prices=price_text(ctx, t)))


async def help_(message: Message, ctx: ChatContext, t: Translator) -> None:
    await answer(message, t.html("help", prices=price_text(ctx, t)))


def price_text(ctx: ChatContext, t: Translator) -> str:
    """Return the prices, from the provider's quote, and that they are rehearsal dollars where they are."""
    prices, quota, window = ctx.offer.price_list(), ctx.limits.quota, t.window(ctx.limits.quota_window_s)
    line = (
        t("prices_free", list=prices)
        if quota is None
        else t("prices", list=prices, quota=quota, window=window)
    )
    return f"{line} {t('preview_note')}" if ctx.is_preview(ctx.offer.provider) else line


async def status(message: Message, ctx: ChatContext, t: Translator) -> None:
    payer = user_of(message)
    await answer(message, t("no_payer") if payer is None else await status_text(ctx, t, payer.id))


async def status_text(ctx: ChatContext, t: Translator, user_id: int) -> str:
    """Return what is under way for this user."""
    found = await requests.list_for_user(ctx.ledger, user_id, 50)
    rows = [_row(t, *one) for one in found if _under_way(*one)][:_MAX_STATUS_ROWS]
    return "\n".join([t("status_head"), *rows]) if rows else t("status_none")


def _row(t: Translator, request: Request, video: Video | None) -> str:
    state = t(f"state_{current_state(request, video)}")
    return t("row", id=request.short_id, state=state, idea=trimmed(request.idea, 60))


def _under_way(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state not in FINAL_STATES


async def history(message: Message, ctx: ChatContext, t: Translator) -> None:
    payer = user_of(message)
    await answer(message, t("no_payer") if payer is None else await history_text(ctx, t, payer.id))


async def history_text(ctx: ChatContext, t: Translator, user_id: int) -> str:
    """Return this user's latest requests."""
    rows = [_row(t, *one) for one in await requests.list_for_user(ctx.ledger, user_id)]
    return "\n".join([t("history_head"), *rows]) if rows else t("history_none")


async def quota(message: Message, ctx: ChatContext, t: Translator) -> None:
    payer = user_of(message)
    await answer(message, t("no_payer") if payer is None else await quota_text(ctx, t, payer.id))


async def quota_text(ctx: ChatContext, t: Translator, user_id: int) -> str:
    """Return what this user has used, has left, and when the next video is possible."""
    found = await ctx.admission.availability(user_id, ctx.offer.cheapest(), ctx.limits)
    return "\n".join([*_used(t, found.usage, ctx.limits), _next(t, found)])


def _used(t: Translator, standing: Usage, limits: Limits) -> list[str]:
    """Videos and dollars, each beside its limit where it has one, within its own window."""
    counted, paid = t.window(limits.quota_window_s), t.window(limits.user_window_s)
    used, spent, quota, budget = standing.used, standing.spent, limits.quota, limits.user_budget
    return [
        t("quota_used_free", used=used, window=counted)
        if quota is None
        else t("quota_used", used=used, quota=quota, window=counted),
        t("quota_spent_free", spent=spent, window=paid)
        if budget is None
        else t("quota_spent", spent=spent, budget=budget, window=paid),
    ]


def _next(t: Translator, found: Availability) -> str:
    match found.word:
        case "admitted" | "replay":
            return t("quota_ready")
        case "breaker" | "closed":
            return t(f"quota_{found.word}")
        case "budget":
            return t("quota_budget", when=t.when(found.until, found.now))
        case "quota" | "cooldown":
            return t("quota_wait", when=t.when(found.until, found.now))


async def cancel(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """Cancel the named request (`/cancel #1a2b3c`), else the newest that is not paid yet."""
    payer = user_of(message)
    if payer is None:
        await answer(message, t("no_payer"))
    elif message.forward_origin is not None:
        await answer(message, t("forwarded"))
    else:
        wanted = clean(command.args or "").partition(" ")[0].lstrip("#")
        words, request_id = await cancel_request(ctx, t, payer.id, wanted)
        if request_id is not None:
            await ctx.queue.wake("notify", request_id)
        await answer(message, words)


async def cancel_request(
    ctx: ChatContext, t: Translator, user_id: int, wanted: str
) -> tuple[str, str | None]:
    """Cancel one request of this user; return what to say and, if something was cancelled, which one."""
    found = await requests.list_for_user(ctx.ledger, user_id, 50)
    if wanted:
        found = [one for one in found if one[0].short_id == wanted.lower()]
        if not found:
            return t("cancel_unknown", id=wanted[:12]), None
    else:
        found = [one for one in found if _may_cancel(*one)]
        if not found:
            return t("cancel_none"), None
    request = found[0][0]
    state = await transitions.cancel(ctx.ledger, request.request_id, user_id)
    if state not in (RequestState.CANCELLED, VideoState.CANCELLED):
        return t("cancel_late", id=request.short_id, state=t(f"state_{state}")), None
    what: ReleaseScope = "unpaid" if state is VideoState.CANCELLED else "all"
    await ctx.admission.release(GENERATE_VIDEO, request.request_id, user_id, what)
    return t("cancel_done", id=request.short_id), request.request_id


def _may_cancel(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state in CANCELLABLE_STATES


async def unknown(message: Message, ctx: ChatContext, t: Translator) -> None:
    await _hint(message, ctx, t("unknown_command"))


async def chatter(message: Message, ctx: ChatContext, t: Translator) -> None:
    await _hint(message, ctx, t("chatter"))


async def wordless(message: Message, ctx: ChatContext, t: Translator) -> None:
    await _hint(message, ctx, t("no_text"))


async def _hint(message: Message, ctx: ChatContext, words: str) -> None:
    """Say what would be understood; not for each piece of one long text, nor each picture of one album."""
    if ctx.throttle.allow("hint", message.chat.id, message.from_user and message.from_user.id):
        await answer(message, words)
