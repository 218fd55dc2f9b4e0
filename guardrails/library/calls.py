"""One call of a guarded tool, from its arguments to an answer that is true."""

import asyncio
import logging
import time
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Final
from uuid import uuid4

from . import words
from .claims import Claim, Exceeded, Found, Taken
from .doubts import Doubts
from .events import Events
from .layers import Layers, StoreAway
from .outcomes import NotSent, set_current_key
from .requests import act_of, request_of
from .results import encode_result
from .signatures import Body
from .terms import ToolTerms, digest

log = logging.getLogger(__name__)

_POLLS_S: Final = (0.02, 0.05, 0.1, 0.2)
"""How long a call waits before it reads the claim of another process, or a doubt, again."""

_RECORD_S: Final = 5.0
"""How long a cancelled call waits until its end is recorded."""


@dataclass(frozen=True, slots=True)
class _Ended:
    """How the body ended, for the caller and those who wait."""

    claim: Claim
    answer: Any = None
    error: BaseException | None = None


Running = dict[str, "asyncio.Future[_Ended]"]
"""The calls whose bodies run in this process, by key."""


class Calls:
    """Runs the calls of one guard."""

    def __init__(self, layers: Layers, doubts: Doubts, events: Events, running: Running) -> None:
        self.layers, self.doubts, self.events, self.running = layers, doubts, events, running

    async def run(self, terms: ToolTerms, body: Body, context: Any, raw: str) -> Any:
        """Answer one call: by its body, a recorded result, or words. Raises only what cancels it."""
        with self.events.span(terms.tool):
            return await self._run(terms, body, context, raw)

    async def _run(self, terms: ToolTerms, body: Body, context: Any, raw: str) -> Any:
        request = request_of(context)
        if request is None:
            log.error("guard: the run has no guard.request(…) as its context", extra={"tool": terms.tool})
            self.events.report("closed", terms.tool, "", why="no request")
            return words.no_request()
        act, user = act_of(request)
        try:
            arguments, stored = body.read(raw)
            item, price = terms.item(arguments), terms.price(arguments)
        except ValueError as error:
            self.events.report("malformed", terms.tool, act)
            return words.malformed(str(error))
        ask = Claim(
            key=self.layers.key_of(terms, act, item), namespace=self.layers.namespace, tool=terms.tool,
            act=_storable(act), item=_storable(item or ""), user=_storable(user), owner=uuid4().hex,
            arguments=stored, digest=digest(stored), micros=price.micros,
        )  # fmt: skip
        call = _Call(self, terms, body, context, raw, arguments, ask)
        try:
            return await call.answer()
        except StoreAway as error:
            self.events.report("closed", terms.tool, act, ask.key, str(error))
            return words.closed()


@dataclass(slots=True)
class _Call:
    calls: Calls
    terms: ToolTerms
    body: Body
    context: Any
    raw: str
    arguments: Any
    ask: Claim

    async def answer(self) -> Any:
        """Take the claim and run, or wait for the one that has it."""
        until, polls = time.monotonic() + self.terms.wait_s, count()
        while True:
            if (answer := await self._from_running(until)) is not None:
                return answer
            found = await self._take_or_find()
            if isinstance(found, Taken):
                return await self._perform(found.claim, until)
            if isinstance(found, Exceeded):
                self._report(found.word)
                return words.exceeded(found)
            if (answer := await self._from_claim(found.claim)) is not None:
                return answer
            if time.monotonic() >= until:
                return self._not_ended(found.claim)
            await _pause(next(polls))

    async def _from_running(self, until: float) -> Any | None:
        """Wait for the same call in this process; None: there is none, or it has no result."""
        if (running := self.calls.running.get(self.ask.key)) is None:
            return None
        await asyncio.wait([running], timeout=max(0.0, until - time.monotonic()))
        if not running.done():
            return self._still_running(self.ask)
        if (end := running.result()).error is not None:
            return None
        self._report("replayed")
        return words.replayed(end.claim, self.ask.digest)

    async def _take_or_find(self) -> Taken | Found | Exceeded:
        layers = self.calls.layers
        # Redis has the result also where the store is away or has lost it.
        recorded = await layers.recorded(self.ask)
        return Found(recorded) if recorded is not None else await layers.take(self.ask, self.terms)

    async def _from_claim(self, claim: Claim) -> Any | None:
        """Return the answer that a claim gives by now; None: wait."""
        if claim.state == "unknown":
            if self.terms.verify is None:
                return self._not_ended(claim)
            claim = await self.calls.doubts.check(claim) or claim
        if claim.state == "done":
            self._report("replayed")
            return words.replayed(claim, self.ask.digest)
        return None

    def _not_ended(self, claim: Claim) -> str:
        if claim.state == "unknown":
            self._report("unknown")
            return words.unknown(claim, is_checked=self.terms.verify is not None)
        return self._still_running(claim)

    def _still_running(self, claim: Claim) -> str:
        self._report("in_flight")
        return words.in_flight(claim)

    async def _perform(self, claim: Claim, until: float) -> Any:
        """Run the body in a task of its own, so that its end is recorded whatever happens to the caller."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[_Ended] = loop.create_future()
        self.calls.running[claim.key] = ended
        self._report("admitted")
        run = loop.create_task(self._run(claim, ended))
        try:
            await asyncio.shield(run)
        except asyncio.CancelledError:
            if self.body.is_async:
                run.cancel()  # a thread runs to its end, and then its result is recorded
                await asyncio.wait([run], timeout=_RECORD_S)
            raise
        end = ended.result()
        if end.error is None:
            return end.answer
        if isinstance(end.error, NotSent):
            return words.not_sent(str(end.error))
        _raise_exit(end)
        return await self._after_doubt(claim, until)

    async def _run(self, claim: Claim, ended: "asyncio.Future[_Ended]") -> None:
        beat = asyncio.create_task(self._keep_alive(claim))
        try:
            end = await self._ended_body(claim)
        finally:
            beat.cancel()
        record = asyncio.create_task(self._record(claim, end))
        try:
            await asyncio.shield(record)
        except asyncio.CancelledError:
            await record  # at the end of its loop it is cancelled too; the lease then says the same
        finally:
            self.calls.running.pop(claim.key, None)
            if not ended.done():
                ended.set_result(end)

    async def _ended_body(self, claim: Claim) -> _Ended:
        set_current_key(claim.key)
        try:
            answer = await self.body.start(self.context, self.arguments, self.raw)
            return _Ended(replace(claim, state="done", result=encode_result(answer)), answer)
        except BaseException as error:  # noqa: BLE001 - every end is recorded
            return _Ended(claim, error=error)

    async def _record(self, claim: Claim, end: _Ended) -> None:
        layers = self.calls.layers
        if end.error is None:
            await layers.finish(claim, end.claim.result or "null")
        elif isinstance(end.error, NotSent):
            self._report("not_sent")
            await layers.give_back(claim, _storable(words.one_line(str(end.error))))
        else:
            kind = type(end.error).__name__
            log.warning("guard: outcome unknown", extra={"tool": self.terms.tool, "error": kind})
            self._report("unknown", kind)
            await layers.doubt(claim, f"the call ended with {kind}")

    async def _keep_alive(self, claim: Claim) -> None:
        lease_s = self.terms.lease_s
        while True:
            await asyncio.sleep(lease_s / 4)
            try:
                if not await self.calls.layers.renew(claim, int(lease_s * 1000)):
                    log.error("guard: lease lost", extra={"tool": self.terms.tool})
                    return
            except Exception as error:  # noqa: BLE001 - asked again; a lease that ends leads to a doubt
                log.warning("guard: lease not renewed", extra={"error": type(error).__name__})

    async def _after_doubt(self, claim: Claim, until: float) -> Any:
        """Answer a call whose body raised: by what a check finds within the wait, or that it is unknown."""
        for polls in count():
            if self.terms.verify is None:
                break
            found = await self._checked(claim)
            if found is not None and found.state == "done":
                return words.replayed(found, self.ask.digest)
            if found is not None and (found.state == "free" or found.generation != claim.generation):
                return words.did_not_happen()
            if time.monotonic() >= until:
                break
            await _pause(polls)
        return words.unknown(claim, is_checked=self.terms.verify is not None)

    async def _checked(self, claim: Claim) -> Claim | None:
        try:
            return await self.calls.doubts.check(claim) or await self.calls.layers.read(claim.key)
        except Exception as error:  # noqa: BLE001 - the outcome stays unknown
            log.warning("guard: doubt not checked", extra={"error": type(error).__name__})
            return None

    def _report(self, word: Any, why: str = "") -> None:
        self.calls.events.report(word, self.terms.tool, self.ask.act, self.ask.key, why)


def _raise_exit(end: _Ended) -> None:
    """Raise what ends the process, after it was recorded."""
    if end.error is not None and not isinstance(end.error, Exception | asyncio.CancelledError):
        raise end.error


async def _pause(polls: int) -> None:
    await asyncio.sleep(_POLLS_S[min(polls, len(_POLLS_S) - 1)])


def _storable(text: str) -> str:
    """Return a text as databases take it: no NUL, no half of a pair."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()
