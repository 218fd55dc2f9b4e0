"""What the laws about the chat share: a house behind a webhook, raw updates, a table that is away."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import ClientSession
from sqlalchemy import func, select, text
from waiting import wait_until

from app.processes import run_polling, run_worker
from chat.dispatcher import build_dispatcher, webhook_handler
from chat.polling import ALLOWED_UPDATES
from ledger import requests
from ledger.schema import requests as requests_table
from web.server import build_app, serve

SECRET = "a-secret_of-1"
HEADER = "X-Telegram-Bot-Api-Secret-Token"
GROUP = -1001234567890
_ids = itertools.count(50_000)


def work_only(app):
    """Updates come some other way: by a webhook of the test."""
    return (run_worker(app),)


def front_only(app):
    """Nobody works: what the handlers wrote stays as they wrote it."""
    return (run_polling(app),)


@pytest.fixture(name="front")
async def handlers_alone(app_env):
    """A house whose handlers stand alone: what they write stays as they wrote it."""
    return await app_env(wake=front_only)


@asynccontextmanager
async def on_webhook(env, *, around=None, announce=True) -> AsyncIterator[str]:
    """Serve the house's updates by webhook; yield its address; `around` stands before the gate."""
    dispatcher = build_dispatcher(env.app.chat)
    if around is not None:
        dispatcher.update.outer_middleware(around)
    handler = webhook_handler(dispatcher, env.app.bot, SECRET)
    async with serve(build_app({}, {"/hook": handler.handle}), "127.0.0.1", 0) as url:
        if announce:
            await env.app.bot.set_webhook(f"{url}/hook", secret_token=SECRET, allowed_updates=ALLOWED_UPDATES)
        yield f"{url}/hook"


async def post(url: str, update: dict | bytes, secret: str | None = SECRET) -> int:
    """POST one update as Telegram does; return the status."""
    headers = {} if secret is None else {HEADER: secret}
    body = {"data": update} if isinstance(update, bytes) else {"json": update}
    async with ClientSession() as session, session.post(url, headers=headers, **body) as answer:
        return answer.status


def push(env, kind: str = "message", **body):
    """Queue an update as Telegram would send it, for senders that no person can be."""
    message = {
        "message_id": next(_ids),
        "date": 1,
        "chat": {"id": 1001, "type": "private", "first_name": "A"},
    }
    sender = {"from": {"id": 1001, "is_bot": False, "first_name": "A", "language_code": "en"}}
    return env.api.world.updates.push(kind, message | sender | body, "chat:raw", 60)


def said(env, chat_id: int | None = None) -> list[str]:
    """Return every text that the bot sent to a chat, oldest first."""
    calls = env.api.calls.of("sendMessage")
    return [
        call.params["text"]
        for call in calls
        if call.performed and (chat_id is None or int(call.params["chat_id"]) == chat_id)
    ]


def told_once(env) -> None:
    """One ping; at most one status message: a video that is here before the first look needs none."""
    texts = said(env)
    pings = [text for text in texts if "ready" in text]
    assert len(pings) == 1, texts
    assert len(texts) <= 2, texts


async def count_requests(env) -> int:
    async with env.app.ledger.read() as conn:
        return int(await conn.scalar(select(func.count()).select_from(requests_table)) or 0)


async def answers(env, count: int, chat_id: int | None = None, seconds: float = 10) -> list[str]:
    """Wait until the bot has sent `count` texts; return them."""

    async def there() -> bool:
        return len(said(env, chat_id)) >= count

    await wait_until(there, seconds, f"{count} answers; there are {said(env, chat_id)}")
    return said(env, chat_id)


async def taken_up(env) -> None:
    """Wait until the bot has confirmed every update."""

    async def empty() -> bool:
        return not env.api.pending_updates

    await wait_until(empty, 10, "all updates to be confirmed")


async def state_is(env, state, user_id: int = 1001, seconds: float = 15) -> None:
    """Wait until the user's latest request, or its video, is in `state`, and was told so."""

    async def there() -> bool:
        found = await env.latest(user_id)
        return found is not None and (found[1] or found[0]).state == state and found[0].told == state

    await wait_until(there, seconds, f"{state}")


@asynccontextmanager
async def without_requests(ledger) -> AsyncIterator[None]:
    """Take the ledger's first table away: to its clients the database fails, until the block ends."""
    async with ledger.write() as conn:
        await conn.execute(text("ALTER TABLE requests RENAME TO away"))
    try:
        yield
    finally:
        async with ledger.write() as conn:
            await conn.execute(text("ALTER TABLE away RENAME TO requests"))


async def both(env, user_id: int = 1001):
    found = await requests.list_for_user(env.app.ledger, user_id, 1)
    return found[0]
