"""Several processes and one store: a process that is killed, and limits that hold over all of them."""

import asyncio
import json
import sys
from pathlib import Path
from subprocess import PIPE, Popen, run
from typing import Any

import pytest

from guardrails import Guard, SqlStore
from tests.support.guarded_agents import Provider, run_agent
from tests.support.services import ROOT
from tests.support.waiting import wait_until

PROGRAM = """
import asyncio, json, os, signal, sys
from agents.tool_context import ToolContext
from guardrails import Guard, SqlStore, current_key

url, prefix, effects, how = sys.argv[1:5]

async def main():
    guard = Guard(store=SqlStore(url, prefix=prefix))
    @guard.tool(once="per_key", key=lambda a: a.item, quota="20/day", budget={"everyone": "$15/day"}, cost="$1", lease="0.5s")
    async def pay(ctx, item: str) -> str:
        with open(effects, "a") as file:
            file.write(json.dumps([current_key(), item]) + "\\n")
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return "paid"
    await guard.setup()
    async def one(item):
        raw = json.dumps({"item": item})
        context = ToolContext(guard.request(id=f"{os.getpid()} {item}", user="u1"), tool_name="pay", tool_call_id="c", tool_arguments=raw)
        return await pay.on_invoke_tool(context, raw)
    print(json.dumps([await one(item) for item in sys.argv[5:]]))
    await guard.close()

asyncio.run(main())
"""  # noqa: E501 - a program

pytestmark = pytest.mark.slow
SQL_ALONE = True  # memory is one process


def arguments(url: str, prefix: str, effects: Path, how: str, *items: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM, url, prefix, str(effects), how, *items]


@pytest.fixture
def stored(store_url: str, prefix_of_tables: str, tmp_path: Path) -> tuple[str, str, Path]:
    return store_url, prefix_of_tables, tmp_path / "effects"


async def test_killed_between_effect_and_answer(stored, provider: Provider):
    """A restarted guard finds the claim, asks the provider by key, and hands the result to later calls."""
    url, prefix, effects = stored
    command = arguments(url, prefix, effects, "kill", "A")
    assert (await asyncio.to_thread(run, command, cwd=ROOT, check=False)).returncode == -9
    ((key, _),) = map(json.loads, effects.read_text().splitlines())
    provider.by_key[key] = "paid A"
    guard = Guard(store=SqlStore(url, prefix=prefix))

    @guard.tool(once="per_key", key=lambda a: a.item, verify=provider.ask, settle="1s")
    async def pay(ctx, item: str) -> str:
        return provider.take(item)

    await guard.setup()
    await wait_until(lambda: _ended(guard), 10)
    assert await run_agent(guard, pay, "r1", [{"item": "A"}]) == ["paid A"]
    assert provider.effects == []
    await guard.close()


async def _ended(guard: Any) -> bool:
    return not await guard.pending()


def test_four_processes_at_once_stay_within_every_limit(stored):
    """Four processes, eight acts each, two of them shared: one effect for an item, and at most 15 dollars."""
    url, prefix, effects = stored
    run(arguments(url, prefix, effects, "make the tables"), cwd=ROOT, check=True, stdout=PIPE)
    started = [
        Popen(
            arguments(url, prefix, effects, "run", "x", "y", *(f"{one} {n}" for n in range(6))),
            cwd=ROOT, stdout=PIPE, text=True,
        )
        for one in range(4)
    ]  # fmt: skip
    answers = [answer for one in started for answer in json.loads(one.communicate(timeout=250)[0])]
    assert [one.returncode for one in started] == [0] * 4
    items = [json.loads(line)[1] for line in effects.read_text().splitlines()]
    assert len(items) == len(set(items)) == 15
    assert answers.count("paid") == 15 + 3 * len({"x", "y"} & set(items))
    assert {answer.partition(":")[0] for answer in answers} == {"paid", "Refused"}
