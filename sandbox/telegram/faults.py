"""Injected faults, and the log of all calls."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from sandbox.telegram.base import ApiError, Bell, SandboxError

How = Literal["answer", "drop", "hang"]
KEPT_CALLS = 10_000


@dataclass(frozen=True)
class Fault:
    """One fault of one call; build it with the named constructors.

    Attributes:
        how: What the caller gets in place of its answer: an error, a dropped connection, or silence.
        performed: Whether the call takes effect nevertheless.
        error: The error, for `how="answer"`.
    """

    how: How
    performed: bool = False
    error: ApiError | None = None

    @classmethod
    def throttled(cls, retry_after: int) -> "Fault":
        """429 with `retry_after` in seconds (never scaled: the bot reads it)."""
        return cls.refused(429, f"Too Many Requests: retry after {retry_after}", retry_after=retry_after)

    @classmethod
    def server_error(cls, code: int = 500) -> "Fault":
        return cls.refused(
            code, {502: "Bad Gateway", 504: "Gateway Timeout"}.get(code, "Internal Server Error")
        )

    @classmethod
    def refused(cls, code: int, description: str, **parameters: int) -> "Fault":
        """Any refusal in Telegram's wording, for what the sandbox does not model."""
        return cls("answer", error=ApiError(code, description, parameters or None))

    @classmethod
    def hang(cls) -> "Fault":
        """Not performed and not answered; ends when released or when the caller gives up."""
        return cls("hang")

    @classmethod
    def drop(cls) -> "Fault":
        """The connection is cut before the call is performed."""
        return cls("drop")

    @classmethod
    def lost_answer(cls, how: Literal["drop", "hang", "502"] = "drop") -> "Fault":
        """Performed, but the answer is lost: cut, never sent, or a gateway's 502."""
        if how == "502":
            return cls("answer", performed=True, error=ApiError(502, "Bad Gateway"))
        return cls(how, performed=True)


@dataclass
class FaultStore:
    """Faults that wait for their call, first in, first out, by method (`*` is any method)."""

    _waiting: dict[str, deque[Fault]] = field(default_factory=dict)
    _permanent: dict[str, Fault] = field(default_factory=dict)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, method: str, fault: Fault, times: int | None) -> None:
        if times is None:
            self._permanent[method.lower()] = fault
        else:
            self._waiting.setdefault(method.lower(), deque()).extend([fault] * times)

    def take(self, method: str) -> Fault | None:
        """Return and remove the fault for this call; a permanent one stays."""
        for name in (method.lower(), "*"):
            if self._waiting.get(name):
                return self._waiting[name].popleft()
            if name in self._permanent:
                return self._permanent[name]
        return None

    @property
    def waiting(self) -> list[str]:
        """The methods whose faults have not happened yet, one name per fault."""
        return [name for name, faults in self._waiting.items() for _ in faults]

    def clear(self) -> None:
        """Drop all faults and release every hanging call."""
        self._waiting.clear()
        self._permanent.clear()
        self.release()

    def release(self) -> None:
        """Release the calls that hang now; later ones hang again."""
        self._released.set()
        self._released = asyncio.Event()

    async def hold(self) -> None:
        await self._released.wait()


@dataclass
class ApiCall:
    """One call of the bot.

    Attributes:
        method: The method's name as documented (`sendVideo`).
        params: The fields as received, JSON fields unparsed; an upload is shown as `<name, n bytes>`.
        performed: Whether it took effect, whatever was answered.
        status: The HTTP status that was answered; None while it runs, or when no answer was given.
        description: Telegram's description when it was refused.
        at: When it was received, in seconds of the monotonic clock.
    """

    number: int
    method: str
    params: dict[str, Any]
    performed: bool = False
    status: int | None = None
    description: str = ""
    at: float = field(default_factory=time.monotonic)


class CallLog:
    """Append-only; keeps the last ten thousand calls so that a chat left running does not fill memory."""

    def __init__(self) -> None:
        self._calls: deque[ApiCall] = deque(maxlen=KEPT_CALLS)
        self._served = 0
        self._bell = Bell()

    def __iter__(self) -> Iterator[ApiCall]:
        return iter(tuple(self._calls))

    def __len__(self) -> int:
        return len(self._calls)

    def of(self, *methods: str) -> list[ApiCall]:
        return [call for call in self._calls if call.method in methods]

    def add(self, method: str, params: dict[str, Any]) -> ApiCall:
        self._served += 1
        call = ApiCall(self._served, method, params)
        self._calls.append(call)
        self._bell.ring()
        return call

    def finish(self, call: ApiCall, status: int | None, description: str = "") -> None:
        call.status, call.description = status, description
        self._bell.ring()

    async def wait_for(self, predicate: Callable[[ApiCall], bool], timeout: float = 180) -> ApiCall:
        """Return the first call for which `predicate` holds, past or future.

        Raises:
            SandboxError: None came within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    for call in self:
                        if predicate(call):
                            return call
                    await self._bell.heard()
        except TimeoutError:
            seen = [f"{call.method} {call.status}" for call in self if call.method != "getUpdates"]
            raise SandboxError(f"no such call within {timeout} s; calls seen: {seen}") from None
