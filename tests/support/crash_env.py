"""An app whose worker processes are killed, and the kinds of provider that such a test runs against."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from chat.keyboards import APPROVE
from evals.environment import RequestAndVideo, is_settled, write_agent_specs
from ledger import requests
from ledger.models import Request, Video, VideoState
from sandbox.telegram.bubbles import Bubble
from telemetry.failpoints import TAP_POINTS
from tests.support.waiting import wait_until
from tests.support.worker_process import ProcessEnvironment, open_process_env

QUICK = {"submit_timeout_s": 1.5, "poll_s": 0.05, "grace_s": 0.1, "settle_s": 1.0, "absent_gap_s": 0.3}
# A worker may spend half the slack between reading the clock and its POST: with less, on a loaded machine it
# sends nothing and never reaches the later points.
TIMEOUTS = {"run_s": 6, "slack_s": 6}


@dataclass(frozen=True)
class Column:
    """One kind of provider: what it documents decides what may be promised.

    Attributes:
        ends: State of an order whose outcome was unknown, once it is settled.
    """

    name: str
    shape: str
    listing: bool | None
    ends: VideoState
    database: str = "sqlite"


KEYED = Column("keyed", "inworld", None, VideoState.DELIVERED)
LISTABLE = Column("listable", "openai", True, VideoState.DELIVERED)
BLIND = Column("blind", "openai", False, VideoState.HOLD)


@asynccontextmanager
async def open_crash_env(
    folder: Path, redis_url: str, column: Column, point: str = ""
) -> AsyncIterator[ProcessEnvironment]:
    """Open everything outside the worker processes, with a provider of this kind.

    An order waits for a tap where workers are to stop at a `point` of one.
    """
    approval = "always" if point in TAP_POINTS else "never"
    async with open_process_env(
        folder,
        redis_url,
        shape=column.shape,
        database_url=column.database,
        settings={
            "key_prefix": f"crash-{uuid4().hex[:8]}",
            "agents_dir": write_agent_specs(folder / "declared", approval=approval),
        },
        provider_options={"listing": column.listing},
        capabilities=QUICK if column.listing is not False else {**QUICK, "listing": False},
        timeouts=TIMEOUTS,
    ) as env:
        yield env


async def ask_for_video(env: ProcessEnvironment, point: str = "") -> None:
    """Send a command as a person does, and tap [Make it] where `point` is one of a tap."""
    ana = env.api.user(1001, "Ana")
    await ana.send("/create a quiet market at dawn")
    if point in TAP_POINTS:
        await tap_make_it(env)


def is_offer(bubble: Bubble) -> bool:
    """Return whether a message has a button [Make it]."""
    return any((one.data or "").startswith(APPROVE) for row in bubble.buttons for one in row)


async def tap_make_it(env: ProcessEnvironment) -> None:
    """Tap [Make it] as soon as it is shown."""
    ana = env.api.user(1001, "Ana")
    offer = await ana.wait_for(is_offer)
    await ana.tap(offer.id, offer.buttons[0][0].data or "")


async def latest(env: ProcessEnvironment) -> RequestAndVideo | None:
    """Return the latest request of user 1001."""
    found = await requests.list_for_user(env.ledger, 1001, 1)
    return found[0] if found else None


async def wait_settled(env: ProcessEnvironment, seconds: float = 90) -> tuple[Request, Video]:
    """Wait until the latest request of user 1001 is settled; fail if it has no order."""

    async def check() -> bool:
        found = await latest(env)
        return found is not None and is_settled(*found)

    await wait_until(check, seconds, "the request to be settled")
    found = await latest(env)
    assert found is not None
    assert found[1] is not None, f"no order: {found[0].state} {found[0].reason}"
    return found[0], found[1]
