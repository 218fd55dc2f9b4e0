"""Bugs in the guard: keyed by the wrong thing, not atomic, or released too early.

They run over orders keyed by (request, call): otherwise the order's key would hide what the guard lets
through.
"""

import asyncio
import json
import unicodedata
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, replace
from typing import Any, Final
from unittest.mock import patch
from uuid import uuid4
from weakref import WeakKeyDictionary

from agents import FunctionTool, ToolGuardrailFunctionOutput, ToolInputGuardrail, ToolInputGuardrailData
from agents.tool_context import ToolContext

from guardrails.admission import Admission, AdmissionMode, AdmissionRequest, Decision
from guardrails.content.verdict import Judge
from guardrails.guard import CallContext, GuardSpec, guarded
from guardrails.limits import LimitExceeded, Limits
from guardrails.refusals import reason_for_model
from ledger import orders, requests
from ledger.database import Ledger
from ledger.models import RequestState, Video
from ledger.orders import Order, Placed
from ledger.schema import requests as table
from tools.generate_video import NAME
from worker import submit
from worker.context import WorkerContext

_RUN_S: Final = 600
_NEVER: Final = 10**9
_GAP_S: Final = 0.25
_SEEN_S: Final = 600
_call: ContextVar[str] = ContextVar("call", default="")
_raw: ContextVar[str] = ContextVar("raw", default="")
GuardCheck = Callable[[ToolInputGuardrailData], Awaitable[ToolGuardrailFunctionOutput]]
BuildGuarded = Callable[[FunctionTool, GuardSpec, Admission, Judge], FunctionTool]


@contextmanager
def guarded_by(build: BuildGuarded, key: Callable[[], str] = _call.get) -> Iterator[None]:
    """Guard every tool with `build` in place of `guardrails.guard.guarded`, over orders keyed by `key`."""
    ledger = _WidenedOrders(key)

    def build_both(tool: FunctionTool, spec: GuardSpec, admission: Admission, content: Judge) -> FunctionTool:
        return _sharing_call_id(build(tool, spec, admission, content))

    with patch("guardrails.guard.guarded", build_both), patch("ledger.orders.place", ledger.place):
        yield


def _sharing_call_id(tool: FunctionTool) -> FunctionTool:
    """Pass the call id down to `_WidenedOrders`; the shipped code passes it nowhere."""
    invoke: Callable[[ToolContext[Any], str], Awaitable[Any]] = tool.on_invoke_tool

    async def with_call_id(context: ToolContext[Any], raw: str) -> Any:
        token = _call.set(context.tool_call_id)
        try:
            return await invoke(context, raw)
        finally:
            _call.reset(token)

    return replace(tool, on_invoke_tool=with_call_id)


class _WidenedOrders:
    """An order table keyed by (request, call): every new call gets an order of its own.

    The order belongs to a shadow request `id~call`, which the worker processes like any other.
    """

    def __init__(self, key: Callable[[], str]) -> None:
        self._key = key
        self._first: dict[str, str] = {}
        self._place = orders.place

    async def place(self, ledger: Ledger, order: Order, bounds: Limits) -> Placed | LimitExceeded:
        del bounds
        call = self._key()
        if self._first.setdefault(order.request_id, call) == call:
            return await self._place_first(ledger, order)
        request = await requests.find(ledger, order.request_id)
        if request is None:
            raise LookupError(order.request_id)
        shadow = f"{order.request_id}~{call}"
        async with ledger.write() as conn:
            # No worker may run its agent: its row says that a run has begun.
            until = await ledger.now(conn) + _RUN_S * 1000
            row = asdict(request) | {"request_id": shadow, "state": RequestState.OPEN, "run_until": until}
            await conn.execute(
                ledger.insert_new(table).values(**row | {"told": "", "status_message_id": None})
            )
        return await self._place(ledger, replace(order, request_id=shadow), Limits())

    async def _place_first(self, ledger: Ledger, order: Order) -> Placed | LimitExceeded:
        """Place the first order, and forget the call if its worker died before the order was written."""
        try:
            return await self._place(ledger, order, Limits())
        except BaseException:
            del self._first[order.request_id]
            raise


@contextmanager
def key_removed() -> Iterator[None]:
    """Control: widen the order's key; the shipped guard stays, and the app must still pay once."""
    with guarded_by(guarded):
        yield


@contextmanager
def guard_removed() -> Iterator[None]:
    """Control: remove every guard; the shipped order's key stays, and the app must still pay once."""
    with patch("guardrails.guard.guarded", _unguarded):
        yield


@contextmanager
def no_guard() -> Iterator[None]:
    with guarded_by(_unguarded):
        yield


@contextmanager
def hash_of_raw_arguments() -> Iterator[None]:
    with _keyed(lambda ask, raw: f"{ask.request_id}#{raw}"):
        yield


@contextmanager
def hash_of_canonical_arguments() -> Iterator[None]:
    with _keyed(lambda ask, raw: f"{ask.request_id}#{_canonical(raw)}"):
        yield


@contextmanager
def hash_of_folded_arguments() -> Iterator[None]:
    with _keyed(lambda ask, raw: f"{ask.request_id}#{_folded(_canonical(raw))}"):
        yield


@contextmanager
def keyed_by_call_id() -> Iterator[None]:
    with _keyed(lambda ask, _: ask.call_id):
        yield


@contextmanager
def check_then_set() -> Iterator[None]:
    """Check whether the request was seen; then, in a second step, write that it was."""

    class CheckThenSet(_WrappedAdmission):
        async def reserve(self, ask: AdmissionRequest) -> Decision:
            seen = f"{self._keys.counters(ask.tool, ask.limits).seen(ask.request_id)}:set"
            if await self._redis.exists(seen):
                return Decision("replay")
            await asyncio.sleep(_GAP_S)  # wide enough to be hit on a busy machine
            await self._redis.set(seen, ask.call_id, ex=_SEEN_S)
            return await super().reserve(_of_this_call(ask))

    with guarded_by(_over(CheckThenSet)):
        yield


@contextmanager
def in_process_set() -> Iterator[None]:
    """Remember in this process which requests were seen: other processes, and a restart, know nothing."""
    seen_by: WeakKeyDictionary[Admission, set[tuple[str, str]]] = WeakKeyDictionary()

    class InProcess(_WrappedAdmission):
        async def reserve(self, ask: AdmissionRequest) -> Decision:
            seen = seen_by.setdefault(self.real, set())
            if (ask.tool, ask.request_id) in seen:
                return Decision("replay")
            seen.add((ask.tool, ask.request_id))
            return await super().reserve(_of_this_call(ask))

    with guarded_by(_over(InProcess)):
        yield


@contextmanager
def release_on_error() -> Iterator[None]:
    """Release the claim whenever something about the request went wrong, so that "a retry may pass"."""
    mark_in_doubt = submit._mark_in_doubt  # noqa: SLF001 - the bug is put where a provider's error is met

    async def forgiving(ctx: WorkerContext, video: Video, fence: str, why: str) -> None:
        await mark_in_doubt(ctx, video, fence, why)
        await ctx.admission.release(NAME, video.request_id, video.user_id, "all")

    with guarded_by(_releasing), patch("worker.submit._mark_in_doubt", forgiving):
        yield


@contextmanager
def claim_before_validation() -> Iterator[None]:
    """Claim first, and validate the call afterwards."""

    def early(tool: FunctionTool, spec: GuardSpec, admission: Admission, content: Judge) -> FunctionTool:
        async def reserve_first(
            data: ToolInputGuardrailData, check: GuardCheck
        ) -> ToolGuardrailFunctionOutput:
            run, call_id = data.context.context, data.context.tool_call_id
            ask = AdmissionRequest(
                spec.tool, run.request_id, run.user_id, run.attempt, call_id, limits=spec.limits
            )
            await admission.reserve(ask)
            return await check(data)

        return _around(guarded(tool, spec, admission, content), reserve_first)

    with guarded_by(early):
        yield


@contextmanager
def never_released() -> Iterator[None]:
    """Never release a claim: no later attempt takes it over, and no failure returns it."""

    class Sticky(_WrappedAdmission):
        async def _decide(self, ask: AdmissionRequest, mode: AdmissionMode, version: int = -1) -> Decision:
            call = f"{ask.attempt}:{ask.call_id}"
            return await super()._decide(replace(ask, attempt=1, call_id=call), mode, version)

    async def kept(*_: object) -> None:
        return None

    with guarded_by(_over(Sticky)), patch.object(Admission, "release", kept):
        yield


def _unguarded(tool: FunctionTool, *_: object) -> FunctionTool:
    return replace(tool, tool_input_guardrails=[])


@contextmanager
def look_takes() -> Iterator[None]:
    """Let the check before the run reserve, and keep that reservation although no call belongs to it."""

    async def reserving(self: Admission, ask: AdmissionRequest) -> Decision:
        return await self.reserve(replace(ask, request_id=f"{ask.request_id}#look", call_id=uuid4().hex))

    with guarded_by(guarded), patch.object(Admission, "check", reserving):
        yield


@contextmanager
def content_refusal_forgotten() -> Iterator[None]:
    """Judge each call by itself: one that is reworded passes."""

    async def by_itself(
        self: Any, context: CallContext, raw: str, ask: AdmissionRequest, text: str
    ) -> str | None:
        del ask
        verdict = await self._content.judge(text)
        if verdict.word == "allowed":
            return None
        refused = Decision("closed", "content", why=verdict.category or verdict.word)
        await self._refuse(context, raw, refused, asyncio.get_running_loop().time() + 1)
        return reason_for_model(verdict)

    with patch("guardrails.guard._Guard._check_content", by_itself):
        yield


@contextmanager
def malformed_unbounded() -> Iterator[None]:
    """Ask for a correction however often a call was malformed."""
    with patch("guardrails.guard.MAX_MALFORMED", _NEVER):
        yield


class _WrappedAdmission(Admission):
    """Wraps the shipped admission in one guard, and shares its state."""

    def __init__(self, real: Admission) -> None:
        vars(self).update(vars(real))
        self.real = real


def _over(
    kind: type[_WrappedAdmission],
) -> Callable[[FunctionTool, GuardSpec, Admission, Judge], FunctionTool]:
    return lambda tool, spec, admission, content: guarded(tool, spec, kind(admission), content)


@contextmanager
def _keyed(key: Callable[[AdmissionRequest, str], str]) -> Iterator[None]:
    """The shipped guard and script, with the seen-set keyed by `key` in place of the request."""

    class Keyed(_WrappedAdmission):
        async def _decide(self, ask: AdmissionRequest, mode: AdmissionMode, version: int = -1) -> Decision:
            # One call of this key passes; a unique call id disables "the same call again".
            other = replace(ask, request_id=key(ask, _raw.get()), call_id=uuid4().hex)
            return await super()._decide(other, mode, version)

    async def share_arguments(data: ToolInputGuardrailData, check: GuardCheck) -> ToolGuardrailFunctionOutput:
        _raw.set(data.context.tool_arguments)
        return await check(data)

    with guarded_by(lambda *parts: _around(_over(Keyed)(*parts), share_arguments)):
        yield


def _around(
    tool: FunctionTool,
    act: Callable[[ToolInputGuardrailData, GuardCheck], Awaitable[ToolGuardrailFunctionOutput]],
) -> FunctionTool:
    """Return the guarded tool with `act` around its guard."""
    (guard,) = tool.tool_input_guardrails or []

    async def check(data: ToolInputGuardrailData) -> ToolGuardrailFunctionOutput:
        return await act(data, guard.run)

    return replace(tool, tool_input_guardrails=[ToolInputGuardrail(check, name=guard.name)])


def _releasing(tool: FunctionTool, spec: GuardSpec, admission: Admission, content: Judge) -> FunctionTool:
    built = guarded(tool, spec, admission, content)
    invoke = built.on_invoke_tool

    async def release(run: Any) -> None:
        await admission.release(spec.tool, run.request_id, run.user_id, "all")

    async def forgiving(data: ToolInputGuardrailData, check: GuardCheck) -> ToolGuardrailFunctionOutput:
        output = await check(data)
        if str(output.behavior.get("message", "")).startswith("The arguments cannot be used"):
            await release(data.context.context)
        return output

    async def invoke_and_release(context: ToolContext[Any], raw: str) -> Any:
        before = len(context.context.refusals)
        answer = await invoke(context, raw)
        if len(context.context.refusals) > before:
            await release(context.context)
        return answer

    return replace(_around(built, forgiving), on_invoke_tool=invoke_and_release)


def _of_this_call(ask: AdmissionRequest) -> AdmissionRequest:
    """Return `ask` as a request of its own, so that the shipped script finds it unseen."""
    return replace(ask, request_id=f"{ask.request_id}#{uuid4().hex}")


def _canonical(raw: str) -> str:
    return json.dumps(json.loads(raw), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
