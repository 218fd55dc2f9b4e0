"""Agents whose model is a script, and a provider that keeps its effects: for tests of guardrails/library."""

import json
from itertools import count
from typing import Any

from agents import Agent, RunConfig, Runner
from agents.testing import ScriptedModel, assistant_message, function_call

from guardrails import DidNotHappen, Guard, Happened, current_key


class Provider:
    """Keeps the effects, and says what became of each key."""

    def __init__(self) -> None:
        self.effects: list[str] = []
        self.by_key: dict[str, str] = {}
        self.asked: list[str] = []

    def take(self, item: str) -> str:
        """Take effect once more, under the key of the call that runs."""
        self.effects.append(item)
        self.by_key[current_key()] = f"refunded {item}"
        return self.by_key[current_key()]

    async def ask(self, key: str, arguments: Any) -> Happened | DidNotHappen:
        self.asked.append(key)
        return Happened(self.by_key[key]) if key in self.by_key else DidNotHappen()


_CALLS = count()


async def run_agent(guard: Guard, tools: Any, act: str, *turns: list[dict[str, Any]], **options: Any) -> Any:
    """Run an agent whose model makes these turns of calls of the first tool; return the tool's answers."""
    tools = tools if isinstance(tools, list) else [tools]
    name = options.pop("name", tools[0].name)
    calls = [
        [function_call(name, json.dumps(one), call_id=f"c{next(_CALLS)}") for one in turn] for turn in turns
    ]
    model = ScriptedModel([*calls, [assistant_message("done")]])
    request = guard.request(id=act, user=options.pop("user", "u1"), context=options.pop("context", None))
    agent = Agent(name="clerk", model=model, tools=tools, **options)
    result = await Runner.run(
        agent, "go", context=request, max_turns=40, run_config=RunConfig(tracing_disabled=True)
    )
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]
