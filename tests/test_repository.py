"""Rules of this repository that no linter knows."""

import ast
import re

import pytest

from tests.support.services import ROOT
from tools.agent_spec import declarations_folder, refuse_python

ROOMS = (
    "app",
    "bench",
    "chat",
    "deploy",
    "evals",
    "guardrails",
    "ledger",
    "providers",
    "sandbox",
    "telemetry",
    "tools",
    "web",
    "worker",
)
LOCKS = sorted(ROOT.glob("requirements*.txt"))


def python_of(room):
    return [path for path in sorted((ROOT / room).rglob("*.py")) if "__pycache__" not in path.parts]


SOURCES = [*ROOT.glob("*.py"), *(path for room in ROOMS for path in python_of(room))]


def named(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def test_agents_holds_declarations_only():
    """agents/ never holds Python: it would hide the OpenAI Agents SDK, whose import name is `agents`."""
    assert declarations_folder() == ROOT / "agents"
    refuse_python(ROOT / "agents")
    assert {path.suffix for path in (ROOT / "agents").iterdir() if path.name[0] != "."} == {".md"}


def test_python_lives_in_the_known_rooms():
    """A new top-level room needs a decision record; at the top stands bot.py alone."""
    beside = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/*.py")}
    assert beside <= {*ROOMS, "tests"}
    assert named(ROOT.glob("*.py")) in ([], ["bot.py"])


def packages():
    # Alembic loads its revisions from files; that folder is no package.
    return sorted(
        {path.parent for path in SOURCES if path.parent not in (ROOT, ROOT / "ledger/migrations/versions")}
    )


@pytest.mark.parametrize("room", packages(), ids=lambda room: room.relative_to(ROOT).as_posix())
def test_a_room_says_what_it_is_for(room):
    """Each package's `__init__.py` exists and begins with its purpose."""
    door = room / "__init__.py"
    assert door.is_file(), f"{room.relative_to(ROOT)} has no __init__.py"
    assert ast.get_docstring(ast.parse(door.read_text("utf-8"))), f"{door.relative_to(ROOT)} says nothing"


def test_the_bot_opens_with_its_story():
    """bot.py, once it stands, begins with a docstring that tells what it does."""
    bot = ROOT / "bot.py"
    if bot.exists():
        assert ast.get_docstring(ast.parse(bot.read_text("utf-8")))


@pytest.mark.parametrize("lock", LOCKS, ids=named(LOCKS))
def test_a_lock_names_no_place(lock):
    """No index host, no absolute path, no editable install: only names, versions, markers and hashes."""
    text = lock.read_text("utf-8")
    assert not re.findall(
        r"(?im)://|^-(?!-hash)|--(?!hash=)[a-z-]*(?:index|links|host)|^[./~]|@ *file|\\[A-Za-z]:", text
    )
    pinned = [line.split()[0] for line in text.splitlines() if line and line[0] not in " #"]
    assert pinned
    assert [name for name in pinned if "==" not in name] == []
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text)[1:]
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_both_locks_are_there():
    """One to run, one to develop; the second holds every pin of the first."""
    assert named(LOCKS) == ["requirements-dev.txt", "requirements.txt"]
    develop, run = (
        {line.split()[0] for line in lock.read_text("utf-8").splitlines() if "==" in line} for lock in LOCKS
    )
    assert run <= develop
