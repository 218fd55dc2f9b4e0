"""Signals: SIGINT, SIGTERM and SIGHUP stop a process in order, whatever it has opened by then."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The last one is what a terminal sends that is closed."""


class Stopped(Exception):
    """A signal ended the command before its work was done.

    Attributes:
        exit_code: What a shell expects of a process that a signal ended: 128 and its number.
    """

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(f"stopped by {number.name}")
        self.exit_code = 128 + number


def on_stop_signal(call: Callable[[signal.Signals], object]) -> None:
    """Call `call` at each of `STOP_SIGNALS` from now on, in place of what was called before."""
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, call, number)


async def run_until_signal(command: Coroutine[Any, Any, None]) -> None:
    """Run a command. A signal cancels it, so that it closes what it opened.

    A command that serves replaces this by its own end as soon as it serves (`app.processes.until_signal`).

    Raises:
        Stopped: A signal ended it.
    """
    task = asyncio.ensure_future(command)
    received: list[signal.Signals] = []

    def stop(number: signal.Signals) -> None:
        received.append(number)
        task.cancel()

    on_stop_signal(stop)
    try:
        await task
    except asyncio.CancelledError:
        if not received:
            raise
        raise Stopped(received[0]) from None
