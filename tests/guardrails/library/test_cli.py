"""The command line lists and ends doubts."""

import json
from pathlib import Path

import pytest

from guardrails import Guard, SqlStore
from guardrails.library.cli import main
from tests.support.guarded_agents import run_agent


async def doubt(url: str) -> None:
    guard = Guard(store=SqlStore(url), namespace="shop")

    @guard.tool(key=lambda a: a.item)
    async def pay(ctx, item: str) -> str:
        raise TimeoutError

    await run_agent(guard, pay, "r1", [{"item": "A"}])
    await guard.close()


@pytest.fixture
def url(tmp_path: Path) -> str:
    import asyncio

    found = f"sqlite:///{tmp_path}/guard.db"
    asyncio.run(doubt(found))
    return found


def test_a_doubt_is_listed_and_ended(url, capsys, monkeypatch):
    """pending shows key and version, resolve ends that version once, and then nothing is pending."""
    monkeypatch.setenv("ONETAKE_GUARD_STORE", url)
    assert main(["pending", "--namespace", "shop", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["tool"], found["act"], found["item"], found["user"]) == ("pay", "r1", "A", "u1")
    assert main(["pending", "--namespace", "shop"]) == 0
    assert f"{found['key']} {found['version']} pay " in capsys.readouterr().out
    ending = ["resolve", found["key"], str(found["version"]), "happened", "--by", "eva", "--why", "seen"]
    assert main([*ending, "--namespace", "club"]) == 1
    assert "is no claim in 'club'" in capsys.readouterr().err
    assert main([*ending, "--namespace", "shop", "--result", "paid"]) == 0
    assert f"{found['key']} is done, version {found['version'] + 1}" in capsys.readouterr().out
    assert main([*ending, "--namespace", "shop"]) == 1
    assert "is not in doubt" in capsys.readouterr().err
    assert main(["pending", "--namespace", "shop"]) == 0
    assert capsys.readouterr().out == ""


def test_what_cannot_be_used_is_said(capsys, monkeypatch):
    """No store, or one that is not known: a sentence and exit code 2, without a password."""
    monkeypatch.delenv("ONETAKE_GUARD_STORE", raising=False)
    assert main(["pending"]) == 2
    assert "--store" in capsys.readouterr().err
    assert main(["pending", "--store", "mysql://me:secret@db/x"]) == 2
    assert "'mysql' is not supported; use sqlite:///FILE" in (err := capsys.readouterr().err)
    assert "secret" not in err
