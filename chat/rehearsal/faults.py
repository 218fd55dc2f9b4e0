"""Faults on demand: what the network and Telegram do to a call on a bad day."""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from chat.rehearsal.errors import ApiError

How = Literal["answer", "drop", "hang"]


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong with one call; build it with the named constructors.

    Attributes:
        how: What the caller gets in place of its answer: an error, a dropped connection, or silence.
        performed: Whether the call took effect all the same.
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
        """Any refusal in Telegram's words, for what the rehearsal does not model."""
        return cls("answer", error=ApiError(code, description, parameters or None))

    @classmethod
    def hang(cls) -> "Fault":
        """Never answered, never performed: ends when released or when the caller gives up."""
        return cls("hang")

    @classmethod
    def drop(cls) -> "Fault":
        """The connection is cut before the call is performed."""
        return cls("drop")

    @classmethod
    def lost_answer(cls, how: Literal["drop", "hang", "502"] = "drop") -> "Fault":
        """Performed, but the caller never learns it: cut, silent, or a gateway's 502."""
        if how == "502":
            return cls("answer", performed=True, error=ApiError(502, "Bad Gateway"))
        return cls(how, performed=True)


@dataclass
class FaultBook:
    """The faults that wait for their call, first in, first out, by method (`*` is any method)."""

    _waiting: dict[str, deque[Fault]] = field(default_factory=dict)
    _standing: dict[str, Fault] = field(default_factory=dict)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, method: str, fault: Fault, times: int | None) -> None:
        if times is None:
            self._standing[method.lower()] = fault
        else:
            self._waiting.setdefault(method.lower(), deque()).extend([fault] * times)

    def take(self, method: str) -> Fault | None:
        """The fault for this call, used up unless it stands."""
        for name in (method.lower(), "*"):
            if self._waiting.get(name):
                return self._waiting[name].popleft()
            if name in self._standing:
                return self._standing[name]
        return None

    @property
    def waiting(self) -> list[str]:
        """The methods whose next call is still to go wrong, one name per fault."""
        return [name for name, faults in self._waiting.items() for _ in faults]

    def clear(self) -> None:
        """Forget all faults and let every hanging call go."""
        self._waiting.clear()
        self._standing.clear()
        self.release()

    def release(self) -> None:
        """Let the calls that hang now go; those to come hang again."""
        self._released.set()
        self._released = asyncio.Event()

    async def hold(self) -> None:
        await self._released.wait()
