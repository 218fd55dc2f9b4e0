"""exactly-once: SQLite, a prober, a lease with its heartbeat."""

from typing import Any

from exactly_once import ProbeResult, Store, Verdict, check_then_decide, once

from bench.peers.adapter import AWAY, NOT_SENT, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body, NotSentError
from bench.peers.place import done

_LEASE_S = 2.0


class ExactlyOnce(SdkAdapter):
    """`@once` with `check_then_decide` and a lease; an unsent call is released."""

    packages = ("exactly-once",)
    store = "SQLite"
    lease_s = _LEASE_S
    outside = {
        "emptied": "“It is only as strong as the store you pick”",
        "restored": "“It is only as strong as the store you pick”",
    }
    words = {"QuarantinedError": UNKNOWN, "StoreUnavailableError": AWAY}

    async def open(self) -> None:
        """Open the file of the store."""
        self.kept = Store.sqlite(self.place.file("effects.db"))

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the effect at most once for its key."""
        key = f"{run.act}:{item}"

        def prober(_key: str) -> ProbeResult:
            found = self.place.look_up(run.act, item)
            if found is None:
                return ProbeResult(Verdict.NOT_COMMITTED)
            return ProbeResult(Verdict.COMMITTED, done(item, found))

        @once(self.kept, key=lambda **_: key, policy=check_then_decide(prober), lease_ttl=_LEASE_S)
        async def charge(**_: Any) -> str:
            return await body.run(run.act, item)

        try:
            return str(await charge(item=item))
        except NotSentError:
            await self.kept.arelease(key)
            return NOT_SENT
