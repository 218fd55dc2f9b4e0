"""agent-ledger: PostgreSQL, waiting for other workers, no takeover of a silent one."""

from agent_ledger import ConcurrencyOptions, EffectLedgerOptions, LedgerDefaults, RunOptions, ToolCall
from agent_ledger import EffectLedger as Library
from agent_ledger.stores.postgres import SCHEMA_SQL, PostgresStore
from psycopg_pool import AsyncConnectionPool

from bench.peers.adapter import UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body


class AgentLedger(SdkAdapter):
    """`EffectLedger.run` with `idempotency_keys`; `stale.after_ms` stays off, its default.

    With it, a call that another worker holds is run a second time when it is old, without a question to the
    provider: of the two set-ups this one charges less often.
    """

    packages = ("agent-ledger",)
    store = "PostgreSQL"
    wants = frozenset({"postgres"})
    keeps_files = False
    outside = {
        "emptied": "“correct behavior depends on … appropriate storage configuration”",
        "restored": "“correct behavior depends on … appropriate storage configuration”",
    }
    words = {"EffectFailedError": UNKNOWN, "EffectTimeoutError": UNKNOWN, "EffectStoreError": UNKNOWN}

    async def open(self) -> None:
        """Open the pool, and make the table."""
        more = {"connect_timeout": 2}
        self.pool = AsyncConnectionPool(
            self.place.postgres, min_size=0, max_size=16, timeout=3, open=False, kwargs=more
        )
        await self.pool.open()
        waits = ConcurrencyOptions(effect_timeout_s=5.0)
        defaults = LedgerDefaults(run=RunOptions(concurrency=waits))
        self.ledger = Library(EffectLedgerOptions(store=PostgresStore(pool=self.pool), defaults=defaults))
        try:
            async with self.pool.connection() as conn:
                await conn.execute(SCHEMA_SQL)
        except Exception:
            return

    async def close(self) -> None:
        """Close the pool."""
        await self.pool.close()

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the tool through the ledger."""
        call = ToolCall(
            workflow_id=run.act, tool="charge", args={"item": item, "note": note}, idempotency_keys=["item"]
        )
        return str(await self.ledger.run(call, handler=lambda _effect: body.run(run.act, item)))
