"""`/metrics`: reads what is read from stores, then renders every instrument of this process."""

import asyncio
from collections.abc import Awaitable
from typing import Final

from redis.exceptions import RedisError, ResponseError
from sqlalchemy.exc import SQLAlchemyError

from app.house import House
from ledger import readings
from telemetry import instruments as shown
from telemetry.logs import get_logger
from telemetry.metrics import exposition
from worker import backlog

log = get_logger(__name__)

_READ_S: Final = 4.0
"""Prometheus gives up a scrape after ten seconds."""


async def metrics(house: House) -> bytes:
    """Return the exposition text. A store that is away is said so (`onetake_store_up` 0)."""
    await asyncio.gather(
        _read("ledger", readings.observe(house.ledger)), _read("queue", backlog.observe(house.docket))
    )
    return exposition()


async def _read(store: str, reading: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(_READ_S):
            await reading
    except ResponseError:  # no worker has begun the queue yet: nothing waits in it
        shown.STORE_UP.set(1, store=store)
    except (SQLAlchemyError, RedisError, OSError, TimeoutError) as error:
        log.warning("figures are not read", store=store, error=type(error).__name__)
        shown.STORE_UP.set(0, store=store)
