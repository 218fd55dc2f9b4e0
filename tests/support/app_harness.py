"""Helpers for tests of the whole app: open it, send updates, wait for what the bot says."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import ClientSession
from sqlalchemy import func, select, text

from app.application import App
from app.processes import run_polling, run_worker
from chat.dispatcher import build_dispatcher, webhook_handler
from chat.i18n import translator
from chat.polling import ALLOWED_UPDATES
from evals.environment import (
    PRICE,
    AppEnvironment,
    EnvironmentConfig,
    assert_ledger_matches,
    open_environment,
)
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.schema import requests as requests_table
from tests.support.crash_env import is_offer
from tests.support.waiting import wait_until
from web.server import build_app, serve

SECRET = "a-secret_of-1"
SECRET_HEADER = "X-Telegram-Bot-Api-Secret-Token"
APPROVE = translator("en")("button_make", price=PRICE)
DECLINE = translator("en")("button_cancel")
GROUP = -1001234567890
_message_ids = itertools.count(50_000)


@asynccontextmanager
async def open_app_env(folder: Path, redis_url: str, **options: Any) -> AsyncIterator[AppEnvironment]:
    """Open the whole app; see `EnvironmentConfig`. Ledger and charge log are compared at the end."""
    async with open_environment(EnvironmentConfig(folder, redis_url, **options)) as env:
        yield env
        await assert_ledger_matches(env.app.ledger, env.fake_provider)


def worker_only(app: App):
    """What runs: a worker. Updates come some other way, for example by a webhook of the test."""
    return (run_worker(app),)


def chat_only(app: App):
    """What runs: polling. Without a worker, what the handlers wrote stays as they wrote it."""
    return (run_polling(app),)


@asynccontextmanager
async def serve_webhook(env, *, around=None, announce=True) -> AsyncIterator[str]:
    """Serve the app's updates by webhook and yield its address.

    Args:
        around: A middleware that runs before all others.
        announce: Register the address with Telegram.
    """
    dispatcher = build_dispatcher(env.app.chat)
    if around is not None:
        dispatcher.update.outer_middleware(around)
    handler = webhook_handler(dispatcher, env.app.bot, SECRET)
    async with serve(build_app({}, {"/hook": handler.handle}), "127.0.0.1", 0) as url:
        if announce:
            await env.app.bot.set_webhook(f"{url}/hook", secret_token=SECRET, allowed_updates=ALLOWED_UPDATES)
        yield f"{url}/hook"


async def post_update(url: str, update: dict | bytes, secret: str | None = SECRET) -> int:
    """POST one update as Telegram does; return the status."""
    headers = {} if secret is None else {SECRET_HEADER: secret}
    body = {"data": update} if isinstance(update, bytes) else {"json": update}
    async with ClientSession() as session, session.post(url, headers=headers, **body) as answer:
        return answer.status


def push_update(env, kind: str = "message", **body):
    """Queue an update as Telegram would send it, for senders that `env.user` cannot play."""
    message = {
        "message_id": next(_message_ids),
        "date": 1,
        "chat": {"id": 1001, "type": "private", "first_name": "A"},
    }
    sender = {"from": {"id": 1001, "is_bot": False, "first_name": "A", "language_code": "en"}}
    return env.api.world.updates.push(kind, message | sender | body, "chat:raw", 60)


def sent_texts(env, chat_id: int | None = None) -> list[str]:
    """Return every text that the bot sent to a chat, oldest first."""
    calls = env.api.calls.of("sendMessage")
    return [
        call.params["text"]
        for call in calls
        if call.performed and (chat_id is None or int(call.params["chat_id"]) == chat_id)
    ]


def assert_notified_once(env) -> None:
    """Assert one notification and at most one status message; a video that is ready at once needs none."""
    texts = sent_texts(env)
    notified = [text for text in texts if "ready" in text]
    assert len(notified) == 1, texts
    assert len(texts) <= 2, texts


async def count_requests(env) -> int:
    async with env.app.ledger.read() as conn:
        return int(await conn.scalar(select(func.count()).select_from(requests_table)) or 0)


async def wait_for_texts(env, count: int, chat_id: int | None = None, seconds: float = 10) -> list[str]:
    """Wait until the bot has sent `count` texts; return them."""

    async def check() -> bool:
        return len(sent_texts(env, chat_id)) >= count

    await wait_until(check, seconds, f"{count} answers; there are {sent_texts(env, chat_id)}")
    return sent_texts(env, chat_id)


async def forget_answers(env) -> None:
    """Forget which messages were answered, as where a process dies before it wrote that."""
    redis = env.app.chat.conversations._redis
    async for key in redis.scan_iter("*:answered:*"):
        await redis.delete(key)


async def wait_for_confirmed(env) -> None:
    """Wait until the bot has confirmed every update."""

    async def check() -> bool:
        return not env.api.pending_updates

    await wait_until(check, 10, "all updates to be confirmed")


async def wait_for_state(env, state, user_id: int = 1001, seconds: float = 15) -> None:
    """Wait until the user's latest request, or its video, is in `state` and the user was notified of it."""

    async def check() -> bool:
        found = await env.latest(user_id)
        return found is not None and (found[1] or found[0]).state == state and found[0].told == state

    await wait_until(check, seconds, f"{state}")


async def offer_of(env, user_id: int = 1001):
    """Send a command and return the offer that asks for approval."""
    ana = env.user(user_id)
    await ana.send("/create a quiet market at dawn")
    await wait_for_state(env, VideoState.AWAITING_APPROVAL, user_id)
    return await ana.wait_for(is_offer)


@asynccontextmanager
async def without_requests_table(ledger: Ledger) -> AsyncIterator[None]:
    """Rename the ledger's first table: every query of it fails until the block ends."""
    async with ledger.write() as conn:
        await conn.execute(text("ALTER TABLE requests RENAME TO hidden"))
    try:
        yield
    finally:
        async with ledger.write() as conn:
            await conn.execute(text("ALTER TABLE hidden RENAME TO requests"))
