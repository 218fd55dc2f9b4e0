"""Commands. Each handler persists, wakes and answers; it does no work that a second delivery would repeat."""

import asyncio
from contextlib import suppress

from aiogram import Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject
from aiogram.types import Message

from chat.answers import ANSWER_S, answer
from chat.desk import IDEA_CHARACTERS, Desk
from chat.identity import clean, payer_of, request_id_of
from chat.overview import cancel_words, history_words, price_words, quota_words, status_words
from chat.tell import tell
from chat.texts import Texts
from guardrails.admission import Ask
from ledger import requests
from ledger.models import Request
from ledger.requests import NewRequest
from ledger.words import RequestState
from telemetry.failpoints import reach
from telemetry.logs import get_logger
from telemetry.tracing import traceparent
from tools import generate_video
from worker.run_agent import refuse

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
