"""Bugs of the library: what guards of other people's agents really did wrong."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final
from unittest.mock import patch

from agents import RunContextWrapper, function_tool

from guardrails import Guard, NotSent, mine
from guardrails.library.memory_store import MemoryStore

_ARM: Final = Guard.tool


@contextmanager
def _armed_by(arm: Callable[..., Any]) -> Iterator[None]:
    """Use `arm(guard, **terms)`, which returns a decorator, in place of `Guard.tool`."""
    with patch.object(Guard, "tool", arm):
        yield


@contextmanager
def unguarded() -> Iterator[None]:
    """The tool runs as the SDK has it, its error words included; every call is an effect."""

    def arm(guard: Guard, **terms: Any) -> Any:
        del guard, terms

        def armed(body: Any) -> Any:
            @wraps(body)
            async def plain(ctx: RunContextWrapper[Any], *args: Any, **more: Any) -> Any:
                return await body(RunContextWrapper(mine(ctx)), *args, **more)

            return function_tool(plain)

        return armed

    with _armed_by(arm):
        yield


@contextmanager
def item_ignored() -> Iterator[None]:
    """The key is the act alone: a second item of the act gets the first one's result."""
    with _armed_by(lambda guard, **terms: _ARM(guard, **{**terms, "key": None})):
        yield


@contextmanager
def verify_ignored() -> Iterator[None]:
    """The service is never asked about a doubt."""
    with _armed_by(lambda guard, **terms: _ARM(guard, **{**terms, "verify": None})):
        yield


@contextmanager
def doubt_released() -> Iterator[None]:
    """A raise is taken as proof that nothing happened, and gives the slot back."""

    def arm(guard: Guard, **terms: Any) -> Any:
        def armed(body: Any) -> Any:
            @wraps(body)
            async def forgiving(*args: Any, **more: Any) -> Any:
                try:
                    return await body(*args, **more)
                except TimeoutError as error:
                    raise NotSent("it failed") from error

            return _ARM(guard, **terms)(forgiving)

        return armed

    with _armed_by(arm):
        yield


@contextmanager
def memory_only() -> Iterator[None]:
    """Claims are kept by the process alone: a restart runs everything again."""
    make = Guard.__init__

    def forgetful(self: Guard, **given: Any) -> None:
        make(self, **{**given, "store": MemoryStore()})

    with patch.object(Guard, "__init__", forgetful):
        yield
