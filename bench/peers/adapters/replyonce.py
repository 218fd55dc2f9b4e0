"""replyonce: Redis, a reconciler, its own words for every outcome."""

from redis.asyncio import BlockingConnectionPool, Redis
from replyonce import Key, NotApplied, ReplyOnce
from replyonce.adapters import describe_outcome
from replyonce.stores.redis import RedisStore

from bench.peers.adapter import ONE_RECORD, Run, SdkAdapter
from bench.peers.body import Body, NotSentError
from bench.peers.place import done

_LEASE_S = 2.0


class Replyonce(SdkAdapter):
    """`ReplyOnce.once` with `reconcile`, `wait_ms` and 30 days of memory; `describe_outcome` answers."""

    packages = ("replyonce",)
    store = "Redis"
    wants = frozenset({"redis"})
    keeps_files = False
    lease_s = _LEASE_S
    outside = {
        "slow": "a claim is abandoned after `pending_ttl_ms`: “Finish (or give up) before it”",
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
    }

    async def open(self) -> None:
        """Open the store."""
        pool = BlockingConnectionPool.from_url(self.place.redis, max_connections=50)
        self.client = Redis(connection_pool=pool)
        self.library = ReplyOnce(
            RedisStore(self.client), pending_ttl_ms=int(_LEASE_S * 1000), retention_ms=30 * 86_400_000
        )

    async def close(self) -> None:
        """Close the store."""
        await self.client.aclose()

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the tool at most once for its key."""

        async def reconcile(_entry: dict[str, object]) -> dict[str, object]:
            found = self.place.look_up(run.act, item)
            if found is None:
                return {"outcome": "not_applied"}
            return {"outcome": "committed", "result": done(item, found)}

        async def effect(_context: object) -> str:
            try:
                return await body.run(run.act, item)
            except NotSentError as error:
                raise NotApplied(str(error)) from error

        key = Key(run.act, "charge", {"item": item})
        outcome = describe_outcome(await self.library.once(key, effect, reconcile=reconcile, wait_ms=5000))
        return f"{outcome.message} {outcome.output or ''}".strip()
