"""Guarded tools in the SDK's ways to run: streams, handoffs, sessions, nested agents, time limits."""

import asyncio
import json
from typing import Any

import pytest
from agents import Agent, RunConfig, RunContextWrapper, Runner, SQLiteSession, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call

from guardrails import Guard, NotSent, mine
from guardrails.library.requests import GuardedRequest
from tests.support.guarded_agents import Provider, run_agent

QUIET = RunConfig(tracing_disabled=True)
A = {"item": "A"}
KINDS = ["memory"]


@pytest.fixture
def pay(guard: Guard, provider: Provider) -> Any:
    @guard.tool
    async def pay(ctx, item: str) -> str:
        """Pay an item."""
        return provider.take(item)

    return pay


async def test_a_context_annotated_with_any_is_the_context(guard, provider):
    """It is no argument of the tool, for the model neither."""

    @guard.tool
    async def pay(ctx: Any, item: str) -> str:
        """Pay an item."""
        return provider.take(f"{ctx.context}{item}")

    assert list(pay.params_json_schema["properties"]) == ["item"]
    assert await run_agent(guard, pay, "r1", [A], context="mine") == ["refunded mineA"]


def call(name: str, number: int = 1, **arguments: str) -> Any:
    return function_call(name, json.dumps(arguments), call_id=f"{name}{number}")


def outputs(result: Any) -> list[Any]:
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]


async def test_a_streamed_run(guard, provider, pay):
    """Two calls in a streamed run are one effect."""
    model = ScriptedModel([[call("pay", 1, item="A"), call("pay", 2, item="A")], [assistant_message("done")]])
    agent = Agent(name="clerk", model=model, tools=[pay])
    result = Runner.run_streamed(agent, "go", context=guard.request(id="r1"), run_config=QUIET)
    async for _ in result.stream_events():
        pass
    assert outputs(result) == ["refunded A"] * 2
    assert provider.effects == ["A"]


async def test_handoffs_and_nested_agents_share_the_act(guard, provider, pay):
    """The tool is called before a handoff, after it, and by an agent that is a tool: one effect."""
    nested = Agent(
        name="helper", tools=[pay],
        model=ScriptedModel([[call("pay", 1, item="A")], [assistant_message("helped")]]),
    )  # fmt: skip
    second = Agent(
        name="second", tools=[pay, nested.as_tool("ask_helper", "Ask.")],
        model=ScriptedModel(
            [[call("pay", 2, item="A")], [call("ask_helper", input="go")], [assistant_message("done")]]
        ),
    )  # fmt: skip
    first = Agent(
        name="first", tools=[pay], handoffs=[second],
        model=ScriptedModel([[call("pay", 3, item="A")], [call("transfer_to_second")]]),
    )  # fmt: skip
    result = await Runner.run(first, "go", context=guard.request(id="r1", context={"x": 1}), run_config=QUIET)
    assert [one for one in outputs(result) if "refunded" in str(one)] == ["refunded A"] * 2
    assert "helped" in outputs(result)
    assert provider.effects == ["A"]


async def test_two_runs_of_one_session(guard, provider, pay):
    """A session that is run again for the same act pays once."""
    session = SQLiteSession("s1")
    for _ in range(2):
        model = ScriptedModel([[call("pay", item="A")], [assistant_message("done")]])
        agent = Agent(name="clerk", model=model, tools=[pay])
        await Runner.run(agent, "go", context=guard.request(id="r1"), session=session, run_config=QUIET)
    session.close()
    assert provider.effects == ["A"]


async def test_a_time_limit_of_the_sdk_is_unknown(guard, provider):
    """The SDK ends a call at its limit: the model reads that the outcome is unknown, not to try again."""

    @guard.tool(verify=provider.ask, settle=0, timeout_seconds=0.1)
    async def pay(ctx, item: str) -> str:
        provider.take(item)
        await asyncio.sleep(30)
        return "never"

    answers = await run_agent(guard, pay, "r1", [A], [A])
    assert answers[0].startswith("The call was ended before it answered, and its outcome is unknown")
    assert answers[1] == "refunded A"
    assert provider.effects == ["A"]


async def test_a_tool_of_another_package_is_armed(guard, provider):
    """arm() takes the tool's own error function away, which would hide that the outcome is unknown."""
    fails = [True]

    @function_tool
    async def pay(ctx: RunContextWrapper[Any], item: str) -> str:
        """Pay an item."""
        assert ctx.context == {"x": 1}
        provider.take(item)
        if fails:
            raise TimeoutError
        return "paid"

    armed = guard.arm(pay, key=lambda a: a.item, verify=provider.ask, settle=0)
    assert await run_agent(guard, armed, "r1", [A], [A], context={"x": 1}) == ["refunded A"] * 2
    assert provider.effects == ["A"]
    fails.clear()
    assert await run_agent(guard, armed, "r2", [{"item": "B"}], context={"x": 1}) == ["paid"]
    answers = await run_agent(guard, armed, "r3", [{}], context={"x": 1})
    assert answers[0].startswith("The arguments cannot be used: item: required. Nothing was done")


async def test_an_armed_copy_leaves_the_tool_as_it_was(guard):
    """The tool itself stays unguarded, with its own error function."""

    @function_tool
    async def pay(item: str) -> str:
        """Pay an item."""
        raise TimeoutError

    armed = guard.arm(pay)
    assert armed is not pay
    assert armed.params_json_schema == pay.params_json_schema
    (answer,) = await run_agent(guard, [pay], "r1", [A])
    assert "An error occurred" in answer


async def test_a_run_without_a_request_is_refused(guard, provider, pay):
    """A defect of the host is refused in words; nothing runs."""
    model = ScriptedModel([[call("pay", item="A")], [assistant_message("done")]])
    result = await Runner.run(
        Agent(name="clerk", model=model, tools=[pay]), "go", context={"x": 1}, run_config=QUIET
    )
    assert outputs(result)[0].startswith("This tool is not set up for this run, so the call was refused.")
    assert provider.effects == []


async def test_other_tools_use_the_hosts_object_through_the_request(guard):
    """What is not guarded reads and writes the host's own object as before."""

    class Mine:
        count = 1

    own = Mine()

    @function_tool
    async def plain(ctx: RunContextWrapper[Mine]) -> str:
        """Count."""
        ctx.context.count += 1
        return str(ctx.context.count)

    assert await run_agent(guard, [plain], "r1", [{}], context=own) == ["2"]
    assert own.count == 2
    request = guard.request(id="r1", context={"x": 1})
    request["y"] = 2
    assert (request["x"], "y" in request, mine(request)) == (1, True, {"x": 1, "y": 2})
    assert isinstance(request, GuardedRequest)
    assert "r1" not in repr(request)


@pytest.mark.parametrize("result", [{"type": "text", "text": "x"}, ["a", 1], 7, None, "text\0", object()])
async def test_results_of_any_kind_are_recorded(guard, result):
    """A duplicate gets what the SDK made of the first result; what JSON cannot hold becomes its text."""

    @guard.tool
    async def pay(ctx, item: str) -> Any:
        return result

    first, second = await run_agent(guard, pay, "r1", [A], [A])
    assert str(second) == str(first) or result is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_exit_of_the_process_is_recorded_and_goes_on(guard, error):
    """What ends the process is no result; the call is unknown."""
    from guardrails.library.calls import _Ended, _raise_exit

    with pytest.raises(error):
        _raise_exit(_Ended(None, error=error()))
    _raise_exit(_Ended(None, error=NotSent()))
