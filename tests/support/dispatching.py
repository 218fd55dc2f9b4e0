"""A dispatcher that runs for the length of a test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from worker.dispatcher import Dispatcher


@asynccontextmanager
async def run_dispatcher(dispatcher: Dispatcher, stop_s: float = 1) -> AsyncIterator[Dispatcher]:
    """Run it, then stop it as a process does: steps under way get `stop_s` seconds."""
    run = asyncio.create_task(dispatcher.run())
    try:
        yield dispatcher
    finally:
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)
        await dispatcher.stop(stop_s)
