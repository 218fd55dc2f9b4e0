"""agent-outbox: SQLite, waiters, a lease with heartbeats; synchronous."""

import asyncio

from agent_outbox import OutboxStore, ToolExecutor

from bench.peers.adapter import ONE_RECORD, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body, NotSentError


class AgentOutbox(SdkAdapter):
    """`ToolExecutor.run` in a thread, session = act, and no second run of what a dead worker began.

    With `reclaim_stale` on, its default, it charges twice after a kill, as its README says.
    """

    packages = ("agent-outbox",)
    store = "SQLite"

    outside = {
        "restarted": "with `reclaim_stale` it runs again, and twice",
        "not_sent": "“Retries return that error and do not call fn again”",
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
    }

    async def open(self) -> None:
        """Open the file of the store."""
        self.executor = ToolExecutor(
            OutboxStore(self.place.file("outbox.db")), wait_timeout=3.0, reclaim_stale=False
        )

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the tool once for its session and arguments."""

        def charge(item: str) -> str:
            return body.run_sync(run.act, item)

        found = await asyncio.to_thread(self.executor.run, "charge", charge, {"item": item}, run.act)
        if found.ok:
            return str(found.result)
        return f"Nothing was sent: {found.error}" if NotSentError.__name__ in str(found.error) else UNKNOWN
