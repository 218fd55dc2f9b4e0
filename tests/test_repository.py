"""Rules of this repository that no linter checks."""

import ast
import re

import pytest

from tests.support.services import ROOT
from tools.agent_spec import declarations_folder, refuse_python

PACKAGES = (
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


def python_files(package):
    return [path for path in sorted((ROOT / package).rglob("*.py")) if "__pycache__" not in path.parts]


SOURCES = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in python_files(package))]


def names_of(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def test_agents_holds_declarations_only():
    """agents/ has no Python: it would hide the OpenAI Agents SDK, whose import name is `agents`."""
    assert declarations_folder() == ROOT / "agents"
    refuse_python(ROOT / "agents")
    assert {path.suffix for path in (ROOT / "agents").iterdir() if path.name[0] != "."} == {".md"}


def test_python_is_in_known_packages():
    """A new top-level package needs a decision record; the only module at the top is bot.py."""
    found = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("[!.]*/*.py")}
    assert found <= {*PACKAGES, "tests"}
    assert names_of(ROOT.glob("*.py")) in ([], ["bot.py"])


def python_folders():
    # Alembic loads its revisions from files; that folder is no package.
    return sorted(
        {path.parent for path in SOURCES if path.parent not in (ROOT, ROOT / "ledger/migrations/versions")}
    )


@pytest.mark.parametrize("package", python_folders(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_package_says_what_it_is_for(package):
    """Each package has an `__init__.py` that begins with its purpose."""
    init = package / "__init__.py"
    assert init.is_file(), f"{package.relative_to(ROOT)} has no __init__.py"
    assert ast.get_docstring(ast.parse(init.read_text("utf-8"))), f"{init.relative_to(ROOT)} says nothing"


def test_bot_says_what_it_does():
    """bot.py, if it exists, begins with a docstring."""
    bot = ROOT / "bot.py"
    if bot.exists():
        assert ast.get_docstring(ast.parse(bot.read_text("utf-8")))


@pytest.mark.parametrize("lock", LOCKS, ids=names_of(LOCKS))
def test_a_lock_file_names_no_location(lock):
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


def test_every_lock_file_exists():
    """One to run, one to develop, one to compare with others; each has every pin of the one before."""
    assert names_of(LOCKS) == ["requirements-bench.txt", "requirements-dev.txt", "requirements.txt"]
    compare, develop, run = (
        {line.split()[0] for line in lock.read_text("utf-8").splitlines() if "==" in line} for lock in LOCKS
    )
    assert run <= develop <= compare
