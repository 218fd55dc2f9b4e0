"""A bot that hears nothing knows it, and why: metrics, the ledger, the operators."""

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from aiogram import Bot, Dispatcher
from aiogram.exceptions import TelegramUnauthorizedError

from chat.hearing import Hearing, watch_webhook
from chat.polling import poll_updates
from sandbox.telegram import BotApiServer, Fault
from sandbox.telegram.base import ApiError
from telemetry import metrics
from telemetry.metrics import exposition
from tests.support.bot_api import bot_of
from tests.support.metric_values import value
from tests.support.waiting import wait_until


@pytest.fixture
async def api():
    async with BotApiServer() as server:
        yield server


async def stop(task: asyncio.Task) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_failed_polls_are_counted_by_their_code(api):
    """409, 429 and 5xx each; with the first good answer the process hears again."""
    hearing = Hearing()
    before = {
        code: value(exposition(), "onetake_update_errors_total", code=code) for code in ("409", "429", "5xx")
    }
    faults = (ApiError(409, "Conflict: terminated by other getUpdates request"), ApiError(500, "Internal"))
    for fault in faults:
        api.fail("getUpdates", Fault("answer", error=fault))
    api.fail("getUpdates", Fault.throttled(1))
    async with bot_of(api) as bot:
        polling = asyncio.create_task(poll_updates(Dispatcher(), bot, hearing))

        async def counted() -> bool:
            return all(
                value(exposition(), "onetake_update_errors_total", code=code) > before[code]
                for code in before
            )

        await wait_until(counted, 20, "three faults")
        await api.user(1, "Eva").send("hello")

        async def hears() -> bool:
            return hearing.hears and not hearing.fault

        await wait_until(hears, 20, "a good answer")
        await stop(polling)
    hearing.update_gauges()
    assert value(exposition(), "onetake_last_heard_age_seconds") < 60


async def test_a_revoked_token_ends_the_process_and_is_counted(api):
    """Waiting does not help: 401 is raised, and the code is in the metrics of who scrapes in between."""
    before, hearing = value(exposition(), "onetake_update_errors_total", code="401"), Hearing()
    bot = Bot("99:wrong-token-of-another-bot-AAAAAAAAAAAAAA", session=(await _session_of(api)))
    with pytest.raises(TelegramUnauthorizedError):
        await poll_updates(Dispatcher(), bot, hearing)
    await bot.session.close()
    assert value(exposition(), "onetake_update_errors_total", code="401") == before + 1
    assert hearing.fault == "401"


async def _session_of(api):
    async with bot_of(api) as bot:
        return type(bot.session)(api=bot.session.api)


@pytest.mark.parametrize(
    ("url", "error_s", "pending", "fault"),
    [
        ("https://bot.example/hook", None, 0, ""),
        ("https://other.example/hook", None, 0, "moved"),
        ("https://bot.example/hook", 20, 3, "webhook"),
        ("https://bot.example/hook", 20, 0, ""),  # delivered since
        ("https://bot.example/hook", 4000, 3, ""),  # an old error
    ],
)
async def test_a_webhook_is_asked_about(url, error_s, pending, fault):
    """Telegram says where it delivers, when that failed last, and how much waits."""
    now = time.time()
    hearing = Hearing(receives=True)
    hearing._update_at -= 1000
    error_at = None if error_s is None else datetime.fromtimestamp(now - error_s, UTC)
    info = SimpleNamespace(url=url, last_error_date=error_at, pending_update_count=pending)

    async def get_webhook_info():
        return info

    bot = SimpleNamespace(get_webhook_info=get_webhook_info)
    watching = asyncio.create_task(watch_webhook(bot, hearing, "https://bot.example/hook", 10))
    await asyncio.sleep(0.05)
    with suppress(asyncio.CancelledError):
        await stop(watching)
    assert hearing.fault == fault
    assert value(exposition(), "onetake_webhook_pending_updates") == pending
    expected = 0 if error_at is None else error_at.timestamp()
    assert value(exposition(), "onetake_webhook_last_error_timestamp_seconds") == expected
    metrics.WEBHOOK_PENDING.set(0)
    metrics.WEBHOOK_ERROR.set(0)
