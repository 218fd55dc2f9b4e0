"""latch-idempotent: Redis, the key of act and item, its budget guardrail around it."""

from latch import budget_guardrail, idempotent
from latch.stores.redis import RedisStore

from bench.peers.adapter import ONE_RECORD, REFUSED, Run, SdkAdapter
from bench.peers.body import Body


class Latch(SdkAdapter):
    """`@idempotent` with 30 days of memory; quota and budget by `@budget_guardrail`, inside of it."""

    packages = ("latch-idempotent",)
    store = "Redis"
    wants = frozenset({"redis"})
    keeps_files = False
    edges = frozenset({"quota", "budget"})
    outside = {
        "timeout": "“If the wrapped function raises, nothing is cached … so retries can still happen”",
        "cancelled": "“If the wrapped function raises, nothing is cached”",
        "quota": "“CircuitBreaker and BudgetGuardrail state is per-process”",
        "budget": "“CircuitBreaker and BudgetGuardrail state is per-process”",
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
    }
    words = {"BudgetExceededError": REFUSED}

    async def open(self) -> None:
        """Open the store, and arm the tool."""

        async def charge(run: Run, item: str, body: Body) -> str:
            return await body.run(run.act, item)

        limits = {}
        if self.place.quota:
            limits["max_calls"] = self.place.quota
        if self.place.budget:
            limits |= {"max_cost": float(self.place.budget), "cost_fn": lambda *_: 3.0}
        inner = budget_guardrail(window_seconds=86_400, **limits)(charge) if limits else charge
        store = RedisStore(url=self.place.redis)
        self.armed = idempotent(store=store, ttl_seconds=30 * 86_400)(inner)

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the tool once for its key."""
        return str(await self.armed(run, item, body, idempotency_key=f"{run.act}:{item}"))
