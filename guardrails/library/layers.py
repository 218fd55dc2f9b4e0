"""The two layers of claims as one: the durable store decides, Redis is asked before it and confirms after.

No layer allows a call because it trusts the other one: a call starts only when the store has its claim and
Redis (if there is one) had not seen its start before.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from .claims import (
    Claim,
    ClaimStore,
    CountScope,
    Exceeded,
    Found,
    TakeAnswer,
    Taken,
    claim_key,
    doubt,
    finish,
    give_back,
    renew,
    take,
)
from .events import Events
from .marks import Marks
from .terms import ToolTerms

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

STORE_TIMEOUT_S: Final = 5.0
"""For one question to the store."""

_RETRY_S: Final = 0.5
_RETRIES: Final = 1200
"""An end that could not be recorded is recorded later: for ten minutes."""

_CLOSE_S: Final = 2.0

FORGOTTEN: Final = "the call was started before, and the store has forgotten it"


class StoreAway(Exception):
    """A layer cannot be asked, so nothing may start."""


class Layers:
    """Claims in a store, behind marks in Redis if there are any."""

    def __init__(self, store: ClaimStore, marks: Marks | None, namespace: str, events: Events) -> None:
        self.store, self.marks, self.namespace, self.events = store, marks, namespace, events
        self._later: set[asyncio.Task[None]] = set()

    def key_of(self, terms: ToolTerms, act: str, item: str | None) -> str:
        """Return the identity of a call."""
        return claim_key(self.namespace, terms.tool, None if terms.once == "per_key" else act, item)

    async def recorded(self, ask: Claim) -> Claim | None:
        """Return a call's claim with its recorded result from Redis; None without one, or without Redis."""
        if self.marks is None:
            return None
        try:
            return await self.marks.recorded(ask)
        except Exception as error:  # noqa: BLE001 - the store is asked in its place
            log.warning("guard: redis not read", extra={"error": type(error).__name__})
            return None

    async def take(self, ask: Claim, terms: ToolTerms) -> TakeAnswer:
        """Take the claim for a call, or say who has it or which limit refuses.

        Raises:
            StoreAway: A layer cannot be asked. Nothing was started, and nothing stays claimed.
        """
        counts = CountScope(self.namespace, ask.tool, ask.user, terms.limits)
        lease_ms = int(terms.lease_s * 1000)
        asked = asyncio.ensure_future(self._ask(lambda: self._take(ask, terms, lease_ms, counts)))
        try:
            answer = await asyncio.shield(asked)
        except asyncio.CancelledError:
            self._spawn(self._free_if_taken(asked, ask))
            raise
        except Exception as error:
            # Where the answer was lost, the claim may be there: it is freed, because nothing was started.
            self._spawn(self._give_back_by_key(ask, f"not started: {type(error).__name__}"))
            raise StoreAway(type(error).__name__) from error
        return await self._confirmed(answer) if isinstance(answer, Taken) else answer

    async def _take(self, ask: Claim, terms: ToolTerms, lease_ms: int, counts: CountScope) -> TakeAnswer:
        answer = await self.store.change(ask.key, take(ask, terms.limits, lease_ms), counts)
        if isinstance(answer, Exceeded) and not answer.until:
            # For the words alone, so outside the atomic step.
            starts = await self.store.starts(counts, answer.since, everyone=answer.everyone)
            return answer.with_until(starts)
        return answer

    async def _confirmed(self, answer: Taken) -> TakeAnswer:
        if self.marks is None:
            return answer
        claim = answer.claim
        try:
            is_first = await self.marks.start(claim)
        except BaseException as error:
            self._spawn(self._give_back_by_key(claim, f"not started: {type(error).__name__}"))
            if isinstance(error, Exception):
                raise StoreAway(type(error).__name__) from error
            raise
        if is_first:
            return answer
        self.events.report("contradiction", claim.tool, claim.act, claim.key, FORGOTTEN)
        return Found(await self.doubt(claim, FORGOTTEN))

    async def _free_if_taken(self, asked: "asyncio.Future[TakeAnswer]", ask: Claim) -> None:
        try:
            await asked
        except Exception:  # noqa: BLE001 - what is not there cannot be freed; the next line finds out
            log.info("guard: a claim of a cancelled call was not answered")
        await self._give_back_by_key(ask, "not started: the call was cancelled")

    async def _give_back_by_key(self, ask: Claim, why: str) -> None:
        found = await self._patiently(lambda: self.store.read(ask.key))
        if found is not None and found.owner == ask.owner:
            await self._patiently(lambda: self.store.change(ask.key, give_back(found, why)))

    async def renew(self, claim: Claim, lease_ms: int) -> bool:
        """Lengthen a lease; False: it is lost."""
        return await self._ask(lambda: self.store.change(claim.key, renew(claim, lease_ms)))

    async def finish(self, claim: Claim, result: str) -> None:
        """Record the result of a call; where a layer cannot take it now, later. Raises nothing."""
        if self.marks is not None:
            self._spawn_if_failed(await _caught(self.marks.record(claim, result)), claim, result)
        try:
            agreed = await self._ask(lambda: self.store.change(claim.key, finish(claim, result)))
        except Exception as error:  # noqa: BLE001 - the effect exists: its result is recorded later
            log.error("guard: result not recorded yet", extra={"error": type(error).__name__})
            self._spawn(self._finish_later(claim, result))
            return
        self._report_finish(claim, agreed=agreed)

    def _spawn_if_failed(self, error: Exception | None, claim: Claim, result: str) -> None:
        if error is not None and self.marks is not None:
            marks = self.marks
            self._spawn(self._patiently_none(lambda: marks.record(claim, result)))

    async def _finish_later(self, claim: Claim, result: str) -> None:
        agreed = await self._patiently(lambda: self.store.change(claim.key, finish(claim, result)))
        self._report_finish(claim, agreed=agreed)

    def _report_finish(self, claim: Claim, *, agreed: bool) -> None:
        self.events.report("done", claim.tool, claim.act, claim.key)
        if not agreed:
            self.events.report("contradiction", claim.tool, claim.act, claim.key, "freed while it ran")

    async def doubt(self, claim: Claim, why: str) -> Claim:
        """Record that the outcome is unknown, now or later; return the claim as it is then."""
        try:
            return await self._ask(lambda: self.store.change(claim.key, doubt(claim, why)))
        except Exception as error:  # noqa: BLE001 - at the latest, the end of the lease says the same
            log.error("guard: doubt not recorded yet", extra={"error": type(error).__name__})
            self._spawn(self._patiently_none(lambda: self.store.change(claim.key, doubt(claim, why))))
            return claim

    async def give_back(self, claim: Claim, why: str) -> None:
        """Free a claim whose call sent nothing, now or later. Raises nothing."""
        try:
            await self._ask(lambda: self.store.change(claim.key, give_back(claim, why)))
        except Exception as error:  # noqa: BLE001 - it is freed later
            log.error("guard: claim not freed yet", extra={"error": type(error).__name__})
            self._spawn(self._patiently_none(lambda: self.store.change(claim.key, give_back(claim, why))))

    async def read(self, key: str) -> Claim | None:
        """Return a claim.

        Raises:
            StoreAway: The store cannot be asked.
        """
        try:
            return await self._ask(lambda: self.store.read(key))
        except Exception as error:
            raise StoreAway(type(error).__name__) from error

    async def _ask(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        if not self.store.durable:
            return await question()  # the memory of this process answers at once
        async with asyncio.timeout(STORE_TIMEOUT_S):
            return await question()

    async def _patiently(self, question: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask until there is an answer; the last error is raised."""
        for _ in range(_RETRIES):
            try:
                return await self._ask(question)
            except Exception as error:  # noqa: BLE001 - asked again
                log.info("guard: store asked again", extra={"error": type(error).__name__})
            await asyncio.sleep(_RETRY_S)
        return await self._ask(question)

    async def _patiently_none(self, question: Callable[[], Awaitable[Any]]) -> None:
        await self._patiently(question)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._later.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._later.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("guard: not recorded", extra={"error": type(error).__name__})

    async def close(self) -> None:
        """Close the layers, after what is still to be recorded, for as long as that may take at most."""
        if self._later:
            await asyncio.wait(list(self._later), timeout=_CLOSE_S)
        for task in list(self._later):
            task.cancel()  # the end of a lease says the same
        await asyncio.gather(*self._later, return_exceptions=True)
        await self.store.close()
        if self.marks is not None:
            await self.marks.close()


async def _caught(work: Awaitable[None]) -> Exception | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - returned
        return error
    return None
