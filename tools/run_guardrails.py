"""Guardrails of a run that a declaration may name: on what an agent is given, and on its last words.

They are the agents SDK's own, and run where the SDK runs them: `input_guardrails` before the first turn of
their agent's run, `output_guardrails` on the last words of the agent that ends it. Guards of tools are apart
from them: those decide about each call.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from agents import Agent, GuardrailFunctionOutput, InputGuardrail, OutputGuardrail, RunContextWrapper

from guardrails.content.verdict import Judge

_LINK: Final = re.compile(r"(https?://|www\.)\S", re.IGNORECASE)
_AMOUNT: Final = re.compile(
    r"(?:US)?[$€£]\s?\d|\b\d+(?:[.,]\d+)?\s?(?:dollars?|euros?|USD|EUR)\b", re.IGNORECASE
)

Check = Callable[[str], Awaitable[bool]]
"""Returns whether a text is refused."""


def input_guardrail(name: str, judge: Judge) -> "InputGuardrail[Any]":
    """Return the guardrail of this name; `tools.agent_spec.INPUT_GUARDRAILS` has them all."""
    refuses = {"content": _by_content(judge)}[name]

    async def check(
        _: RunContextWrapper[Any], __: Agent[Any], given: str | list[Any]
    ) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(name, await refuses(_text_of(given)))

    # Before the first turn: beside it, a tool might be called before the verdict.
    return InputGuardrail(check, name=name, run_in_parallel=False)


def output_guardrail(name: str) -> "OutputGuardrail[Any]":
    """Return the guardrail of this name; `tools.agent_spec.OUTPUT_GUARDRAILS` has them all."""
    found = {"no_links": _LINK, "no_prices": _AMOUNT}[name]

    async def check(_: RunContextWrapper[Any], __: Agent[Any], said: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(name, found.search(str(said)) is not None)

    return OutputGuardrail(check, name=name)


def _by_content(judge: Judge) -> Check:
    async def refuses(text: str) -> bool:
        return (await judge.judge(text)).word != "allowed"

    return refuses


def _text_of(given: str | list[Any]) -> str:
    """Return the words of a run's input; of a conversation, what persons said."""
    if isinstance(given, str):
        return given
    said = [one for one in given if isinstance(one, dict) and one.get("role") == "user"]
    return "\n".join(str(one.get("content", "")) for one in said)
