"""A first deployment whose workers crash, as real commands: users, the admin and the probes hear of it.

The bot (`run` with WORKER=apart) and the workers are processes of their own, as in compose; Telegram is the
sandbox's, on loopback. No clock is moved: an admin hears of absent workers after a minute.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession

from app.settings import Settings
from chat.i18n import translator
from sandbox.preview.provider import ChargeLog
from sandbox.telegram import BotApiServer
from tests.support.crash_env import is_offer
from tests.support.metric_values import value
from tests.support.private_servers import free_port
from tests.support.services import ROOT
from tests.support.waiting import wait_until

ADA, ADMIN = 1001, 9001
EN = translator("en")


@asynccontextmanager
async def command(word: str, cwd: Path, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `python -m bot WORD` without our variables; ended with the block, by SIGTERM first.

    What it prints is in the file WORD.log of its folder.
    """
    kept = {name: one for name, one in os.environ.items() if name.lower() not in Settings.model_fields}
    with (cwd / f"{word}.log").open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "bot", word,
            cwd=cwd, env={**kept, "PYTHONPATH": str(ROOT), **variables}, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 30)
        except TimeoutError:
            process.kill()


async def page(url: str) -> str:
    """Return what is read there; nothing while no one listens."""
    try:
        async with ClientSession() as session, session.get(url) as answer:
            return await answer.text()
    except (ClientError, OSError):
        return ""


def reads(url: str, check: Callable[[str], bool]) -> Callable[[], Awaitable[bool]]:
    async def does() -> bool:
        text = await page(url)
        return bool(text) and check(text)

    return does


@pytest.mark.nightly
@pytest.mark.timeout(600)
async def test_a_deployment_whose_workers_crash_alarms_and_tells_its_users(tmp_path, valkey):
    """Three workers end with a sentence. The idea is answered, an admin alarmed; a later worker makes it."""
    broken = tmp_path / "agents"
    broken.mkdir()
    (broken / "director.md").write_text("---\nname: director\n---\n")
    async with BotApiServer() as api:
        ada, admin = api.user(ADA, "Ada"), api.user(ADMIN, "Eva")
        port = free_port()
        shared = {
            "TELEGRAM_BOT_TOKEN": api.token, "TELEGRAM_API_URL": api.base_url, "ADMINS": str(ADMIN),
            "REDIS_URL": valkey.connection_url, "DATABASE_URL": f"sqlite+aiosqlite:///{tmp_path}/ledger.db",
            "VAR_DIR": str(tmp_path / "var"), "MEDIA_DIR": str(tmp_path / "media"), "HTTP_PORT": str(port),
            "WORKER": "apart", "METRICS_TOKEN": "",
        }  # fmt: skip
        async with command("run", tmp_path, **shared):
            url = f"http://127.0.0.1:{port}"
            await admin.send("/start")
            await ada.send("/create a quiet market at dawn")
            for _ in range(3):
                async with command(
                    "worker", tmp_path, **(shared | {"AGENTS_DIR": str(broken), "HTTP_PORT": "0"})
                ) as crashed:
                    assert await asyncio.wait_for(crashed.wait(), 120) != 0
            assert "director.md: model: it is missing" in (tmp_path / "worker.log").read_text()
            await ada.wait_for(lambda one: EN("received_no_worker") in one.text, 60)
            await admin.wait_for(lambda one: "No worker is running" in one.text, 150)
            await wait_until(reads(f"{url}/readyz", lambda text: '"workers": 0' in text), 30, "the probe")
            await wait_until(
                reads(
                    f"{url}/metrics",
                    lambda text: value(text.encode(), "onetake_processes_alive", role="worker") == 0
                    and value(text.encode(), "onetake_oldest_open_request_seconds") > 10,
                ), 60, "the figures behind NoWorker and RequestsWait",
            )  # fmt: skip
            charges = ChargeLog(tmp_path / "var" / "provider" / "charges.jsonl")
            assert list(charges.lines()) == []
            async with command("worker", tmp_path, **(shared | {"HTTP_PORT": "0"})):
                offer = await ada.wait_for(is_offer, 120)
                await ada.tap(offer.id, offer.buttons[0][0].data or "")
                await ada.wait_for(lambda one: one.media is not None and one.media.kind == "video", 120)
                assert len(charges.lines()) == 1
                await wait_until(reads(f"{url}/readyz", lambda text: '"workers": 1' in text), 30, "the probe")
