"""What a child of tests/crew.py does. Everything heavy is imported here, once, by the forkserver."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

from app.application import App, SandboxModelProvider, open_app
from app.processes import _serve_webhook, run_polling, run_worker, until_signal
from app.settings import Settings, read_settings
from evals.environment import PRICES, QUICK_EDIT_LIMITS, QUICK_TIMEOUTS
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from providers.pricing import capabilities_of
from sandbox.model import SandboxModel
from sandbox.video_api.server import FAKE_KEY
from telemetry import failpoints
from telemetry.logs import setup_logs

if TYPE_CHECKING:
    from tests.support.worker_process import Orders


def play(orders: "Orders") -> None:
    """Run the house as the orders say, until a signal."""
    folder = Path(orders.settings["var_dir"])
    folder.mkdir(parents=True, exist_ok=True)
    setup_logs("INFO", "json", folder / f"child-{os.getpid()}.jsonl")
    if orders.stop_at is not None:
        failpoints.on_failpoint(_stopper(orders))
    asyncio.run(_run(orders))
    sys.stdout.flush()
    os._exit(0)


def _stopper(orders: "Orders") -> failpoints.FailpointListener:
    async def stop(point: failpoints.Failpoint) -> None:
        if point == orders.stop_at and orders.marker is not None:
            orders.marker.write_text(str(os.getpid()))
            while orders.marker.exists() or not orders.sleep_at:  # until it is deleted, or the kill
                await asyncio.sleep(0.05)

    return stop


def _settings(orders: "Orders") -> Settings:
    secret = {"telegram_bot_token", "redis_url", "database_url", "webhook_secret", "admin_token"}
    return read_settings(
        _env_file=None,
        **{name: SecretStr(value) if name in secret else value for name, value in orders.settings.items()},
    )


async def _run(orders: "Orders") -> None:
    async with opened(orders) as app:
        if orders.parts == "bot":
            await _serve_webhook(app, orders.settings["webhook_url"])
        else:
            await until_signal(*_parts(app, orders))


@asynccontextmanager
async def opened(orders: "Orders") -> AsyncIterator[App]:
    """Open the house of one child, wherever it is to run."""
    dialect = DIALECTS[orders.provider["shape"]]
    capabilities = replace(capabilities_of(dialect, PRICES), **orders.capabilities)
    provider = OpenAICompat(orders.provider["base_url"], FAKE_KEY, dialect, PRICES, capabilities=capabilities)
    async with open_app(
        _settings(orders),
        models=SandboxModelProvider(SandboxModel(orders.behavior)),
        provider=provider,
        timeouts=replace(QUICK_TIMEOUTS, **orders.timeouts),
        edit_limits=QUICK_EDIT_LIMITS,
    ) as app:
        yield app


def _parts(app: App, orders: "Orders") -> list:
    worker = run_worker(app, redelivery_s=orders.redelivery_s)
    return [worker] if orders.parts == "worker" else [worker, run_polling(app)]
