"""onetake-guardrails: the guard of this repository, with Redis in front of SQLite."""

from typing import Any

from agents import RunContextWrapper, Tool

from bench.peers.adapter import Run, SdkAdapter
from bench.peers.body import Body, NotSentError
from bench.peers.place import COST, done
from guardrails import DidNotHappen, Guard, Happened, NotSent, SqlStore, current_key


class Ours(SdkAdapter):
    """`@guard.tool`, as docs/guardrails.md shows it; its lease is as short as that of the others."""

    packages = ("onetake-guardrails",)
    store = "Redis and SQLite"
    wants = frozenset({"redis"})
    edges = frozenset({"quota", "budget"})
    lease_s = 2.0

    def made(self) -> Guard:
        """Return the guard, with its stores."""
        store = SqlStore(f"sqlite+aiosqlite:///{self.place.file('guard.db')}")
        return Guard(store=store, redis=self.place.redis or None, namespace="peers")

    async def open(self) -> None:
        """Arm the tool, and open the stores."""
        self.guard = self.made()
        limits: dict[str, Any] = {}
        if self.place.quota:
            limits["quota"] = f"{self.place.quota}/day"
        if self.place.budget:
            limits["budget"] = f"${self.place.budget}/day"

        def verify(key: str, arguments: Any) -> Happened | DidNotHappen:
            found = self.place.look_up_key(key)
            return DidNotHappen() if found is None else Happened(done(arguments.item, found))

        @self.guard.tool(
            once="per_request", key=lambda a: a.item, cost=f"${COST}", verify=verify,
            lease="2s", settle="1s", wait="5s", **limits,
        )  # fmt: skip
        async def charge(ctx: RunContextWrapper[Any], item: str, note: str) -> str:
            """Charge an item."""
            run, body = ctx.context
            try:
                return await body.run(run.act, item, current_key() or "")
            except NotSentError as error:
                raise NotSent(str(error)) from error

        self.armed = charge
        await self.guard.setup()

    async def close(self) -> None:
        """Close the stores."""
        await self.guard.close()

    def tool(self, run: Run, body: Body) -> Tool:
        """Return the armed tool: one for all runs of this process."""
        return self.armed

    def context(self, run: Run, body: Body) -> Any:
        """Return the context that names the act."""
        return self.guard.request(id=run.act, user=run.user, context=(run, body))


class OursInSql(Ours):
    """The same without Redis: SQLite alone."""

    store = "SQLite"
    wants = frozenset()


class OursInMemory(Ours):
    """The same in one process, for what a guard costs without a store."""

    store = "memory"
    wants = frozenset()

    def made(self) -> Guard:
        """Return a guard that keeps nothing."""
        return Guard.in_memory()
