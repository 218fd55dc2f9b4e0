"""The doctor checks each part by itself, and says what to do about a part that is ill."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.application import open_app
from app.doctor import (
    _check_pictures,
    _run_check,
    check_access,
    check_admin_page,
    check_model_prices,
    check_port,
    check_tracing,
    check_workers,
    run_checks,
)
from app.settings import Settings, SettingsError, read_settings
from providers.fal import Fal
from sandbox.telegram import BotApiServer
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY
from tests.support.otlp import receiver
from tests.support.services import start
from web.server import build_app, serve


async def found(tmp_path, **given):
    settings = read_settings(_env_file=None, var_dir=tmp_path / "var", http_port=0, **given)
    return {one.part: one for one in await run_checks(settings)}


async def test_nothing_configured_is_not_ill(tmp_path, monkeypatch):
    """With nothing set nothing is ill: what runs in the sandbox is named, and what to set for more."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    parts = await found(tmp_path)
    assert {one.health for one in parts.values()} <= {"well", "look"}
    assert "TELEGRAM_BOT_TOKEN" in parts["telegram"].words
    assert "OPENAI_API_KEY" in parts["model"].words
    assert parts["redis"].health == parts["ledger"].health == parts["agents"].health == "well"


async def test_prices_of_models_have_a_date(tmp_path):
    """Without a list, with an old one, with one of today, with one that is broken."""
    path, today = tmp_path / "prices.yaml", datetime.now(UTC).date()
    paid = {"openai_api_key": SecretStr("a-key-of-the-tests")}

    async def health(**given):
        settings = read_settings(_env_file=None, var_dir=tmp_path, **paid, **given)
        return await _run_check("prices", check_model_prices, settings)

    assert (await health()).health == "look"
    for days, expected in ((-2, "look"), (0, "well"), (91, "look")):
        day = today - timedelta(days=days)
        path.write_text(f"priced_on: {day}\nsource: a page\nmodels: {{m: {{input: $1, output: $2}}}}")
        assert (await health(model_prices=path)).health == expected, days
    path.write_text("models: 7")
    assert (await health(model_prices=path)).health == "ill"


async def test_redis_that_evicts_is_ill(tmp_path):
    """A Redis that may evict keys is ill, and nothing starts on it; one that does not answer is ill too."""
    server = start(tmp_path / "valkey", **{"maxmemory-policy": "allkeys-lru", "appendonly": "no"})
    try:
        url = SecretStr(server.connection_url)
        evicts = (await found(tmp_path, redis_url=url))["redis"]
        given = read_settings(_env_file=None, redis_url=url, var_dir=tmp_path)
        with pytest.raises(SettingsError, match="REDIS_URL: maxmemory-policy is allkeys-lru"):
            async with open_app(given):
                raise AssertionError("it started")
    finally:
        server.stop()
    unavailable = (await found(tmp_path, redis_url=url))["redis"]
    assert (evicts.health, unavailable.health) == ("ill", "ill")
    assert "noeviction" in evicts.words
    assert "REDIS_URL" in unavailable.words


@pytest.mark.slow
async def test_token_is_checked(tmp_path):
    """A token that Telegram does not know is ill; a valid one is well, with the bot's name."""
    async with BotApiServer() as api:
        for token, health, word in (
            (api.token, "well", api.world.bot["username"]),
            ("1000000001:another-secret-of-another", "ill", "TELEGRAM_BOT_TOKEN"),
            ("no-token", "ill", "TELEGRAM_BOT_TOKEN"),
        ):
            given = {"telegram_bot_token": SecretStr(token), "telegram_api_url": api.base_url}
            one = (await found(tmp_path, **given))["telegram"]
            assert (one.health, word in one.words) == (health, True), one
            assert token not in one.words
    unavailable = await found(
        tmp_path, telegram_bot_token=SecretStr(api.token), telegram_api_url="http://127.0.0.1:1"
    )
    assert unavailable["telegram"].health == "ill"


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("postgresql://ana:hunter2@127.0.0.1:1/onetake", ""),
        ("mysql://ana:hunter2@127.0.0.1/x", "postgresql://"),
        ("hunter2", "DATABASE_URL"),
    ],
)
async def test_unusable_ledger_is_ill(tmp_path, url, word):
    """A database that does not answer, or is not supported, is ill; its password is not repeated."""
    one = (await found(tmp_path, database_url=SecretStr(url)))["ledger"]
    assert one.health == "ill"
    assert word in one.words
    assert "hunter2" not in one.words


async def test_broken_declaration_is_ill(tmp_path):
    """A declaration that cannot be loaded names its file."""
    agents = tmp_path / "agents"
    agents.mkdir()
    (agents / "director.md").write_text("---\nname: director\n---\n")
    one = (await found(tmp_path, agents_dir=agents))["agents"]
    assert one.health == "ill"
    assert "director.md" in one.words


async def test_redis_without_append_only_file_is_a_remark(tmp_path):
    """Without an append-only file the bot runs, because the counters are rebuilt; it is said."""
    server = start(tmp_path / "valkey", appendonly="no")
    try:
        one = (await found(tmp_path, redis_url=SecretStr(server.connection_url)))["redis"]
    finally:
        server.stop()
    assert one.health == "look"
    assert "appendonly" in one.words


@pytest.fixture
def answered(monkeypatch):
    """fal accepts the key: no test asks the real one."""

    async def check(self):
        return None

    monkeypatch.setattr(Fal, "check", check)


async def test_notes_of_a_provider_are_printed(tmp_path, answered):
    """The doctor prints what an operator should know: fal's adapter was never run against the real fal."""
    one = (await found(tmp_path, video_provider="fal", video_api_key=SecretStr("id:secret")))["provider"]
    assert "never met the real service" in one.words
    assert "secret" not in one.words


async def test_the_provider_is_asked_a_free_question_with_the_real_key(tmp_path):
    """Well with the right key; ill with a wrong one, a stopped server or a gateway. Nothing is ordered."""

    async def asked(key=FAKE_KEY):
        given = {"video_provider": "openai_compat", "video_base_url": fake.base_url}
        one = (await found(tmp_path, video_api_key=SecretStr(key), **given))["provider"]
        assert key not in one.words
        return one

    async with FakeProvider(tmp_path / "fake") as fake:
        assert (await asked()).health == "well"
        wrong = await asked("a-wrong-key-0123456789")
        fake.gateway = {"x-litellm-version": "1.108.7"}
        behind = await asked()
        await fake.stop_listening()
        stopped = await asked()
        assert fake.posts() == []
    assert {wrong.health, behind.health, stopped.health} == {"ill"}
    assert "VIDEO_API_KEY" in wrong.words
    assert "VIDEO_DIALECT=litellm" in behind.words
    assert "does not answer" in stopped.words


async def test_variable_that_hides_agent_spans_is_named(tmp_path, monkeypatch):
    """OPENAI_AGENTS_DISABLE_TRACING removes every agent span silently, so the doctor names it."""
    monkeypatch.setenv("OPENAI_AGENTS_DISABLE_TRACING", "1")
    one = (await found(tmp_path))["tracing"]
    assert (one.health, "OPENAI_AGENTS_DISABLE_TRACING" in one.words) == ("look", True)


async def test_a_media_folder_that_takes_no_file_is_ill(tmp_path):
    """The doctor writes a file there; the start refuses such a folder, and names the setting."""
    folder = tmp_path / "media"
    assert (await found(tmp_path, media_dir=folder))["media"].health == "well"
    assert list(folder.iterdir()) == []
    folder.rmdir()
    folder.write_text("in the way")
    one = (await found(tmp_path, media_dir=folder))["media"]
    assert (one.health, "MEDIA_DIR" in one.words, "no order is sent" in one.words) == ("ill", True, True)
    settings = read_settings(_env_file=None, media_dir=folder, var_dir=tmp_path / "var")
    with pytest.raises(SettingsError, match=r"MEDIA_DIR .* takes no file: the disk refused: File exists"):
        async with open_app(settings, runs_agents=False):
            pass


async def test_tracing_problems_are_named(tmp_path):
    """A missing collector, a JAEGER_URL that is not Jaeger, a wrong port: each is named."""
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


async def test_admin_page_needs_a_token():
    """The doctor says that ADMIN_TOKEN opens the page, and never prints its value."""
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
        ({"video_provider": "fal", "access": "invite"}, "look", "no one can make an invitation"),
        ({"video_provider": "fal", "access": "invite", "admins": frozenset({2})}, "well", "invited"),
    ],
)
async def test_access_is_checked(given, health, word):
    """With a paid provider the doctor says that everyone may spend, or that no one gets alerts."""
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
async def test_unshared_stores_are_named(given, health, word):
    """Separate workers without one queue and one ledger are ill; without a shared media folder, a warning."""
    one = await check_workers(read_settings(_env_file=None, **given))
    assert (one.health, word in one.words) == (health, True)


@pytest.mark.slow
async def test_taken_port_is_ill():
    """HTTP_PORT used by another program is ill; used by a running OneTake, or free, it is well."""

    def on(url):
        return read_settings(_env_file=None, http_port=int(url.rsplit(":", 1)[1]))

    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = on(f":{taken.getsockname()[1]}")
        found = await check_port(settings)
    assert (found.health, "HTTP_PORT" in found.words) == ("ill", True)
    assert (await check_port(settings)).health == "well"
    async with serve(build_app({}, {}), "127.0.0.1", 0) as url:
        assert (await check_port(on(url))).health == "well"


@pytest.mark.parametrize(
    ("settings", "health", "word"),
    [
        ({}, "well", "PICTURES=unjudged"),
        ({"pictures": "unjudged"}, "look", "without any check"),
        ({"pictures": "unjudged", "moderation_api_key": "sk-a-moderation-key"}, "well", "omni-moderation"),
        ({"pictures": "off"}, "well", "PICTURES=off"),
    ],
)
async def test_it_says_whether_pictures_are_used(settings, health, word):
    """Pictures that no one judges are worth a look."""
    found = await _check_pictures(Settings(_env_file=None, **settings))
    assert (found.part, found.health) == ("pictures", health)
    assert word in found.words
