"""The guard of one tool: validate the arguments, judge their content, admit; in this order, in one place.

A claim made before validation would let a malformed call burn the request, and two guards that each write
would not be atomic together.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, NoReturn, TypeVar

from agents import FunctionTool, ToolGuardrailFunctionOutput, ToolInputGuardrail, ToolInputGuardrailData
from opentelemetry.trace import get_current_span
from pydantic import AfterValidator, BaseModel, ValidationError

from guardrails.admission import Admission, Ask, Decision
from guardrails.content_verdict import Judge, reason_for_model
from guardrails.refusals import IN_HAND, NOTHING_PAID, explain
from guardrails.visit import Visit
from guardrails.witness import decided, prevented
from ledger import calls
from ledger.limits import Limits
from ledger.money import Money
from telemetry import names, tracing
from telemetry.instruments import VIOLATIONS
from telemetry.logs import get_logger
from telemetry.points import reach

log = get_logger(__name__)

Form = TypeVar("Form", bound=BaseModel)

MAX_ARGUMENTS: Final = 20_000
"""Characters of raw arguments that are read at all."""

_READ_S: Final = 0.4
_RECORD_S: Final = 1.0
"""Thirteen refusals at once queue for one SQLite file; each is evidence and gets longer than a read."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")


@dataclass(frozen=True)
class Terms:
    """What the guard must know of one armed tool.

    Attributes:
        tool: The tool's name.
        arguments: The strict form of its arguments; what it does not name is ignored, as the body does.
        limits: The declaration's figures.
        price: What a call with these arguments would cost, from the provider's quote; a ValueError is
            the provider's refusal of a combination.
        text: What the content policy reads; None if the declaration names no content policy.
        recorded: The recorded result of this request's one call, or None while there is none yet.
        decides: Whether its refusal says how the request ends; a caption that is refused ends nothing.
    """

    tool: str
    arguments: type[BaseModel]
    limits: Limits
    price: Callable[[Any], Money]
    text: Callable[[Any], str] | None
    recorded: Callable[[Any], Awaitable[str | None]]
    decides: bool = True


def _words(text: str) -> str:
    if not text.strip():
        raise ValueError("it holds no words")
    if "\0" in text:
        raise ValueError("it holds a NUL, which cannot be kept")
    return text


Words = Annotated[str, AfterValidator(_words)]
"""A text among a tool's arguments."""


def arm(tool: FunctionTool, terms: Terms, admission: Admission, content: Judge) -> FunctionTool:
    """Return a copy of `tool` that no call reaches but through the guard."""
    guard = _Guard(terms, admission, content)
    return replace(tool, tool_input_guardrails=[ToolInputGuardrail(guard.check, name=f"admit {terms.tool}")])


def argument_names(raw: str) -> list[str]:
    """Return the names in a raw arguments string, for logs; values never leave this function.

    What is no plain name may be a value that the model wrote in a name's place, so it stands as `?`.
    """
    try:
        found = json.loads(raw[:MAX_ARGUMENTS])
    except (ValueError, RecursionError):
        return []
    return sorted(map(_name, found))[:20] if isinstance(found, dict) else []


def _name(said: str) -> str:
    return said if _NAME.fullmatch(said) else "?"


def read_arguments(raw: str, form: type[Form]) -> Form:
    """Read a call's raw arguments by `form`, strictly: numbers are JSON numbers, no NaN, no key twice.

    Raises:
        ValueError: What is wrong, in words for the model, without quoting long values.
    """
    if len(raw) > MAX_ARGUMENTS:
        raise ValueError(f"the arguments are {len(raw)} characters long; at most {MAX_ARGUMENTS} are read")
    try:
        found = json.loads(raw, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the arguments are nested too deeply") from None
    return check_arguments(found, form)


def check_arguments(found: Any, form: type[Form]) -> Form:
    """Check arguments that are read already; see `read_arguments`."""
    try:
        return form.model_validate(found, strict=True)
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, one['loc'])) or 'arguments'}: {one['msg']}" for one in error.errors()
        )
        raise ValueError("; ".join(problems)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice in the arguments")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number that can be ordered")


class _Guard:
    def __init__(self, terms: Terms, admission: Admission, content: Judge) -> None:
        self._terms, self._admission, self._content = terms, admission, content

    async def check(self, data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        """Let the call through, or answer in its place. Whatever happens here, it does not raise."""
        visit: Visit = data.context.context
        raw = data.context.tool_arguments
        # The span that is current here is the call's own.
        get_current_span().set_attribute(names.CALL_ID, data.context.tool_call_id)
        with tracing.step(names.GUARD, {names.TOOL: self._terms.tool}):
            message = await self._checked(visit, raw, data.context.tool_call_id)
        if message is None:
            return ToolGuardrailFunctionOutput.allow()
        return ToolGuardrailFunctionOutput.reject_content(message)

    async def _checked(self, visit: Visit, raw: str, call_id: str) -> str | None:
        try:
            return await self._judge(visit, raw, call_id)
        except Exception as error:  # noqa: BLE001 - an exception here would cancel the good call beside it
            log.error(
                "guard failed", tool=self._terms.tool, request=visit.request_id, error=type(error).__name__
            )
            VIOLATIONS.add(kind="guard_failed")
            return await self._refuse(visit, raw, Decision("closed", "redis", why=type(error).__name__))

    async def _judge(self, visit: Visit, raw: str, call_id: str) -> str | None:
        terms = self._terms
        try:
            arguments = read_arguments(raw, terms.arguments)
            price = terms.price(arguments)
        except ValueError as error:
            log.info(
                "call refused",
                tool=terms.tool, request=visit.request_id, verdict="malformed", layer="arguments",
                arguments=argument_names(raw),
            )  # fmt: skip
            await _record(
                visit, terms.tool, raw, Decision("closed", "arguments", why="malformed"), "malformed"
            )
            return f"The arguments cannot be used: {error}. {NOTHING_PAID} Correct them in one new call."
        if terms.text is not None:
            verdict = await self._content.judge(terms.text(arguments))
            if verdict.word != "allowed":
                decision = Decision("closed", "content", why=verdict.category or verdict.word)
                await self._refuse(visit, raw, decision)
                return reason_for_model(verdict)
        decision = await self._admission.take(
            Ask(terms.tool, visit.request_id, visit.user_id, visit.attempt, call_id, price, terms.limits)
        )
        if decision.word == "admitted":
            decided(terms.tool, decision, decision.word)
            await reach("admitted")
            return None
        if decision.word == "replay":
            return await self._replay(visit, raw, decision)
        return await self._refuse(visit, raw, decision)

    async def _replay(self, visit: Visit, raw: str, decision: Decision) -> str:
        names = argument_names(raw)
        log.warning(
            "DUPLICATE CALL PREVENTED",
            tool=self._terms.tool, request=visit.request_id, layer=decision.layer, arguments=names,
        )  # fmt: skip
        await _record(visit, self._terms.tool, raw, decision, "replay")
        recorded = await self._recorded(visit)
        prevented(self._terms.tool, decision.layer, recorded=recorded is not None)
        log.info("replayed", tool=self._terms.tool, request=visit.request_id, recorded=recorded is not None)
        return recorded or IN_HAND

    async def _recorded(self, visit: Visit) -> str | None:
        """Read the recorded result. A ledger that is away takes nothing from the call that is in hand."""
        try:
            async with asyncio.timeout(_READ_S):
                return await self._terms.recorded(visit)
        except Exception as error:  # noqa: BLE001 - the call is a duplicate, whatever can be read of the first
            log.warning("recorded result not read", request=visit.request_id, error=type(error).__name__)
            return None

    async def _refuse(self, visit: Visit, raw: str, decision: Decision) -> str:
        if self._terms.decides:
            visit.refusals.append(decision)
        log.warning(
            "call refused",
            tool=self._terms.tool, request=visit.request_id, verdict=decision.word, layer=decision.layer,
            why=decision.why, arguments=argument_names(raw),
        )  # fmt: skip
        await _record(visit, self._terms.tool, raw, decision, decision.word)
        return explain(decision)


async def _record(visit: Visit, tool: str, raw: str, decision: Decision, word: str) -> None:
    """Write the refused call down beside the request; if the ledger is away, the refusal still stands."""
    decided(tool, decision, word)
    try:
        async with asyncio.timeout(_RECORD_S):
            await calls.record(
                visit.ledger, visit.request_id, tool, word, decision.layer, argument_names(raw)
            )
    except Exception as error:  # noqa: BLE001 - the refusal stands, recorded or not
        log.error("refused call not recorded", request=visit.request_id, error=type(error).__name__)
