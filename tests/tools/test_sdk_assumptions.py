"""Facts about the agent SDK that our guards rely on: if one fails, read docs/architecture.md first."""

import ast
import asyncio
import importlib
import sysconfig
from pathlib import Path

import agents
import pytest
from agents import Agent, RunConfig, Runner, ToolGuardrailFunctionOutput
from agents.decorators import tool, tool_input_guardrail
from agents.exceptions import MaxTurnsExceeded, ModelBehaviorError, ToolInputGuardrailTripwireTriggered
from agents.run_config import ToolExecutionConfig
from agents.testing import ScriptedModel, assistant_message, function_call

from tests.support.services import ROOT

PACKAGES = (
    "app",
    "bench",
    "chat",
    "evals",
    "guardrails",
    "ledger",
    "providers",
    "sandbox",
    "telemetry",
    "tests",
    "tools",
    "web",
    "worker",
)
QUIET = RunConfig(tracing_disabled=True)


def paid(*guards, lasts_s=0.01, **options):
    """A tool that costs money and takes a while, with the list of what reached its body."""
    reached = []

    @tool(tool_input_guardrails=list(guards), **({"failure_error_function": None} | options))
    async def pay(seconds: int) -> str:
        reached.append(seconds)
        await asyncio.sleep(lasts_s)
        reached.append("paid")
        return "ok"

    return pay, reached


async def run(pay, *turns, config=QUIET, **options):
    model = ScriptedModel([*turns, [assistant_message("done")]])
    result = await Runner.run(Agent(name="a", model=model, tools=[pay]), "go", run_config=config, **options)
    return model, result


def call(arguments='{"seconds": 8}', call_id="c1", name="pay"):
    return function_call(name, arguments, call_id=call_id)


def heard(result):
    return [item["output"] for item in result.to_input_list() if item.get("type") == "function_call_output"]


@pytest.mark.parametrize(
    "arguments", ['{"seconds": 8', "[1]", "{}", '{"seconds": NaN}', '{"seconds": "eight"}']
)
async def test_a_guard_runs_before_the_arguments_are_validated(arguments):
    """A malformed call reaches the guard, never the body: so the guard validates before it claims."""
    seen = []

    @tool_input_guardrail
    def note(data):
        seen.append(data.context.tool_arguments)
        return ToolGuardrailFunctionOutput.allow()

    pay, reached = paid(note, failure_error_function=lambda _context, _error: "no")
    await run(pay, [call(arguments)])
    assert (seen, reached) == ([arguments], [])


@pytest.mark.parametrize(
    "arguments", ['{"seconds": 1000000000}', '{"seconds": -5}', '{"seconds": 8, "n": 13}']
)
async def test_types_do_not_bound_cost(arguments):
    """Absurd numbers and extra names are executed: so the guard checks figures itself."""
    pay, reached = paid()
    await run(pay, [call(arguments)])
    assert reached[1:] == ["paid"]


async def test_reject_content_leaves_the_body_uncalled_and_resembles_an_answer():
    """The model gets our words as an ordinary output, and a good call next to the refused one continues."""

    @tool_input_guardrail
    def refuse_second(data):
        if data.context.tool_call_id == "c2":
            return ToolGuardrailFunctionOutput.reject_content("already being made")
        return ToolGuardrailFunctionOutput.allow()

    pay, reached = paid(refuse_second)
    _, result = await run(pay, [call(), call(call_id="c2")])
    assert reached == [8, "paid"]
    assert heard(result) == ["ok", "already being made"]


async def test_a_guard_that_raises_cancels_the_good_call_next_to_it():
    """The sibling is stopped in the middle of its body, after it began to pay: so guards never raise."""

    @tool_input_guardrail
    async def trip_second(data):
        if data.context.tool_call_id == "c2":
            await asyncio.sleep(0.005)
            return ToolGuardrailFunctionOutput.raise_exception()
        return ToolGuardrailFunctionOutput.allow()

    pay, reached = paid(trip_second, lasts_s=60)
    with pytest.raises(ToolInputGuardrailTripwireTriggered):
        await run(pay, [call(), call(call_id="c2")])
    assert reached == [8]


async def test_the_sdks_own_error_text_invites_a_retry():
    """Without `failure_error_function` a failing tool asks the model to try again: so all tools set one."""

    @tool
    def pay(seconds: int) -> str:
        raise RuntimeError("charged, then lost")

    _, result = await run(pay, [call()])
    assert heard(result) == ["An error occurred while running the tool. Please try again."]


async def test_thirteen_parallel_calls_are_thirteen_executions():
    """Neither `parallel_tool_calls=False` nor `max_turns` bounds what one turn may spend."""
    pay, reached = paid()
    await run(pay, [call(call_id=f"c{n}") for n in range(13)], max_turns=2)
    assert reached.count("paid") == 13


async def test_all_calls_of_a_turn_pass_a_guard_that_checks_then_sets():
    """They start together: so one decision is one atomic script."""
    taken = set()

    @tool_input_guardrail
    async def check_then_set(data):
        free = "video" not in taken
        await asyncio.sleep(0)
        taken.add("video")
        return (
            ToolGuardrailFunctionOutput.allow() if free else ToolGuardrailFunctionOutput.reject_content("no")
        )

    for config, executed in ((QUIET, 13), (serial(), 1)):
        taken.clear()
        pay, reached = paid(check_then_set)
        await run(pay, [call(call_id=f"c{n}") for n in range(13)], config=config)
        assert reached.count("paid") == executed


def serial():
    return RunConfig(
        tracing_disabled=True, tool_execution=ToolExecutionConfig(max_function_tool_concurrency=1)
    )


async def test_equal_calls_under_one_id_are_joined_and_changed_ones_raise_after_the_payment():
    """A reused call id can end the run after the order was placed: so delivery never asks how it ended."""
    pay, reached = paid()
    await run(pay, [call(), call()])
    assert reached.count("paid") == 1
    pay, reached = paid()
    with pytest.raises(ModelBehaviorError):
        await run(pay, [call()], [call('{"seconds": 12}')])
    assert reached.count("paid") == 1


async def test_an_unknown_tool_ends_the_run_by_default():
    """The default raises; `return_error_to_model` lets the model correct itself."""
    pay, reached = paid()
    with pytest.raises(ModelBehaviorError):
        await run(pay, [call(name="render_movie")])
    forgiving = RunConfig(tracing_disabled=True, tool_not_found_behavior="return_error_to_model")
    await run(pay, [call(name="render_movie")], [call(call_id="c2")], config=forgiving)
    assert reached == [8, "paid"]


async def test_max_turns_raises_after_the_order():
    """The turn limit ends the run, not what the run has bought."""
    pay, reached = paid()
    with pytest.raises(MaxTurnsExceeded):
        await run(pay, [call()], max_turns=1)
    assert reached == [8, "paid"]


def test_agents_is_the_sdk():
    """Our folder of the same name has no `__init__.py`, so the import name stays the SDK's."""
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    assert Path(agents.__file__).resolve().parent.parent in installed
    assert {Path(place).resolve().parent for place in agents.__path__} <= installed


def sdk_imports():
    """Yield every (file, module, name) that our code takes from the SDK."""
    for path in (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                yield from ((path, alias.name, None) for alias in node.names if is_sdk(alias.name))
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and is_sdk(node.module):
                yield from ((path, node.module, alias.name) for alias in node.names)


def is_sdk(module):
    return module.split(".")[0] == "agents"


def missing_from(module_name, name):
    module = importlib.import_module(module_name)
    if name is None or hasattr(module, name):
        return False
    try:
        importlib.import_module(f"{module_name}.{name}")
    except ModuleNotFoundError:
        return True
    return False


def test_every_name_we_take_from_the_sdk_exists():
    """The SDK's module `__getattr__` lets misspelt names pass every type checker: so they are imported."""
    taken = list(sdk_imports())
    assert taken
    assert [
        f"{path.name}: {module}.{name}" for path, module, name in taken if missing_from(module, name)
    ] == []


def test_the_lookup_finds_a_misspelt_name():
    """A test that cannot fail proves nothing."""
    assert missing_from("agents", "Runer")
    assert not missing_from("agents", "tool_context")
    assert "__getattr__" in vars(agents)
