"""The agent that such a case plays with: its tools, what they do outside, and how its agents are wired."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agents import Agent, FunctionTool, RunContextWrapper

from evals.case import EffectOutcome, ForeignAgent
from evals.events import EvalError
from guardrails import DidNotHappen, Guard, Happened, NotSent, current_key
from sandbox.video_api.server import FakeProviderServer

COST: Final = "$3"
_HANGS_S: Final = 0.3
_QUICK: Final = {"wait": "3s", "lease": "5s", "settle": "0s"}


@dataclass(frozen=True)
class Effect:
    """Something that happened outside, once and for real: the line of the charge log."""

    tool: str
    act: str
    item: str
    key: str

    @property
    def result(self) -> str:
        return f"{self.tool} done for {self.item}, act {self.act}, number {self.key[-6:]}"


@dataclass
class Outside:
    """The service that the tools call. It forgets nothing, honours no idempotency key, and can be asked.

    Attributes:
        outcomes: How the nth call ends; after the last, every call succeeds.
        effects: Everything that happened.
    """

    outcomes: deque[EffectOutcome] = field(default_factory=deque)
    effects: list[Effect] = field(default_factory=list)
    asked: int = 0

    async def take(self, tool: str, act: str, item: str) -> str:
        """Do it, or fail as the script says; text of this service in an error must reach no model.

        Raises:
            NotSent: Nothing left the process.
            TimeoutError: After the effect, or without one.
        """
        outcome = self.outcomes.popleft() if self.outcomes else "ok"
        if outcome == "not_sent":
            raise NotSent("the service is closed")
        if outcome == "lost":
            raise TimeoutError(FakeProviderServer.hostile)
        await asyncio.sleep(_HANGS_S if outcome == "slow" else 0)
        effect = Effect(tool, act, item, _key() or f"unkeyed-{len(self.effects)}")
        self.effects.append(effect)
        if outcome == "done_then_timeout":
            raise TimeoutError(FakeProviderServer.hostile)
        return effect.result

    async def verify(self, key: str, arguments: Any) -> Happened | DidNotHappen:
        """Answer what became of a key."""
        del arguments
        self.asked += 1
        found = next((one for one in self.effects if one.key == key), None)
        return Happened(found.result) if found else DidNotHappen()


def _key() -> str:
    try:
        return current_key()
    except LookupError:  # no guard is there: a mutant
        return ""


def tools_of(spec: ForeignAgent, guard: Guard, outside: Outside) -> list[FunctionTool]:
    """Return the guarded tools of a case.

    Raises:
        EvalError: There is no such tool, or its terms cannot be read.
    """

    async def refund(ctx: RunContextWrapper[Any], order_id: str, amount: str) -> str:
        """Refund an order."""
        del amount
        return await outside.take("refund", ctx.context, order_id)

    async def send_gift(ctx: RunContextWrapper[Any], to: str) -> str:
        """Send a gift card."""
        return await outside.take("send_gift", ctx.context, to)

    bodies = {"refund": refund, "send_gift": send_gift}
    try:
        return [_armed(guard, bodies[name], terms, outside) for name, terms in spec.tools.items()]
    except (KeyError, ValueError, TypeError) as error:
        raise EvalError(f"the tools {', '.join(spec.tools)} cannot be armed: {error}") from None


def _armed(guard: Guard, body: Any, terms: dict[str, str], outside: Outside) -> FunctionTool:
    given: dict[str, Any] = _QUICK | {"cost": COST} | terms
    if (name := given.pop("key", None)) is not None:
        given["key"] = lambda arguments: getattr(arguments, name)
    if given.pop("verify", "yes") == "yes":
        given["verify"] = outside.verify
    tool: FunctionTool = guard.tool(**given)(body)
    return tool


def wire(spec: ForeignAgent, tools: Sequence[FunctionTool]) -> Agent[Any]:
    """Return the first agent; every agent of the case holds all the tools."""
    first = Agent(name="first", instructions="AGENT director\nYou are a clerk.", tools=list(tools))
    if spec.wiring == "single":
        return first
    second = first.clone(name="second", instructions="AGENT second\nYou are a clerk.")
    first.handoffs, second.handoffs = [second], [first]
    return first
