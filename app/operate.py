"""Commands for operators that change something: settle a doubtful request, close a breaker.

They need the ledger and nothing else.
"""

import getpass

from rich.console import Console

from app.settings import Settings
from ledger import breaker, migrate, settling
from ledger.database import Ledger


class OperateError(Exception):
    """A command cannot be carried out; the message says what was found and what is allowed."""


async def resolve(
    settings: Settings, console: Console, request: str, outcome: str, job_id: str, why: str
) -> None:
    """Settle a request on HOLD in the name of the person at the keyboard.

    Raises:
        NotSettled: There is no such request, it is not on HOLD, or the words are off.
        JobTaken: The job stands in the books of another request.
    """
    ruling = settling.ruling(outcome, job_id, why)
    ledger = Ledger(settings.ledger_url)
    try:
        await migrate.upgrade(ledger)
        video = await settling.held(ledger, request)
        moved = await settling.settle(ledger, video.request_id, ruling, _who())
        console.print(f"#{moved.short_id} is {moved.state}. A worker goes on from here.")
    finally:
        await ledger.close()


async def breakers(settings: Settings, console: Console, act: str, scope: str) -> None:
    """Print the breakers that are open, or close one in the name of the person at the keyboard.

    Raises:
        OperateError: There is nothing of that name to do, or to close.
    """
    if (act, bool(scope)) not in (("show", False), ("close", True)):
        raise OperateError(f"`{act} {scope}` is not known; it is `breaker` or `breaker close SCOPE`")
    ledger = Ledger(settings.ledger_url)
    try:
        await migrate.upgrade(ledger)
        if scope and not await breaker.close(ledger, scope, _who()):
            names = ", ".join(one.scope for one in await breaker.opened(ledger))
            raise OperateError(f"no breaker {scope!r} is open; open: {names or 'none'}")
        if scope:
            console.print(f"The breaker for {scope} is closed. Orders that wait go on.")
            return
        opened = await breaker.opened(ledger)
        for one in opened:
            console.print(f"open for {one.scope}: {one.why}", markup=False)
        if not opened:
            console.print("No breaker is open.")
    finally:
        await ledger.close()


def _who() -> str:
    return f"operator:{getpass.getuser()}"
