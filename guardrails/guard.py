"""The guard in front of a tool: validates the arguments, checks the content, asks for admission.

It is a `ToolInputGuardrail` of the agents SDK. A call that may not be made is answered in words
(`reject_content`). The guard itself never raises, because an exception would cancel the good calls of the
same turn. Every decision is logged, counted and set on the span; refused calls are recorded in the journal.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, Final

from agents import FunctionTool, ToolGuardrailFunctionOutput, ToolInputGuardrail, ToolInputGuardrailData
from opentelemetry.trace import Span, get_current_span
from pydantic import BaseModel

from .admission import Admission, AdmissionRequest, Decision, with_extra
from .arguments import argument_names, read_arguments
from .content.verdict import Judge
from .instrumentation import (
    CALL_ID,
    DECISION,
    DUPLICATE_EVENT,
    FAIL_CLOSED,
    GUARD_SPAN,
    LAYER,
    PREVENTED,
    REASON,
    TOOL,
    UNTIL,
    Instrumentation,
    mark_failed,
)
from .limits import Limits
from .money import Money
from .protocols import Journal, ResultStore
from .refusals import IN_PROGRESS, NOTHING_PAID, STOP, explain, reason_for_model

log = logging.getLogger(__name__)

_STORE_TIMEOUT_S: Final = 1.1
"""For everything that the stores are asked during one call, also when none of them answers.

Thirteen refusals at once queue for one SQLite file, and each is evidence: so the record may use what
admission leaves of this time, and at least `_MIN_TIMEOUT_S`.
"""
_MIN_TIMEOUT_S: Final = 0.2
MAX_MALFORMED: Final = 8
"""A model that has sent so many malformed calls in one run is not asked to correct them any more."""

_CALL_SPAN: Final[ContextVar[Span | None]] = ContextVar("call_span", default=None)
"""The span of the tool call that is being checked."""

_CHECK_INCOMPLETE: Final = "closed"
"""`Decision.why` of a content check that could not be completed."""


@dataclass(kw_only=True)
class CallContext:
    """One agent run for one request. Identity comes from here, never from a tool's arguments.

    Attributes:
        request_id: The user's request.
        user_id: The user whose limits count.
        attempt: Number of the agent run for this request, from 1.
        journal: Where every refused call is recorded.
        results: The recorded results of earlier calls, which duplicates get as their answer.
        instrumentation: The host's tracer and counters.
        refusals: What guards and tool bodies refused in this run, in order; replays are not refusals.
        unrecorded: Tool, verdict and layer of refused calls that could not be recorded in time.
        content_refusals: Why the content policy refused this request, by tool; see `Admission.refuse`.
        malformed: How many calls of this run had arguments that could not be used; see `MAX_MALFORMED`.
    """

    request_id: str
    user_id: int
    attempt: int
    journal: Journal
    results: ResultStore
    instrumentation: Instrumentation = field(default_factory=Instrumentation)
    refusals: list[Decision] = field(default_factory=list)
    unrecorded: list[tuple[str, str, str]] = field(default_factory=list)
    content_refusals: dict[str, str] = field(default_factory=dict)
    malformed: int = 0

    async def extra(self) -> int:
        """Return how many calls above the quota the user may make; a host may override it."""
        return 0

    async def on_admitted(self) -> None:
        """Do nothing; a host may override this to act between an admission and the tool's body."""


@dataclass(frozen=True)
class GuardSpec:
    """What the guard must know about one tool.

    Attributes:
        tool: The tool's name.
        arguments: The strict model of its arguments; other keys are ignored, as the body ignores them.
        limits: The limits from the declaration.
        price: What a call with these arguments would cost, from the provider's quote; a ValueError means
            that the provider does not offer this combination.
        text: What the content policy reads; None if the declaration names no content policy.
        decides: Whether its refusal decides how the request ends; a refused caption ends nothing.
        asks: Whether a person must agree first: then the call makes an offer, which is admitted and counts
            toward nothing until `Admission.confirm`. None: no call does. The tool's body must act likewise.
        settle: Replaces the arguments by those that the call is made with, as by what its person prefers.
            None: they are used as they came. The tool's body must act likewise.
    """

    tool: str
    arguments: type[BaseModel]
    limits: Limits
    price: Callable[[Any], Money]
    text: Callable[[Any], str] | None
    decides: bool = True
    asks: Callable[[Any, Any], Awaitable[bool]] | None = None
    settle: Callable[[Any, Any], Awaitable[Any]] | None = None


def guarded(tool: FunctionTool, spec: GuardSpec, admission: Admission, content: Judge) -> FunctionTool:
    """Return a copy of `tool` whose every call passes the guard first."""
    guard = _Guard(spec, admission, content)
    return replace(tool, tool_input_guardrails=[ToolInputGuardrail(guard.check, name=f"admit {spec.tool}")])


class _Guard:
    def __init__(self, spec: GuardSpec, admission: Admission, content: Judge) -> None:
        self._spec, self._admission, self._content = spec, admission, content

    async def check(self, data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        """Let the call pass, or answer in its place. Never raises."""
        context: CallContext = data.context.context
        raw = data.context.tool_arguments
        call_span = get_current_span()
        call_span.set_attribute(CALL_ID, data.context.tool_call_id)
        token = _CALL_SPAN.set(call_span)
        try:
            with context.instrumentation.span(GUARD_SPAN, {TOOL: self._spec.tool}):
                message = await self._check_safely(context, raw, data.context.tool_call_id)
        finally:
            _CALL_SPAN.reset(token)
        if message is None:
            return ToolGuardrailFunctionOutput.allow()
        return ToolGuardrailFunctionOutput.reject_content(message)

    async def _check_safely(self, context: CallContext, raw: str, call_id: str) -> str | None:
        try:
            return await self._decide(context, raw, call_id)
        except Exception as error:  # noqa: BLE001 - an exception here would cancel the other calls of this turn
            log.error("guard failed", extra=self._fields(context, error=type(error).__name__))
            context.instrumentation.violations(kind="guard_failed")
            decision = Decision("closed", "redis", why=type(error).__name__)
            return await self._refuse(context, raw, decision, _deadline())

    async def _decide(self, context: CallContext, raw: str, call_id: str) -> str | None:
        spec = self._spec
        try:
            arguments = read_arguments(raw, spec.arguments)
            if spec.settle is not None:
                arguments = await spec.settle(context, arguments)
            price = spec.price(arguments)
        except ValueError as error:
            return await self._refuse_malformed(context, raw, error)
        ask = AdmissionRequest(
            spec.tool, context.request_id, context.user_id, context.attempt, call_id, price, spec.limits
        )
        if spec.text is not None:
            refused = await self._check_content(context, raw, ask, spec.text(arguments))
            if refused is not None:
                return refused
        asks = spec.asks is not None and await spec.asks(context, arguments)
        until, decide = _deadline(), self._admission.offer if asks else self._admission.reserve
        return await self._answered(context, raw, await with_extra(decide, ask, context.extra), until)

    async def _refuse_malformed(self, context: CallContext, raw: str, error: ValueError) -> str:
        names = argument_names(raw)
        log.info(
            "call refused",
            extra=self._fields(context, verdict="malformed", layer="arguments", arguments=names),
        )
        context.malformed += 1
        decision = Decision("closed", "arguments", why="malformed")
        await _record_refusal(context, self._spec.tool, raw, decision, "malformed", _deadline())
        ends = STOP if context.malformed >= MAX_MALFORMED else "Correct them in one new call."
        return f"The arguments cannot be used: {error}. {NOTHING_PAID} {ends}"

    async def _check_content(
        self, context: CallContext, raw: str, ask: AdmissionRequest, text: str
    ) -> str | None:
        """Answer a call whose content, or whose request before it, is refused; None if it may pass."""
        if (why := context.content_refusals.get(ask.tool)) is not None:
            return await self._refuse(context, raw, Decision("content", "content", why=why), _deadline())
        if getattr(self._content, "remote", False):
            # A duplicate, or a call without a store, is not paid: do not send its text to moderation.
            until = _deadline()
            decision = await self._admission.check(ask)
            if decision.word in ("replay", "content", "closed"):
                return await self._answered(context, raw, decision, until)
        verdict = await self._content.judge(text)
        if verdict.word == "allowed":
            return None
        if verdict.word == "closed":
            await self._refuse(context, raw, Decision("closed", "content", why=verdict.word), _deadline())
            return reason_for_model(verdict)
        until = _deadline()
        decision = await self._admission.refuse(ask, verdict.category or "other")
        return await self._answered(context, raw, decision, until)

    async def _answered(self, context: CallContext, raw: str, decision: Decision, until: float) -> str | None:
        if decision.word == "admitted":
            _record_decision(context, self._spec.tool, decision, decision.word)
            await context.on_admitted()
            return None
        if decision.word == "replay":
            return await self._replay(context, raw, decision, until)
        if decision.word == "content":
            context.content_refusals.setdefault(self._spec.tool, decision.why)
        return await self._refuse(context, raw, decision, until)

    async def _replay(self, context: CallContext, raw: str, decision: Decision, until: float) -> str:
        log.warning(
            "DUPLICATE CALL PREVENTED",
            extra=self._fields(context, layer=decision.layer, arguments=argument_names(raw)),
        )
        await _record_refusal(context, self._spec.tool, raw, decision, "replay", until)
        recorded = await self._recorded(context, until)
        record_duplicate(context, self._spec.tool, decision.layer, recorded=recorded is not None)
        log.info("replayed", extra=self._fields(context, recorded=recorded is not None))
        return recorded or IN_PROGRESS

    async def _recorded(self, context: CallContext, until: float) -> str | None:
        """Read the recorded result; None if the store cannot be read."""
        try:
            async with _timeout_until(until):
                return await context.results.recorded_result(context.request_id, self._spec.tool)
        except Exception as error:  # noqa: BLE001 - the call is a duplicate, whatever can be read of the first
            log.warning("recorded result not read", extra=self._fields(context, error=type(error).__name__))
            return None

    async def _refuse(self, context: CallContext, raw: str, decision: Decision, until: float) -> str:
        if self._spec.decides:
            context.refusals.append(decision)
        log.warning(
            "call refused",
            extra=self._fields(
                context,
                verdict=decision.word, layer=decision.layer, why=decision.why, arguments=argument_names(raw),
            ),
        )  # fmt: skip
        await _record_refusal(context, self._spec.tool, raw, decision, decision.word, until)
        return explain(decision)

    def _fields(self, context: CallContext, **more: object) -> dict[str, object]:
        return {"tool": self._spec.tool, "request": context.request_id, **more}


def _deadline() -> float:
    """Return until when the stores may be asked, on the event loop's clock."""
    return asyncio.get_running_loop().time() + _STORE_TIMEOUT_S


def _timeout_until(until: float) -> asyncio.Timeout:
    return asyncio.timeout_at(max(until, asyncio.get_running_loop().time() + _MIN_TIMEOUT_S))


async def _record_refusal(
    context: CallContext, tool: str, raw: str, decision: Decision, word: str, until: float
) -> None:
    """Record a refused call with its request; if that fails, the refusal is still final."""
    _record_decision(context, tool, decision, word)
    try:
        async with _timeout_until(until):
            await context.journal.record_refused_call(
                context.request_id, tool, word, decision.layer, argument_names(raw)
            )
    except Exception as error:  # noqa: BLE001 - the call stays refused, recorded or not
        log.warning(
            "a refused call is recorded later",
            extra={"request": context.request_id, "error": type(error).__name__},
        )
        context.unrecorded.append((tool, word, decision.layer))


def _record_decision(context: CallContext, tool: str, decision: Decision, word: str) -> None:
    """Count a decision and set it on the guard's span and the call's; the guard's is named after it."""
    context.instrumentation.decisions(tool=tool, decision=word, layer=decision.layer)
    span, call_span = get_current_span(), _CALL_SPAN.get()
    _name_decision(span, decision, word)
    if call_span is not None:
        _set_decision(call_span, decision, word)


def _name_decision(span: Span, decision: Decision, word: str) -> None:
    span.update_name(f"{GUARD_SPAN} {word}")
    _set_decision(span, decision, word)
    if word == "closed" and (decision.layer in ("redis", "ledger") or decision.why == _CHECK_INCOMPLETE):
        # Only a guard that could not decide is an error.
        span.set_attribute(FAIL_CLOSED, value=True)
        mark_failed(span, decision.why or "closed", "the guard could not decide, so the call was refused")


def _set_decision(span: Span, decision: Decision, word: str) -> None:
    span.set_attribute(DECISION, word)
    span.set_attribute(LAYER, decision.layer)
    span.set_attribute(PREVENTED, word == "replay")
    if decision.why:
        span.set_attribute(REASON, decision.why)
    if decision.until is not None:
        span.set_attribute(UNTIL, decision.until)


def trace_body_decision(context: CallContext, tool: str, decision: Decision, word: str) -> None:
    """Trace what a tool's body decided after the guard had admitted the call, as a recount in SQL does."""
    call_span = get_current_span()
    with context.instrumentation.span(GUARD_SPAN, {TOOL: tool}) as span:
        _name_decision(span, decision, word)
    _set_decision(call_span, decision, word)


def record_duplicate(context: CallContext, tool: str, layer: str, *, recorded: bool) -> None:
    """Count a duplicate call that was answered in place of being made; it is an event, not an error."""
    reason = "recorded" if recorded else "in_hand"
    context.instrumentation.duplicates(layer=layer, reason=reason)
    get_current_span().add_event(DUPLICATE_EVENT, {TOOL: tool, LAYER: layer, REASON: reason})
