"""Without a moderation key, `doctor` and the start say that the offline rules are everything."""

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from app import processes
from app.doctor import run_checks
from app.processes import run_bot, run_worker_alone
from app.settings import MODERATION_OFF, Settings, SettingsError


@pytest.mark.parametrize(("key", "health"), [(None, "look"), (SecretStr("k"), "well")])
async def test_doctor_names_the_missing_key(tmp_path, key, health):
    """The finding says what judges ideas, and which variable adds the moderation."""
    settings = Settings(_env_file=None, var_dir=tmp_path, moderation_api_key=key)
    (found,) = [one for one in await run_checks(settings) if one.part == "content"]
    assert found.health == health
    assert ("offline rules only" in found.words) == (key is None)


@pytest.mark.parametrize("start", [run_bot, run_worker_alone])
@pytest.mark.parametrize("key", [None, SecretStr("k")])
async def test_the_start_says_it_once(tmp_path, monkeypatch, start, key):
    """`run` and `worker` log one warning, before anything is opened, and none with a key."""

    def nothing_opens(*_args: object, **_kwargs: object) -> None:
        raise SettingsError("not opened")

    monkeypatch.setattr(processes, "open_app", nothing_opens)
    settings = Settings(
        _env_file=None, var_dir=tmp_path, moderation_api_key=key, redis_url=SecretStr("redis://127.0.0.1:1/0"),
        database_url=SecretStr(f"sqlite+aiosqlite:///{tmp_path}/ledger.db"),
    )  # fmt: skip
    with capture_logs() as logs, pytest.raises(SettingsError, match="not opened"):
        await start(settings)
    said = [line["why"] for line in logs if line["event"] == "moderation off"]
    assert said == ([MODERATION_OFF] if key is None else [])
