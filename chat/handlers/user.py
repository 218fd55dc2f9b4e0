"""/create, /status, /history, /quota, /cancel, /help."""

import asyncio
from contextlib import suppress

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.types import Message

from chat.context import IDEA_CHARACTERS, Desk
from chat.i18n import Texts
from chat.notifier import tell
from chat.replies import ANSWER_S, answer
from chat.status_message import shown
from chat.updates import clean, payer_of, request_id_of
from guardrails.admission import Ask, Outlook, Release, outlook
from ledger import requests, transitions
from ledger.limits import Limits, Standing
from ledger.models import SETTLED, WAITING, Request, RequestState, Video, VideoState
from ledger.requests import NewRequest
from telemetry.failpoints import reach
from telemetry.logs import get_logger
from telemetry.tracing import traceparent
from tools import generate_video
from tools.generate_caption import trimmed
from worker.run_agent import refuse

_UNDER_WAY = 10


def price_words(desk: Desk, say: Texts) -> str:
    """Return the prices, from the provider's quote, and that they are rehearsal dollars where they are."""
    prices, quota, window = desk.offer.price_list(), desk.limits.quota, say.window(desk.limits.quota_window_s)
    line = (
        say("prices_free", list=prices)
        if quota is None
        else say("prices", list=prices, quota=quota, window=window)
    )
    return f"{line} {say('preview_note')}" if desk.is_preview(desk.offer.provider) else line


def _row(say: Texts, request: Request, video: Video | None) -> str:
    state = say(f"state_{shown(request, video)}")
    return say("row", id=request.short_id, state=state, idea=trimmed(request.idea, 60))


def _under_way(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state not in SETTLED


async def status_words(desk: Desk, say: Texts, user_id: int) -> str:
    """Return what is under way for this user."""
    found = await requests.of_user(desk.ledger, user_id, 50)
    rows = [_row(say, *one) for one in found if _under_way(*one)][:_UNDER_WAY]
    return "\n".join([say("status_head"), *rows]) if rows else say("status_none")


async def history_words(desk: Desk, say: Texts, user_id: int) -> str:
    """Return this user's latest requests."""
    rows = [_row(say, *one) for one in await requests.of_user(desk.ledger, user_id)]
    return "\n".join([say("history_head"), *rows]) if rows else say("history_none")


async def quota_words(desk: Desk, say: Texts, user_id: int) -> str:
    """Return what this user has used, has left, and when the next video is possible."""
    found = await outlook(desk.admission, desk.ledger, user_id, desk.offer.cheapest(), desk.limits)
    return "\n".join([*_used(say, found.standing, desk.limits), _next(say, found)])


def _used(say: Texts, standing: Standing, limits: Limits) -> list[str]:
    """Videos and dollars, each beside its limit where it has one, within its own window."""
    counted, paid = say.window(limits.quota_window_s), say.window(limits.user_window_s)
    used, spent, quota, budget = standing.used, standing.spent, limits.quota, limits.user_budget
    return [
        say("quota_used_free", used=used, window=counted)
        if quota is None
        else say("quota_used", used=used, quota=quota, window=counted),
        say("quota_spent_free", spent=spent, window=paid)
        if budget is None
        else say("quota_spent", spent=spent, budget=budget, window=paid),
    ]


def _next(say: Texts, found: Outlook) -> str:
    match found.word:
        case "admitted" | "replay":
            return say("quota_ready")
        case "breaker" | "closed":
            return say(f"quota_{found.word}")
        case "budget":
            return say("quota_budget", when=say.when(found.until, found.now))
        case "quota" | "cooldown":
            return say("quota_wait", when=say.when(found.until, found.now))


async def cancel_words(desk: Desk, say: Texts, user_id: int, wanted: str) -> tuple[str, str | None]:
    """Cancel one request of this user; return what to say and, if something was cancelled, which one."""
    found = await requests.of_user(desk.ledger, user_id, 50)
    if wanted:
        found = [one for one in found if one[0].short_id == wanted.lower()]
        if not found:
            return say("cancel_unknown", id=wanted[:12]), None
    else:
        found = [one for one in found if _may_cancel(*one)]
        if not found:
            return say("cancel_none"), None
    request = found[0][0]
    state = await transitions.cancel(desk.ledger, request.request_id, user_id)
    if state not in (RequestState.CANCELLED, VideoState.CANCELLED):
        return say("cancel_late", id=request.short_id, state=say(f"state_{state}")), None
    what: Release = "unpaid" if state is VideoState.CANCELLED else "all"
    await desk.admission.release(generate_video.NAME, request.request_id, user_id, what)
    return say("cancel_done", id=request.short_id), request.request_id


def _may_cancel(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state in WAITING


log = get_logger(__name__)


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


async def create(message: Message, command: CommandObject, bot: Bot, desk: Desk, say: Texts) -> None:
    """Open this request once, look whether it may be made, and wake the director."""
    payer, idea = payer_of(message), clean(command.args or "")
    # What follows this message may be the rest of a long text, or of an album: it is no news to answer.
    desk.hush.first("hint", message.chat.id, message.from_user and message.from_user.id)
    if payer is None:
        await answer(message, say("no_payer"))
    elif message.forward_origin is not None:
        await answer(message, say("forwarded"))
    elif not idea:
        await answer(message, say("usage"))
    elif len(idea) > IDEA_CHARACTERS:
        await answer(message, say("too_long", count=len(idea), most=IDEA_CHARACTERS))
    else:
        await _open(desk, message, _new(message, bot, payer.id, idea, say), say)


def _new(message: Message, bot: Bot, user_id: int, idea: str, say: Texts) -> NewRequest:
    request_id = request_id_of(message, bot.id)
    return NewRequest(
        request_id, bot.id, message.chat.id, message.message_id, user_id, say.language, idea, traceparent()
    )


async def _open(desk: Desk, message: Message, new: NewRequest, say: Texts) -> None:
    waiting = await requests.active_count(desk.ledger, new.user_id)
    request, created = await requests.open_request(desk.ledger, new)
    log.info("request", request=request.request_id, new=created)
    await reach("opened")
    goes_on = request.state is RequestState.OPEN
    if goes_on and created and waiting >= desk.most_open:
        await requests.close_request(desk.ledger, request.request_id, RequestState.REFUSED, "chat", "busy")
        goes_on = False
    elif goes_on:
        goes_on = not await _refused(desk, request)
        if goes_on:
            await desk.queue.wake("direct", request.request_id)
            await reach("woken")
    if not await desk.queue.wake("tell", request.request_id) and created:
        # The queue is away: the sweep of a worker takes the request up, and the user is told at once.
        await (answer(message, say("kept")) if goes_on else _tell_here(desk, request))


async def _tell_here(desk: Desk, request: Request) -> None:
    """Show the refusal as the ledger has it, in the message that every later teller finds."""
    with suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_S):
            await tell(desk, request.request_id)


async def _refused(desk: Desk, request: Request) -> bool:
    """Look before the run: a refusal is instant and calls no model. A store that is away refuses nothing."""
    price = desk.offer.cheapest()
    decision = await desk.admission.look(
        Ask(generate_video.NAME, request.request_id, request.user_id, price=price, limits=desk.limits)
    )
    if decision.word in ("admitted", "replay", "closed"):
        return False
    return await refuse(desk.studio, request.request_id, decision)


async def start(message: Message, desk: Desk, say: Texts) -> None:
    await answer(message, say.html("start", prices=price_words(desk, say)))


async def help_(message: Message, desk: Desk, say: Texts) -> None:
    await answer(message, say.html("help", prices=price_words(desk, say)))


async def status(message: Message, desk: Desk, say: Texts) -> None:
    payer = payer_of(message)
    await answer(message, say("no_payer") if payer is None else await status_words(desk, say, payer.id))


async def history(message: Message, desk: Desk, say: Texts) -> None:
    payer = payer_of(message)
    await answer(message, say("no_payer") if payer is None else await history_words(desk, say, payer.id))


async def quota(message: Message, desk: Desk, say: Texts) -> None:
    payer = payer_of(message)
    await answer(message, say("no_payer") if payer is None else await quota_words(desk, say, payer.id))


async def cancel(message: Message, command: CommandObject, desk: Desk, say: Texts) -> None:
    """Cancel the named request (`/cancel #1a2b3c`), else the newest that is not paid yet."""
    payer = payer_of(message)
    if payer is None:
        await answer(message, say("no_payer"))
    elif message.forward_origin is not None:
        await answer(message, say("forwarded"))
    else:
        wanted = clean(command.args or "").partition(" ")[0].lstrip("#")
        words, request_id = await cancel_words(desk, say, payer.id, wanted)
        if request_id is not None:
            await desk.queue.wake("tell", request_id)
        await answer(message, words)


async def unknown(message: Message, desk: Desk, say: Texts) -> None:
    await _hint(message, desk, say("unknown_command"))


async def chatter(message: Message, desk: Desk, say: Texts) -> None:
    await _hint(message, desk, say("chatter"))


async def wordless(message: Message, desk: Desk, say: Texts) -> None:
    await _hint(message, desk, say("no_text"))


async def _hint(message: Message, desk: Desk, words: str) -> None:
    """Say what would be understood; not for each piece of one long text, nor each picture of one album."""
    if desk.hush.first("hint", message.chat.id, message.from_user and message.from_user.id):
        await answer(message, words)
