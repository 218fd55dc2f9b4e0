"""Ends doubts: asks the tool's `verify` by key until it can say, in the calls that wait and by itself."""

import asyncio
import logging
from collections.abc import Container, Mapping
from typing import Final

from .claims import Claim, Rule, begin_check, lapse, settle
from .events import Events, EventWord
from .layers import Layers
from .outcomes import CannotSay, DidNotHappen, Happened, Verdict
from .signatures import Body
from .terms import ToolTerms, maybe_await

log = logging.getLogger(__name__)

EVERY_S: Final = 1.0
"""How often the store is asked for doubts that are due."""

VERIFY_TIMEOUT_S: Final = 10.0
AT_ONCE: Final = 20
BY_VERIFY: Final = "verify"


class Doubts:
    """The doubts of one guard.

    Args:
        layers: The claims.
        tools: Terms and bodies of its tools, by name.
        events: Where decisions are reported.
        running: Keys of the calls that run in this process. Nothing of them is in doubt here, however late
            a held-up event loop renews their leases.
    """

    def __init__(
        self,
        layers: Layers,
        tools: Mapping[str, tuple[ToolTerms, Body]],
        events: Events,
        running: Container[str],
    ) -> None:
        self._layers, self._tools, self._events = layers, tools, events
        self._running = running
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Ask about doubts in the background of the running event loop, until it ends or `stop`."""
        loop = asyncio.get_running_loop()
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._watch(), name="onetake-guard doubts")

    async def stop(self) -> None:
        """Stop asking."""
        task, self._task = self._task, None
        if task is not None and task.get_loop() is asyncio.get_running_loop():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            try:
                await self.check_due()
            except Exception as error:  # noqa: BLE001 - the store is asked again
                log.warning("guard: doubts not read", extra={"error": type(error).__name__})
            await asyncio.sleep(EVERY_S)

    async def check_due(self) -> None:
        """Ask about every doubt that is due, once."""
        layers = self._layers
        asked = [name for name, (terms, _) in self._tools.items() if terms.verify is not None]
        found = await layers.store.due(layers.namespace, asked, AT_ONCE)
        await asyncio.gather(*(self.check(one) for one in found if one.key not in self._running))

    async def check(self, seen: Claim) -> Claim | None:
        """Ask about one doubt if it is due and no other process does; return the claim as it is then."""
        store, known = self._layers.store, self._tools.get(seen.tool)
        if known is None or known[0].verify is None:
            return await store.change(seen.key, lapse())  # another process, or a person, has to ask
        asked = await store.change(seen.key, begin_check(seen))
        if asked is None:
            return None
        terms, body = known
        verdict = await _ask(terms, body, asked)
        if isinstance(verdict, CannotSay):
            return asked
        rule = settle(
            asked.version, verdict, BY_VERIFY, "", int(terms.settle_s * 1000), int(terms.lease_s * 1000)
        )
        return (await self._ended(asked, rule, BY_VERIFY))[0]

    async def end(
        self, seen: Claim, version: int, verdict: Verdict, by: str, why: str
    ) -> tuple[Claim | None, bool]:
        """End a doubt by a person's word; returns the claim as it is then, and whether this ended it."""
        return await self._ended(seen, settle(version, verdict, by, why), by)

    async def _ended(
        self, seen: Claim, rule: Rule[tuple[Claim | None, bool]], by: str
    ) -> tuple[Claim | None, bool]:
        layers = self._layers
        found, is_ended = await layers.store.change(seen.key, rule)
        if found is None or not is_ended:
            return found, False
        if layers.marks is not None and found.result is not None and found.state == "done":
            try:
                await layers.marks.record(found, found.result)
            except Exception as error:  # noqa: BLE001 - the store has it
                log.warning("guard: result not copied", extra={"error": type(error).__name__})
        word: EventWord = "settled" if found.state == "done" else "did_not_happen"
        self._events.report(word, found.tool, found.act, found.key, by)
        return found, True


async def _ask(terms: ToolTerms, body: Body, claim: Claim) -> Verdict:
    """Ask `verify`. What it raises, or another answer than a verdict, means that it cannot say."""
    if terms.verify is None:
        return CannotSay()
    try:
        async with asyncio.timeout(VERIFY_TIMEOUT_S):
            found = await maybe_await(terms.verify(claim.key, body.restore(claim.arguments)))
    except Exception as error:  # noqa: BLE001 - it is asked again
        log.warning("guard: verify failed", extra={"tool": terms.tool, "error": type(error).__name__})
        return CannotSay(type(error).__name__)
    if isinstance(found, Happened | DidNotHappen | CannotSay):
        return found
    log.error("guard: verify returned no verdict", extra={"tool": terms.tool, "found": type(found).__name__})
    return CannotSay("no verdict")
