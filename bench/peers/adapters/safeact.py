"""safeact: SQLite, `resolve` for keys in doubt; synchronous."""

import asyncio

from safeact import FailedCallError, InDoubtError, get_store, safe

from bench.peers.adapter import NOT_SENT, ONE_RECORD, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body, NotSentError
from bench.peers.place import done


class Safeact(SdkAdapter):
    """`@safe` in a thread; a key in doubt that the provider knows is resolved, and answered.

    A key that failed is never run again: “Use a new key to genuinely retry”, which the host cannot do for a
    model that calls again for the same act; so an unsent call gets one.
    """

    packages = ("safeact",)
    store = "SQLite"
    outside = {
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
        "slow": "“A live concurrent loser and a crashed predecessor both look like ATTEMPTING”",
        "restarted": "“a human decides”",
    }

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the tool at most once for its key."""
        return await asyncio.to_thread(self._call, run, item, body)

    def _call(self, run: Run, item: str, body: Body) -> str:
        path = self.place.file("agent.db")

        @safe(store=path)
        def charge(_key: str) -> str:
            try:
                return body.run_sync(run.act, item)
            except NotSentError:
                return NOT_SENT

        for attempt in range(10):
            key = f"{run.act}:{item}:{attempt}"
            record = get_store(path).get(key)
            if record is not None and record.state == "SUCCEEDED" and NOT_SENT in str(record.result):
                continue
            try:
                return str(charge(key))
            except InDoubtError:
                return self._resolved(path, key, run, item)
            except FailedCallError:
                return UNKNOWN
        return UNKNOWN

    def _resolved(self, path: str, key: str, run: Run, item: str) -> str:
        found = self.place.look_up(run.act, item)
        if found is None:
            return UNKNOWN
        get_store(path).resolve(key, happened=True, result=done(item, found))
        return done(item, found)
