"""ToolInputGuardrail: validate arguments, check content, admit; records every decision."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agents import FunctionTool, ToolGuardrailFunctionOutput, ToolInputGuardrail, ToolInputGuardrailData
from opentelemetry.trace import get_current_span
from pydantic import BaseModel

from guardrails.admission import Admission, AdmissionRequest, Decision
from guardrails.arguments import argument_names, read_arguments
from guardrails.content.verdict import Judge, reason_for_model
from guardrails.money import Money
from guardrails.refusals import IN_PROGRESS, NOTHING_PAID, explain
from ledger import history
from ledger.database import Ledger
from ledger.limits import Limits
from telemetry import semconv, tracing
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.metrics import DECISIONS, DUPLICATES, VIOLATIONS
from telemetry.tracing import mark_failed

_CHECK_INCOMPLETE = "closed"
"""The word of a content check that could not be completed."""


def record_decision(tool: str, decision: Decision, word: str) -> None:
    """Note a decision. A refusal is no error; a guard that could not decide, and so refused, is one."""
    DECISIONS.add(tool=tool, decision=word, layer=decision.layer)
    span = get_current_span()
    span.set_attribute(semconv.DECISION, word)
    span.set_attribute(semconv.LAYER, decision.layer)
    if decision.why:
        span.set_attribute(semconv.REASON, decision.why)
    if word == "closed" and (decision.layer in ("redis", "ledger") or decision.why == _CHECK_INCOMPLETE):
        span.set_attribute(semconv.FAIL_CLOSED, value=True)
        mark_failed(span, decision.why or "closed")


def record_duplicate(tool: str, layer: str, *, recorded: bool) -> None:
    """Note a repeated call that was answered in place of being made: it is seen, and it is not an error."""
    reason = "recorded" if recorded else "in_hand"
    DUPLICATES.add(layer=layer, reason=reason)
    get_current_span().add_event(
        semconv.DUPLICATE, {semconv.TOOL: tool, semconv.LAYER: layer, semconv.REASON: reason}
    )


@dataclass(kw_only=True)
class CallContext:
    """One attempt at one request's run. Identity comes from here, never from a tool's arguments.

    Attributes:
        request_id: The user's act.
        user_id: The payer.
        attempt: Which attempt at the run this is, from 1.
        ledger: Where every refused call is recorded.
        refusals: What guards and bodies refused in this attempt, in order; replays are not refusals.
        unrecorded: Tool, word and layer of refused calls that could not be written down in time.
    """

    request_id: str
    user_id: int
    attempt: int
    ledger: Ledger
    refusals: list[Decision] = field(default_factory=list)
    unrecorded: list[tuple[str, str, str]] = field(default_factory=list)


log = get_logger(__name__)

_STORE_TIMEOUT_S: Final = 1.1
"""For all that the stores are asked in one call, also where none answers. Thirteen refusals at once queue for
one SQLite file and each is evidence: so the record gets what admission leaves, and each question `_LEAST_S`.
"""
_MIN_TIMEOUT_S: Final = 0.2


@dataclass(frozen=True)
class GuardSpec:
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


def guarded(tool: FunctionTool, spec: GuardSpec, admission: Admission, content: Judge) -> FunctionTool:
    """Return a copy of `tool` that no call reaches but through the guard."""
    guard = _Guard(spec, admission, content)
    return replace(tool, tool_input_guardrails=[ToolInputGuardrail(guard.check, name=f"admit {spec.tool}")])


class _Guard:
    def __init__(self, spec: GuardSpec, admission: Admission, content: Judge) -> None:
        self._spec, self._admission, self._content = spec, admission, content

    async def check(self, data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        """Let the call through, or answer in its place. Whatever happens here, it does not raise."""
        visit: CallContext = data.context.context
        raw = data.context.tool_arguments
        # The span that is current here is the call's own.
        get_current_span().set_attribute(semconv.CALL_ID, data.context.tool_call_id)
        with tracing.child_span(semconv.GUARD, {semconv.TOOL: self._spec.tool}):
            message = await self._checked(visit, raw, data.context.tool_call_id)
        if message is None:
            return ToolGuardrailFunctionOutput.allow()
        return ToolGuardrailFunctionOutput.reject_content(message)

    async def _checked(self, visit: CallContext, raw: str, call_id: str) -> str | None:
        try:
            return await self._judge(visit, raw, call_id)
        except Exception as error:  # noqa: BLE001 - an exception here would cancel the good call beside it
            log.error(
                "guard failed", tool=self._spec.tool, request=visit.request_id, error=type(error).__name__
            )
            VIOLATIONS.add(kind="guard_failed")
            decision = Decision("closed", "redis", why=type(error).__name__)
            return await self._refuse(visit, raw, decision, _deadline())

    async def _judge(self, visit: CallContext, raw: str, call_id: str) -> str | None:
        spec = self._spec
        try:
            arguments = read_arguments(raw, spec.arguments)
            price = spec.price(arguments)
        except ValueError as error:
            log.info(
                "call refused",
                tool=spec.tool, request=visit.request_id, verdict="malformed", layer="arguments",
                arguments=argument_names(raw),
            )  # fmt: skip
            decision = Decision("closed", "arguments", why="malformed")
            await _record_refusal(visit, spec.tool, raw, decision, "malformed", _deadline())
            return f"The arguments cannot be used: {error}. {NOTHING_PAID} Correct them in one new call."
        ask = AdmissionRequest(
            spec.tool, visit.request_id, visit.user_id, visit.attempt, call_id, price, spec.limits
        )
        if spec.text is not None:
            if getattr(self._content, "remote", False):
                # Nothing will be paid for a duplicate, or without a store: nobody else is asked about it.
                until = _deadline()
                decision = await self._admission.check(ask)
                if decision.word in ("replay", "closed"):
                    return await self._answered(visit, raw, decision, until)
            verdict = await self._content.judge(spec.text(arguments))
            if verdict.word != "allowed":
                decision = Decision("closed", "content", why=verdict.category or verdict.word)
                await self._refuse(visit, raw, decision, _deadline())
                return reason_for_model(verdict)
        until = _deadline()
        return await self._answered(visit, raw, await self._admission.reserve(ask), until)

    async def _answered(self, visit: CallContext, raw: str, decision: Decision, until: float) -> str | None:
        if decision.word == "admitted":
            record_decision(self._spec.tool, decision, decision.word)
            await failpoint("admitted")
            return None
        if decision.word == "replay":
            return await self._replay(visit, raw, decision, until)
        return await self._refuse(visit, raw, decision, until)

    async def _replay(self, visit: CallContext, raw: str, decision: Decision, until: float) -> str:
        names = argument_names(raw)
        log.warning(
            "DUPLICATE CALL PREVENTED",
            tool=self._spec.tool, request=visit.request_id, layer=decision.layer, arguments=names,
        )  # fmt: skip
        await _record_refusal(visit, self._spec.tool, raw, decision, "replay", until)
        recorded = await self._recorded(visit, until)
        record_duplicate(self._spec.tool, decision.layer, recorded=recorded is not None)
        log.info("replayed", tool=self._spec.tool, request=visit.request_id, recorded=recorded is not None)
        return recorded or IN_PROGRESS

    async def _recorded(self, visit: CallContext, until: float) -> str | None:
        """Read the recorded result. A ledger that is away takes nothing from the call that is in hand."""
        try:
            async with _timeout_until(until):
                return await self._spec.recorded(visit)
        except Exception as error:  # noqa: BLE001 - the call is a duplicate, whatever can be read of the first
            log.warning("recorded result not read", request=visit.request_id, error=type(error).__name__)
            return None

    async def _refuse(self, visit: CallContext, raw: str, decision: Decision, until: float) -> str:
        if self._spec.decides:
            visit.refusals.append(decision)
        log.warning(
            "call refused",
            tool=self._spec.tool, request=visit.request_id, verdict=decision.word, layer=decision.layer,
            why=decision.why, arguments=argument_names(raw),
        )  # fmt: skip
        await _record_refusal(visit, self._spec.tool, raw, decision, decision.word, until)
        return explain(decision)


def _deadline() -> float:
    """Return until when the stores may be asked, on the loop's clock."""
    return asyncio.get_running_loop().time() + _STORE_TIMEOUT_S


def _timeout_until(until: float) -> asyncio.Timeout:
    return asyncio.timeout_at(max(until, asyncio.get_running_loop().time() + _MIN_TIMEOUT_S))


async def _record_refusal(
    visit: CallContext, tool: str, raw: str, decision: Decision, word: str, until: float
) -> None:
    """Write the refused call down beside the request; if the ledger is away, the refusal still stands."""
    record_decision(tool, decision, word)
    try:
        async with _timeout_until(until):
            await history.record_refused_call(
                visit.ledger, visit.request_id, tool, word, decision.layer, argument_names(raw)
            )
    except Exception as error:  # noqa: BLE001 - the refusal stands, recorded or not
        log.warning("a refused call is recorded later", request=visit.request_id, error=type(error).__name__)
        visit.unrecorded.append((tool, word, decision.layer))
