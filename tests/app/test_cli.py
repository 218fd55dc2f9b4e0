"""The commands: every expected error is one sentence and exit code 1, without traceback and secret."""

import asyncio
import io
import json
import os
import socket
import sys
from collections import deque
from types import SimpleNamespace

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from pydantic import SecretStr
from redis.exceptions import ConnectionError as RedisAway
from rich.console import Console
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError
from typer.testing import CliRunner

from app import processes
from app.demo import unconfigured
from app.embedded_redis import EmbeddedError, private_folder
from app.errors import describe_error, is_expected
from app.processes import run_bot, run_chat, run_worker_alone
from app.settings import Settings, SettingsError, read_settings
from bot import app
from chat.polling import ALLOWED_UPDATES
from sandbox.telegram import BotApiServer, SandboxError
from sandbox.telegram.updates import Webhook
from tests.support.app_harness import SECRET
from tests.support.services import ROOT
from tests.support.waiting import wait_until
from web.server import WebError


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as one:
        return one.getsockname()[1]


async def command(*words, cwd, **variables):
    """Run `python -m bot …` with only these variables; return its exit code and output."""
    kept = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    env = {**kept, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", *words,
        cwd=cwd, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 100)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, output.decode()


@pytest.mark.slow
async def test_expected_error_is_one_sentence(tmp_path):
    """A wrong token and a broken declaration end the process: one sentence, code 1, no traceback, no
    secret.
    """
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "director.md").write_text("---\nname: director\nmodel: [\n---\n")
    token = "1000000001:another-secret-of-another-bot-00"
    async with BotApiServer() as api:
        run = {"TELEGRAM_BOT_TOKEN": token, "TELEGRAM_API_URL": api.base_url, "HTTP_PORT": "0"}
        found = await asyncio.gather(
            command("run", cwd=tmp_path, VAR_DIR="v", **run),
            command("doctor", cwd=tmp_path, VAR_DIR="d", AGENTS_DIR="agents"),
        )
    for (code, output), word in zip(found, ("TELEGRAM_BOT_TOKEN", "director.md"), strict=True):
        assert code == 1, output
        assert word in output
        assert "Traceback" not in output
        assert token not in output
        assert output.count("OneTake stops:") == 1


def test_help_names_every_command():
    """`--help` lists the commands."""
    found = CliRunner().invoke(app, ["--help"])
    assert found.exit_code == 0
    assert all(
        word in found.output for word in ("run", "worker", "demo", "chat", "doctor", "resolve", "costs")
    )


def app_settings(tmp_path, valkey, api, **more):
    return read_settings(
        _env_file=None,
        telegram_bot_token=SecretStr(api.token),
        telegram_api_url=api.base_url,
        redis_url=SecretStr(valkey.connection_url),
        key_prefix=f"test-{tmp_path.name[:20].lower().replace('.', '-')}",
        var_dir=tmp_path,
        http_port=0,
        **more,
    )


@pytest.mark.slow
async def test_run_registers_its_webhook(tmp_path, valkey):
    """`run` with WEBHOOK_URL sets it with its secret, for our kinds of update, and drops no update."""
    port = free_port()
    async with BotApiServer() as api:
        url = f"http://127.0.0.1:{port}/telegram"
        given = app_settings(
            tmp_path, valkey, api, webhook_url=url, webhook_secret=SecretStr(SECRET)
        ).model_copy(update={"http_port": port})
        await api.user(1).send("/help")
        task = asyncio.create_task(run_bot(given))
        call = await api.calls.wait_for(lambda call: call.method == "setWebhook" and call.performed, 30)
        reply = await api.user(1).wait_for(lambda bubble: not bubble.mine)
        async with ClientSession() as session, session.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert answer.status == 200
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert call.params["secret_token"] == SECRET
    assert all(kind in call.params["allowed_updates"] for kind in ALLOWED_UPDATES)
    assert call.params.get("drop_pending_updates") in (None, "false")
    assert "/create" in reply.text
    assert api.calls.of("deleteWebhook") == []


async def test_worker_serves_its_health(tmp_path, valkey, monkeypatch):
    """A worker answers /healthz and /readyz; if another process of this machine has the port, at a free
    one.
    """
    port, urls = free_port(), []
    monkeypatch.setattr("app.processes.log.info", lambda event, **more: urls.append(more.get("health")))
    async with BotApiServer() as api:
        ledger = SecretStr(f"sqlite:///{tmp_path / 'ledger.db'}")
        given = app_settings(tmp_path, valkey, api, database_url=ledger)
        given = given.model_copy(update={"http_port": port})
        tasks = []
        try:
            for count in (1, 2):
                tasks.append(asyncio.create_task(run_worker_alone(given)))
                await wait_until(_true(lambda: len(urls) == count or tasks[-1].done()), 30, "a worker")  # noqa: B023  # awaited at once
            assert urls[0] == f"http://127.0.0.1:{port}"
            assert urls[1] != urls[0]
            async with ClientSession() as session:
                for url in urls:
                    for path in ("healthz", "readyz"):
                        async with session.get(f"{url}/{path}") as answer:
                            assert answer.status == 200
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _true(check):
    async def is_true():
        return check()

    return is_true


async def test_run_names_what_prevents_it(tmp_path, valkey):
    """A webhook where we would poll, a taken port, a worker without a queue: each is one clear sentence."""
    async with BotApiServer() as api:
        given = app_settings(tmp_path, valkey, api)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(WebError, match=f"HTTP_PORT {port}"):
                await run_bot(given.model_copy(update={"http_port": port}))
            with pytest.raises(SandboxError, match=str(port)):
                await run_chat(given.model_copy(update={"chat_port": port}), Console(file=io.StringIO()))
        alone = given.model_copy(update={"redis_url": None})
        for one, lacks in ((alone, "REDIS_URL and DATABASE_URL"), (given, "needs DATABASE_URL")):
            with pytest.raises(SettingsError, match=lacks):
                await run_worker_alone(one)
            with pytest.raises(SettingsError, match=lacks):
                await run_bot(one.model_copy(update={"worker": "apart"}))
        (tmp_path / "file").write_text("")
        with pytest.raises((EmbeddedError, OSError), match="file"):
            await run_bot(alone.model_copy(update={"var_dir": tmp_path / "file" / "var"}))
        with private_folder(tmp_path), pytest.raises(EmbeddedError, match="another OneTake"):
            await run_bot(alone)
        await api.world.webhook_sender.open(Webhook("http://127.0.0.1:1/elsewhere"))
        with pytest.raises((SettingsError, ExceptionGroup)) as error:
            await asyncio.wait_for(run_bot(given), 20)
        assert "WEBHOOK_URL" in describe_error(error.value)


def test_store_errors_are_one_line_without_secrets():
    """Errors of the stores are one line that names the variable, with no secret in it."""
    url = "redis://:hunter2@127.0.0.1:1/0"
    for error, word in (
        (RedisAway(f"Error 111 connecting to {url}\nmore"), "REDIS_URL"),
        (
            OperationalError("SELECT 1", {}, Exception("[Errno 111] postgresql://ana:hunter2@h/x")),
            "DATABASE_URL",
        ),
        (ExceptionGroup("group", [SettingsError("[bold]VAR_DIR[/] is odd")]), "VAR_DIR"),
    ):
        assert is_expected(error)
        line = describe_error(error)
        assert word in line
        assert "hunter2" not in line
        assert "\n" not in line


class _FromPostgres(Exception):
    def __init__(self, sqlstate: str) -> None:
        super().__init__("no right")
        self.sqlstate = sqlstate


def test_postgresqls_own_code_says_what_is_a_defect():
    """A missing right comes as ProgrammingError, and is for the operator; a wrong name is a defect."""
    assert is_expected(ProgrammingError("SELECT 1", {}, _FromPostgres("42501")))
    assert not is_expected(ProgrammingError("SELECT 1", {}, _FromPostgres("42703")))


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a defect"),
        IntegrityError("INSERT", {}, Exception("NOT NULL")),
        ExceptionGroup("group", [SettingsError("VAR_DIR"), ZeroDivisionError("a defect")]),
    ],
)
def test_a_defect_is_no_expected_error(error):
    """Its class and traceback are kept, also where it is one of several errors at once."""
    assert not is_expected(error)


@pytest.mark.slow
async def test_the_last_sentence_is_json_where_logs_are(tmp_path):
    """Every line of a process whose logs are read by a program is an object, the reason of its end too."""
    code, output = await command("run", cwd=tmp_path, LOG_FORMAT="json", DAY_COST_WARN="500")
    assert code == 1
    (line,) = [json.loads(line) for line in output.splitlines()]
    assert "DAY_COST_PAGE" in line["why"]


def test_demo_ignores_the_settings():
    """Whatever the environment or .env contains, the demo uses none of its keys, providers or agents."""
    given = read_settings(
        _env_file=None, openai_api_key="k", moderation_api_key="k", video_provider="fal", video_api_key="k",
        agents_dir="elsewhere", admins="1", redis_url="redis://h", var_dir="here",
    )  # fmt: skip
    assert unconfigured(given).deployment_environment == "demo"
    left = unconfigured(given).model_dump(exclude={"var_dir", "deployment_environment"})
    assert left == {name: Settings.model_fields[name].get_default() for name in left}
    assert unconfigured(given).var_dir == given.var_dir


OK = {"ok": True, "result": {"id": 42, "is_bot": True, "first_name": "OneTake", "username": "onetake_bot"}}
NO_HOOK = {"ok": True, "result": {"url": "", "has_custom_certificate": False, "pending_update_count": 0}}


@pytest.fixture
async def telegram():
    """A bot, and answers that come before Telegram's own; each is (status, HTML or JSON)."""
    answers: deque[web.Response] = deque()

    async def answer(_: web.Request) -> web.Response:
        return answers.popleft()

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    async with TestServer(app) as server:
        session = AiohttpSession(api=TelegramAPIServer.from_base(str(server.make_url(""))))
        yield Bot("42:a-token-of-a-test", session=session), answers
        await session.close()


def error_page(status: int) -> web.Response:
    return web.Response(status=status, text="<html>Bad Gateway</html>", content_type="text/html")


@pytest.mark.parametrize("status", [200, 502])
async def test_html_page_instead_of_telegram_is_retried(telegram, monkeypatch, status):
    """Calls at start are repeated until Telegram itself answers."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(processes, "asyncio", SimpleNamespace(sleep=sleep))
    bot, answers = telegram
    answers.extend([error_page(status), error_page(status), web.json_response(OK)])
    me = await processes._retry_telegram(bot.get_me)
    assert me.username == "onetake_bot"
    assert waited == [2, 4]


@pytest.mark.parametrize("status", [200, 502])
async def test_html_page_does_not_prevent_the_start(telegram, status):
    """Whether a webhook is set is then unknown; polling itself finds out."""
    bot, answers = telegram
    answers.append(error_page(status))
    await processes._check_telegram(SimpleNamespace(bot=bot, settings=Settings(_env_file=None)))
    answers.append(web.json_response(NO_HOOK))
    await processes._check_telegram(SimpleNamespace(bot=bot, settings=Settings(_env_file=None)))
    assert not answers
