"""The guard: one call of a request passes, however it is repeated, and the rest hear the truth."""

import json

import pytest
from agents import Agent, Runner
from backstage import messages
from player import GOOD, Player, order, raw

from tools.agent_factory import DIRECTOR


async def test_thirteen_parallel_calls_reach_one_body(pipeline_env):
    """Thirteen in one turn and thirteen in the next: one order; 25 heard that it exists, none "try again"."""
    thirteen = [order(prompt=f"take {n} of a market") for n in range(13)]
    again = [order() for _ in range(13)]
    env = await pipeline_env(thirteen, again)
    request = await env.opened()
    await env.run_agent(request)
    assert await env.refused(request) == [("replay", "redis")] * 25
    assert "try again" not in env.model.words.lower()
    assert sum("There is nothing to" in answer for answer in messages(env)) == 26
    await env.deliver(request)
    assert len(env.fake_provider.charges()) == 1


async def test_fifty_calls_in_sequence_are_one(pipeline_env):
    """Fifty turns, a call in each, each with its own words: one order."""
    env = await pipeline_env(*([order(prompt=f"better take {n}")] for n in range(50)))
    request = await env.opened()
    run = await env.run(request)
    agent = env.agent_factory.agent(DIRECTOR, "en")
    await Runner.run(agent, "go", context=run, max_turns=60, run_config=run.run_config)
    await env.deliver(request)
    assert len(env.model.heard) == 51
    assert len(await env.refused(request)) == 49
    assert len(env.fake_provider.charges()) == 1


class Nested(Player):
    """Whoever plays calls all that it holds, three turns long: the tool, the agent behind a tool, the
    handoff.
    """

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.asked = times, 0

    async def get_response(self, tools, handoffs, **more):
        answered = str(more["input"]).count("function_call_output")
        held = {"generate_video": json.dumps(GOOD), "crew": '{"input": "go"}'}
        if tools and answered < 3 * self.times:
            asked = [raw(held[tool.name], name=tool.name) for tool in tools if tool.name in held]
            asked = [raw(one.arguments, name=one.name) for one in asked * self.times]
            self.asked += sum(one.name == "generate_video" for one in asked)
            asked += [raw("{}", name=one.tool_name) for one in handoffs]
            self.turns.insert(0, asked)
        return await super().get_response(tools=tools, **more)


@pytest.mark.parametrize(("times", "asked"), [(1, 8), (3, 60)], ids=["8 asked", "60 asked, in parallel"])
async def test_an_agent_as_a_tool_orders_for_the_same_request(pipeline_env, times, asked):
    """An agent that calls an agent that calls the tool, however often and in parallel: one request, one
    video.
    """
    env = await pipeline_env(model=Nested(times))
    request = await env.opened()
    run = await env.run(request)
    inner = env.agent_factory.agent(DIRECTOR, "en")
    crew = inner.as_tool("crew", "Ask the crew.", run_config=run.run_config)
    outer = Agent(name="outer", model="m", tools=[crew, *inner.tools])
    await Runner.run(outer, "go", context=run, max_turns=9, run_config=run.run_config)
    await env.deliver(request)
    assert env.model.asked == asked
    assert len(env.fake_provider.charges()) == 1


async def test_a_handoff_orders_for_the_same_request(pipeline_env):
    """Two agents that both hold the tool, one handing over to the other in the same turn: one video."""
    env = await pipeline_env(model=Nested(1))
    request = await env.opened()
    run = await env.run(request)
    second = env.agent_factory.agent(DIRECTOR, "en")
    first = env.agent_factory.agent(DIRECTOR, "en").clone(name="first", handoffs=[second])
    await Runner.run(first, "go", context=run, max_turns=9, run_config=run.run_config)
    await env.deliver(request)
    assert env.model.asked >= 2
    assert len(env.fake_provider.charges()) == 1
