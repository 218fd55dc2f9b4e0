"""The start: quick, and of nobody's keys where nothing is configured."""

import subprocess
import sys
from pathlib import Path

from app.demo import unconfigured
from app.settings import Settings, read_settings

HOUSE = Path(__file__).resolve().parent.parent
_LOOK = """
import app
from aiogram import methods, types
from aiogram.methods.base import Response
ours = [getattr(types, name) for name in types.__all__]
ours += [getattr(methods, name) for name in methods.__all__]
ours = [one for one in ours if hasattr(one, "model_rebuild")]
built = sum(one.__pydantic_complete__ for one in ours)
message = {"message_id": 1, "date": 0, "chat": {"id": 1, "type": "private"}, "text": "/create"}
assert Response[types.Message].model_validate({"ok": True, "result": message}).result.chat.id == 1
assert types.Update.model_validate({"update_id": 1, "message": message}).message.text == "/create"
for one in ours:
    one.model_rebuild()
assert all(one.__pydantic_complete__ for one in ours)
print(len(ours), built)
"""


def test_telegram_types_are_built_when_they_are_used():
    """The start builds few of aiogram's types, and every one of them can be built when it is used."""
    found = subprocess.run(
        [sys.executable, "-c", _LOOK], cwd=HOUSE, capture_output=True, text=True, timeout=110, check=False
    )
    assert found.returncode == 0, found.stderr
    types, built = map(int, found.stdout.split())
    assert types > 500
    assert built < types / 2


def test_the_demo_uses_nothing_of_what_is_set():
    """Whatever stands in a user's environment or .env, the demo has no key, provider or agents of it."""
    given = read_settings(
        _env_file=None, openai_api_key="k", moderation_api_key="k", video_provider="fal", video_api_key="k",
        agents_dir="elsewhere", admins="1", redis_url="redis://h", var_dir="here",
    )  # fmt: skip
    left = unconfigured(given).model_dump(exclude={"var_dir"})
    assert left == {name: Settings.model_fields[name].get_default() for name in left}
    assert unconfigured(given).var_dir == given.var_dir
