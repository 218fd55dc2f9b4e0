"""Real bots with Telegram's limits, as each worker process has one; as a script, a process of its own."""

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextvars import ContextVar

from aiogram import Bot
from aiogram.client.session.middlewares.base import BaseRequestMiddleware
from aiogram.methods import SendMessage

from chat.send_limits import SendLimiter, SendLimits
from guardrails.redis_client import connect
from sandbox.telegram.faults import ApiCall
from tests.support.bot_api import bot_of
from worker.rate_limits import Grant, Rate, RateLimiter

LIMITS = SendLimits(
    total=Rate("total", burst=4, every_s=0.02),
    chat=Rate("chat", burst=2, every_s=0.1),
    group=Rate("group", burst=3, every_s=0.15),
    longest_wait_s=120,
)
"""Telegram's in small, with all the time in the world to wait."""

_asked_at: ContextVar[float] = ContextVar("asked_at")


class _Noting(RateLimiter):
    """Notes when a unit was asked for that was then granted."""

    async def ask(self, limits: Sequence[Rate], most: int = 1) -> Grant:
        before = time.monotonic()
        grant = await super().ask(limits, most)
        if grant.units:
            _asked_at.set(before)
        return grant


class _Stamp(BaseRequestMiddleware):
    """Writes into each text when its unit was asked for: how late a call arrives is not the limiter's."""

    async def __call__(self, make_request, bot, method):
        if isinstance(method, SendMessage):
            method.text = f"{method.text}|{_asked_at.get()}"
        return await make_request(bot, method)


@contextlib.asynccontextmanager
async def paced_bot(api, redis_url: str, prefix: str, limits: SendLimits = LIMITS) -> AsyncIterator[Bot]:
    """Open a bot of `api`, or of its (base_url, token), with a Redis client of its own."""
    client = connect(redis_url)
    async with bot_of(api) as bot:
        bot.session.middleware(SendLimiter(_Noting(client, prefix), limits))
        bot.session.middleware(_Stamp())
        yield bot
    await client.aclose()


async def send_to_all(bot: Bot, chats: Sequence[int], each: int, name: str) -> None:
    """Send `each` messages to each chat, all at once."""
    wanted = itertools.product(range(each), chats)
    await asyncio.gather(*(bot.send_message(chat, f"{name} {n} {chat}") for n, chat in wanted))


def assert_within(calls: Sequence[ApiCall], rate: Rate) -> None:
    """Assert that in every span between two arrivals at the server, no more came than `rate` grants.

    A call arrives after its unit was asked for, at most `late` after. So what arrives in a span was granted
    in that span or at most `late` before it.
    """
    late = max(call.at - float(call.params["text"].partition("|")[2]) for call in calls)
    at = sorted(call.at for call in calls)
    for first, last in itertools.combinations(range(len(at)), 2):
        assert last - first + 1 <= rate.most_in(at[last] - at[first] + late + 0.002), (first, last, late)


class _Address:
    def __init__(self, base_url: str, token: str) -> None:
        self.base_url, self.token = base_url, token


async def _main(base_url: str, token: str, redis_url: str, prefix: str, chats: str, each: str) -> None:
    async with paced_bot(_Address(base_url, token), redis_url, prefix) as bot:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.readline)
        await send_to_all(bot, json.loads(chats), int(each), prefix)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
