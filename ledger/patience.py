"""How the ledger is asked: one function is one transaction, repeated where that is safe, left in time."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, Final, TypeVar, cast

from sqlalchemy.exc import DBAPIError

from ledger.database import Ledger
from telemetry.logs import get_logger

log = get_logger(__name__)

Asked = TypeVar("Asked", bound=Callable[..., Coroutine[Any, Any, Any]])
"""A function whose first argument is the ledger."""

TURNS: Final = 5
"""How often a transaction is begun in all."""

_UNDONE: Final = frozenset({"40001", "40P01"})
"""SQLSTATEs by which the server says that it rolled everything back: serialization failure, deadlock."""


def transaction(function: Asked) -> Asked:
    """Make a function of one transaction patient with the database and prompt with its caller.

    It is begun again only where the server itself says that nothing was kept. A connection that is lost on
    the way (also during COMMIT, when nobody can know) is raised: what is asked again later is
    insert-or-ignore or compare-and-set, and finds out.

    A caller that is cancelled leaves at once. The clean-up goes on behind it, because it may wait as long
    as another holds SQLite's lock, or as a server that hangs takes to be given up.
    """

    @wraps(function)
    async def ask(ledger: Ledger, *args: Any, **kwargs: Any) -> Any:
        task = asyncio.create_task(_repeat(function, ledger, *args, **kwargs))
        ledger.remember(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.cancel()
            raise

    return cast("Asked", ask)


async def _repeat(function: Asked, *args: Any, **kwargs: Any) -> Any:
    for turn in range(1, TURNS):
        try:
            return await function(*args, **kwargs)
        except DBAPIError as error:
            state = getattr(error.orig, "sqlstate", None)
            if state not in _UNDONE:
                raise
            log.info("the database undid a transaction; once more", sqlstate=state, turn=turn)
        await asyncio.sleep(random.uniform(0, 0.02 * turn))  # noqa: S311 - so that two do not meet again
    return await function(*args, **kwargs)
