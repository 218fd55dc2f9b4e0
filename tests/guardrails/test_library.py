"""guardrails as a library: nothing of the app is imported; the in-memory store is enough for a paid tool."""

import ast
import json
import sys
from subprocess import run

import pytest
from agents import Agent, FunctionTool, RunConfig, RunContextWrapper, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from pydantic import BaseModel
from redis.asyncio import Redis

from guardrails.admission import Admission, RedisKeys
from guardrails.content.verdict import ALLOWED, ContentVerdict
from guardrails.guard import CallContext, GuardSpec, guarded
from guardrails.limits import EVERYONE, Limits, user_scope
from guardrails.memory import InMemoryStore
from guardrails.money import Money
from tests.support.factories import PAID_TOOL
from tests.support.services import ROOT

PRICE = Money.parse("$3")
FIVE = Limits(quota=5, user_budget=Money.parse("$15"))
SOURCES = sorted((ROOT / "guardrails").rglob("*.py"))


class Arguments(BaseModel):
    prompt: str


class AllowAll:
    async def judge(self, text: str) -> ContentVerdict:
        return ALLOWED


class Host:
    """A small agent with one paid tool: its calls are orders in memory."""

    def __init__(self, redis: Redis, limits: Limits = FIVE) -> None:
        self.store, self.charges, self.limits = InMemoryStore(), 0, limits
        self.admission = Admission(redis, self.store, RedisKeys("library"), limits, PAID_TOOL)

    def tool(self) -> FunctionTool:
        @function_tool(name_override=PAID_TOOL)
        async def pay(context: RunContextWrapper[CallContext], prompt: str) -> str:
            """Make a video."""
            call = context.context
            self.charges += 1
            self.store.add_order(call.request_id, call.user_id, PRICE)
            self.store.record_result(call.request_id, PAID_TOOL, "The video is ordered.")
            return "The video is ordered."

        spec = GuardSpec(PAID_TOOL, Arguments, self.limits, lambda _: PRICE, lambda one: one.prompt)
        return guarded(pay, spec, self.admission, AllowAll())

    async def run(self, request_id: str, *turns: int) -> list[str]:
        """Run the agent on a model that calls the tool `turns` times a turn; return the tool's answers."""
        calls = [
            [function_call(PAID_TOOL, json.dumps({"prompt": f"take {turn}.{n}"}), call_id=f"c{turn}.{n}")
             for n in range(count)]
            for turn, count in enumerate(turns)
        ]  # fmt: skip
        model = ScriptedModel([*calls, [assistant_message("done")]])
        agent = Agent(name="director", model=model, tools=[self.tool()])
        context = CallContext(
            request_id=request_id, user_id=7, attempt=1, journal=self.store, results=self.store
        )
        result = await Runner.run(
            agent, "go", context=context, max_turns=30, run_config=RunConfig(tracing_disabled=True)
        )
        return [str(item.output) for item in result.new_items if item.type == "tool_call_output_item"]


async def test_the_incident_is_one_charge(redis: Redis):
    """Thirteen calls in one turn, as in the incident: one is admitted, twelve are recorded as replays."""
    host = Host(redis)
    answers = await host.run("r1", 13)
    assert host.charges == 1
    assert len(answers) == 13
    assert [(one.verdict, one.layer, one.arguments) for one in host.store.refused] == [
        ("replay", "redis", ("prompt",))
    ] * 12


async def test_thirteen_turns_are_one_charge(redis: Redis):
    """Thirteen turns with one reworded call each: one charge, and duplicates get the recorded result."""
    host = Host(redis)
    assert await host.run("r1", *[1] * 13) == ["The video is ordered."] * 13
    assert host.charges == 1


async def test_counters_are_rebuilt_from_memory(redis: Redis):
    """Redis is emptied after the call: the next call of the request is still a replay, without a charge."""
    host = Host(redis)
    await host.run("r1", 1)
    await redis.flushall()
    await host.run("r1", 1)
    assert host.charges == 1


async def test_limits_and_refunds_count_in_memory(redis: Redis):
    """A quota of one refuses the second request, and admits it once the first order has ended unpaid."""
    host = Host(redis, Limits(quota=1, everyone_budget=Money.parse("$5")))
    await host.run("r1", 1)
    answers = await host.run("r2", 1)
    assert "orders of this period are used up (1 placed)" in answers[0]
    found = await host.admission.availability(7, PRICE, host.limits)
    assert (found.word, found.usage.used, found.usage.spent) == ("quota", 1, PRICE)
    assert [one.verdict for one in found.usage.exceeded] == ["quota", "budget"]
    host.store.end_order("r1", counts=False, cools=False)
    await host.admission.refresh()
    await host.run("r2", 1)
    assert host.charges == 2


@pytest.mark.parametrize("scope", [EVERYONE, user_scope(7)])
async def test_a_breaker_in_memory_refuses_until_it_is_closed(redis: Redis, scope: str):
    """An open breaker refuses after the next refresh, and a closed one admits after the next."""
    host = Host(redis)
    host.store.open_breaker(scope)
    await host.admission.refresh()
    assert "Paid work is stopped" in (await host.run("r1", 1))[0]
    assert (await host.admission.availability(7, PRICE, FIVE)).word == "breaker"
    host.store.close_breaker(scope)
    await host.admission.refresh()
    await host.run("r1", 1)
    assert host.charges == 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_modules_import_each_other_relatively(path):
    """No module names the package `guardrails`, so that the same folder works under another import name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
        assert not [name for name in names if name.split(".")[0] == "guardrails"]


@pytest.mark.slow
def test_importing_it_loads_nothing_of_the_app():
    """With every module of the library imported, no other package of the app is loaded."""
    parts = [path.relative_to(ROOT).with_suffix("").parts for path in SOURCES]
    modules = [".".join(one).removesuffix(".__init__") for one in parts]
    ours = {"app", "chat", "web", "sandbox", "worker", "tools", "providers", "ledger", "telemetry", "evals"}
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print(sorted({ours!r} & {{name.split('.')[0] for name in sys.modules}}))"
    )
    done = run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
