"""`Guard`: the face of the library. Arms the tools of any agent, and ends what stayed in doubt."""

import asyncio
import copy
import dataclasses
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, Self

from agents import FunctionTool
from agents.tool import set_function_tool_failure_error_function

from ..money import Money
from ..redis_client import RedisClient
from . import words
from .calls import Calls, Running
from .claims import Claim, ClaimStore
from .doubts import Doubts
from .events import Events, OnEvent
from .layers import Layers
from .marks import open_marks
from .memory_store import MemoryStore
from .outcomes import DidNotHappen, Happened
from .requests import GuardedRequest
from .signatures import Body, FunctionBody, ToolBody
from .terms import LEASE, SETTLE, WAIT, Duration, ToolTerms, Verify, terms_of

_MOST_LISTED: Final = 1000
_LONGEST_WINDOW_DAYS: Final = 31


class UnknownClaim(LookupError):
    """There is no claim with this id in the guard's namespace."""


class StaleVersion(RuntimeError):
    """The claim changed since it was listed, or it is not in doubt; list it again."""


class Guard:
    """Guards the paid tools of one application.

    Args:
        store: The durable layer, `sql_store.SqlStore`. Its word decides.
        redis: A URL or a client of redis-py: the fast layer in front of the store; None: without.
        namespace: Keeps two applications apart that share a store or a Redis.
        on_event: Is given every decision; see `events.Event`.

    Raises:
        ValueError: No store is given. Redis alone may be emptied, and then everything would run twice.
    """

    def __init__(
        self, *, store: ClaimStore | None = None, redis: RedisClient | str | None = None,
        namespace: str = "default", on_event: OnEvent | None = None,
    ) -> None:  # fmt: skip
        if store is None:
            raise ValueError("Guard needs store=SqlStore(…); for one process and tests, Guard.in_memory()")
        self._events = Events(on_event)
        marks = None if redis is None else open_marks(redis, namespace)
        self._layers = Layers(store, marks, namespace, self._events)
        self._tools: dict[str, tuple[ToolTerms, Body]] = {}
        running: Running = {}
        self._doubts = Doubts(self._layers, self._tools, self._events, running)
        self._calls = Calls(self._layers, self._doubts, self._events, running)
        self._ready: tuple[asyncio.AbstractEventLoop, asyncio.Task[None]] | None = None

    @classmethod
    def in_memory(
        cls, *, namespace: str = "default", on_event: OnEvent | None = None,
        clock: Callable[[], float] | None = None,
    ) -> Self:  # fmt: skip
        """Return a guard that holds within this process alone: a restart forgets everything."""
        store = MemoryStore() if clock is None else MemoryStore(clock)
        return cls(store=store, namespace=namespace, on_event=on_event)

    async def setup(self) -> None:
        """Create or migrate the store's tables, and begin to end doubts in the background.

        Safe to run twice. The first call of a tool does it if it was not done.
        """
        loop = asyncio.get_running_loop()
        if self._ready is None or self._ready[0] is not loop or _failed(self._ready[1]):
            self._ready = loop, loop.create_task(self._layers.store.setup())
        await asyncio.shield(self._ready[1])
        self._doubts.start()

    async def close(self) -> None:
        """Stop the background work and close store and Redis."""
        await self._doubts.stop()
        await self._layers.close()

    async def __aenter__(self) -> Self:
        await self.setup()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def request(self, *, id: str, user: str | int = "", context: Any = None) -> GuardedRequest:  # noqa: A002 - the word of those who call it
        """Return what a run gets as its `context`.

        Args:
            id: Of the user's act, the same in every redelivery of it; never an id that a model made.
            user: Whose limits count.
            context: The host's own object; a guarded tool sees it as `ctx.context`.

        Raises:
            ValueError: The id is empty.
        """
        if not id:
            raise ValueError("a request needs the id of the user's act")
        return GuardedRequest(str(id), str(user), context)

    def tool(
        self, function: Callable[..., Any] | None = None, /, *, once: str = "per_request",
        key: Callable[[Any], object] | None = None, quota: str | None = None,
        cooldown: str | None = None, budget: str | Mapping[str, str] | None = None,
        cost: str | Money | Callable[[Any], Any] | None = None, verify: Verify | None = None,
        wait: Duration = WAIT, lease: Duration = LEASE, settle: Duration = SETTLE,
        name: str | None = None, description: str | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        """Make a guarded tool of a function, `def` or `async def`, with or without `ctx` as its first.

        Args:
            function: The tool's body.
            once: `per_request`: one effect for one act, or with `key=` one for each item of it.
                `per_request_and_key`: the same, said in full. `per_key`: one for an item, across acts.
            key: Names the item from the arguments.
            quota: Calls per user and window, as `5/day`.
            cooldown: Between two calls of a user, as `10m`.
            budget: Per user and window, as `$15/day`; or `{"user": …, "everyone": …}`.
            cost: What a call costs: `$3`, or a function of the arguments.
            verify: `verify(key, arguments)` says what became of an earlier call: `Happened`, `DidNotHappen`
                or `CannotSay`. Sync or async; it may be asked often and from any process.
            wait: How long a duplicate waits for the result, and a call for the end of its own doubt.
            lease: A call whose process gives no sign of life for so long is in doubt.
            settle: How long after the start of a doubt `DidNotHappen` is not believed yet.
            name: Of the tool; the function's by default.
            description: For the model; the docstring by default.
            options: More of the SDK's `FunctionTool`, such as `is_enabled`.

        Raises:
            ValueError: A term cannot be read, or a tool of this name is armed already.
        """

        def armed(body: Callable[..., Any]) -> FunctionTool:
            read = FunctionBody(body, name, description)
            terms = terms_of(
                read.schema.name, once=once, key=key, quota=quota, cooldown=cooldown, budget=budget,
                cost=cost, verify=verify, wait=wait, lease=lease, settle=settle,
            )  # fmt: skip
            made = FunctionTool(
                name=terms.tool, description=read.schema.description or "",
                params_json_schema=read.schema.params_json_schema,
                on_invoke_tool=self._invoker(terms, read), **options,
            )  # fmt: skip
            return self._armed(made, terms, read)

        return armed if function is None else armed(function)

    def arm(
        self, tool: FunctionTool, *, once: str = "per_request", key: Callable[[Any], object] | None = None,
        quota: str | None = None, cooldown: str | None = None,
        budget: str | Mapping[str, str] | None = None,
        cost: str | Money | Callable[[Any], Any] | None = None, verify: Verify | None = None,
        wait: Duration = WAIT, lease: Duration = LEASE, settle: Duration = SETTLE,
    ) -> FunctionTool:  # fmt: skip
        """Return a guarded copy of a tool that exists already; the terms are those of `tool`.

        What the tool raises must leave it: its own error function is taken away. `key=`, `cost=` and
        `verify=` get the arguments as the model wrote them, as attributes and as items.

        Raises:
            ValueError: A term cannot be read, or a tool of this name is armed already.
        """
        inner = set_function_tool_failure_error_function(copy.copy(tool), None)
        body = ToolBody(inner)
        terms = terms_of(
            tool.name, once=once, key=key, quota=quota, cooldown=cooldown, budget=budget, cost=cost,
            verify=verify, wait=wait, lease=lease, settle=settle,
        )  # fmt: skip
        made = dataclasses.replace(
            tool, on_invoke_tool=self._invoker(terms, body), timeout_seconds=tool.timeout_seconds
        )
        return self._armed(made, terms, body)

    def _armed(self, tool: FunctionTool, terms: ToolTerms, body: Body) -> FunctionTool:
        if terms.tool in self._tools:
            raise ValueError(f"a tool named {terms.tool!r} is armed already; give this one another name")
        self._tools[terms.tool] = terms, body

        # What the SDK says of a call that it ended itself: its own words invite a second call.
        def ended(context: Any, error: Exception) -> str:
            del context, error
            return words.unknown_end(is_checked=terms.verify is not None)

        tool.timeout_error_function = tool.timeout_error_function or ended
        return set_function_tool_failure_error_function(tool, ended)

    def _invoker(self, terms: ToolTerms, body: Body) -> Callable[[Any, str], Awaitable[Any]]:
        async def invoke(context: Any, raw: str) -> Any:
            loop = asyncio.get_running_loop()
            if self._ready is None or self._ready[0] is not loop or not self._ready[1].done():
                try:
                    await self.setup()
                except Exception as error:  # noqa: BLE001 - a guard refuses in words
                    self._events.report("closed", terms.tool, "", why=type(error).__name__)
                    return words.closed()
            return await self._calls.run(terms, body, context, raw)

        return invoke

    async def forget(self, older_than_days: int) -> int:
        """Delete claims that ended (done or free) so many days ago; returns their number.

        An act that is delivered again after that runs again, so choose more than any redelivery takes.

        Raises:
            ValueError: Less than the 31 days that the longest window counts.
        """
        if older_than_days <= _LONGEST_WINDOW_DAYS:
            raise ValueError(f"claims count for {_LONGEST_WINDOW_DAYS} days; forget what is older than that")
        return await self._layers.store.forget(self._layers.namespace, older_than_days * 86_400_000)

    async def pending(self, most: int = _MOST_LISTED) -> Sequence[Claim]:
        """Return the calls whose outcome is unknown, the oldest first."""
        return await self._layers.store.pending(self._layers.namespace, most)

    async def resolve(
        self, id: str, version: int, verdict: Happened | DidNotHappen, *, by: str, why: str = ""  # noqa: A002 - the word of those who call it
    ) -> Claim:  # fmt: skip
        """End a doubt by a person's word; returns the claim as it is then.

        Args:
            id: `Claim.key` of a pending call.
            version: Its version, as it was listed.
            verdict: What the person found.
            by: Who.
            why: What for.

        Raises:
            UnknownClaim: There is no such claim.
            StaleVersion: It changed meanwhile, or it is not in doubt.
        """
        found = await self._layers.store.read(id)
        if found is None or found.namespace != self._layers.namespace:
            raise UnknownClaim(f"{id[:40]!r} is no claim in {self._layers.namespace!r}")
        ended, is_ended = await self._doubts.end(found, version, verdict, by, why)
        if ended is None or not is_ended:
            state = "gone" if ended is None else f"{ended.state}, version {ended.version}"
            raise StaleVersion(f"{id} is {state}; version {version} of it is not in doubt")
        return ended


def _failed(task: "asyncio.Task[None]") -> bool:
    return task.done() and (task.cancelled() or task.exception() is not None)
