"""Orders and videos in a given state, and what the ledger says of them."""

from collections import defaultdict
from collections.abc import Awaitable, Callable
from itertools import count
from uuid import uuid4

from hypothesis import HealthCheck, Phase, settings
from sqlalchemy import select, update

from guardrails.limits import BreakerRates, Limits
from guardrails.money import Money
from ledger import orders, requests, transitions
from ledger.database import Ledger, transaction
from ledger.history import record_refused_call
from ledger.models import Video, VideoState
from ledger.orders import Order, Placed
from ledger.schema import entries, videos
from ledger.schema import requests as request_rows
from ledger.schema import transitions as transition_rows

PAID_TOOL = "generate_video"
"""The name in Redis keys and metrics, which must not change."""

LIMITS = Limits(quota=5, cooldown_s=600, user_budget=Money.parse("$15"), everyone_budget=Money.parse("$100"))
"""The limits of agents/director.md."""

Opener = Callable[..., Awaitable[str]]

ORDER_PRICE = Money.parse("$3")
ODD_PRICE = Money(1_234_567)
"""More decimals than a float's sum would keep."""
NO_LIMITS = Limits()
NO_RATES = BreakerRates()
OVER_STORES = settings(
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    # No shrinking: over real stores it takes minutes, and a derandomized example repeats by itself.
    phases=(Phase.explicit, Phase.generate),
)
"""Hypothesis settings for properties over real stores: the same examples each time."""
_jobs = count(1)


def order_for(request_id: str, quote: Money = ORDER_PRICE, **more) -> Order:
    return Order(request_id, "local", "preview", "a market", 8, "720x1280", quote, **more)


def new_job() -> str:
    return f"job-{next(_jobs)}-{uuid4().hex[:6]}"


async def ordered(ledger: Ledger, opened: Opener, user_id: int = 7, **more) -> str:
    """Order a video without limits; return its request."""
    request = await opened(user_id=user_id)
    placed = await orders.place(ledger, order_for(request, **more), NO_LIMITS)
    assert isinstance(placed, Placed)
    return request


async def put(ledger: Ledger, request_id: str, state: VideoState, **columns) -> None:
    """Write a state without checking the transition: a start for a test, not how a video gets there."""
    async with ledger.write() as conn:
        await conn.execute(
            update(videos).where(videos.c.request_id == request_id).values(state=state, **columns)
        )


@transaction
async def update_fields(ledger: Ledger, request_id: str, **values) -> None:
    """Write columns of a request: the smallest transaction of the ledger's kind."""
    async with ledger.write() as conn:
        await conn.execute(update(request_rows).where(request_rows.c.request_id == request_id).values(values))


async def begun(ledger: Ledger, opened: Opener, fence: str = "f1", user_id: int = 7) -> str:
    """Order a video and move it to SUBMITTING."""
    request = await ordered(ledger, opened, user_id)
    assert await transitions.begin_submit(ledger, request, fence, 30, NO_RATES)
    return request


async def accepted(ledger: Ledger, opened: Opener, job_id: str, billed: Money | None = None) -> str:
    """Move a video to ACCEPTED as the submit task does."""
    request = await begun(ledger, opened)
    assert await transitions.adopt_job(ledger, request, job_id, "shoot", billed)
    return request


async def video_of(ledger: Ledger, request_id: str) -> Video:
    found = await requests.find_with_video(ledger, request_id)
    assert found is not None
    assert found[1] is not None
    return found[1]


async def booked(ledger: Ledger, request_id: str) -> dict[str, list[int]]:
    """Return the micro-dollars of one request's entries by kind, in order of writing."""
    query = select(entries).where(entries.c.request_id == request_id).order_by(entries.c.entry_id)
    found: dict[str, list[int]] = defaultdict(list)
    async with ledger.read() as conn:
        for row in await conn.execute(query):
            found[row.kind].append(row.micros)
    return dict(found)


async def history(ledger: Ledger, request_id: str) -> list[tuple[str, str, str]]:
    """Return the transitions of one video in order: from, to, who."""
    query = (
        select(transition_rows)
        .where(transition_rows.c.request_id == request_id, transition_rows.c.subject == "video")
        .order_by(transition_rows.c.transition_id)
    )
    async with ledger.read() as conn:
        return [(row.from_state, row.to_state, row.who) for row in await conn.execute(query)]


async def out_of_hold(ledger: Ledger, request: str) -> list[tuple[str, str, str]]:
    """Return the transitions from HOLD on: to, who, why."""
    query = select(transition_rows).where(
        transition_rows.c.request_id == request, transition_rows.c.subject == "video"
    )
    async with ledger.read() as conn:
        rows = (await conn.execute(query.order_by(transition_rows.c.transition_id))).all()
    at = next((n for n, row in enumerate(rows) if row.from_state == VideoState.HOLD), len(rows))
    return [(row.to_state, row.who, row.why) for row in rows[at:]]


async def one_of_each(ledger: Ledger, opened: Opener) -> tuple[str, str, str, str, str]:
    """Make six requests, one of each kind, and record three refused calls; return the first five requests.

    In order: charged, charged at an odd price, refunded, held, released, without an order.
    """
    plain = await accepted(ledger, opened, new_job())
    odd = await accepted(ledger, opened, new_job(), ODD_PRICE)
    back = await accepted(ledger, opened, new_job())
    await transitions.transition(
        ledger, back, VideoState.ACCEPTED, VideoState.FAILED_UNPAID, "test", "stated unbilled"
    )
    held = await begun(ledger, opened, user_id=8)
    await put(ledger, held, VideoState.HOLD)
    released = await ordered(ledger, opened, user_id=8)
    await transitions.cancel(ledger, released, 8)
    for _ in range(2):
        await record_refused_call(ledger, plain, "generate_video", "replay", "redis", ["prompt"])
    await record_refused_call(ledger, odd, "generate_video", "quota", "redis", ["prompt"])
    await opened(user_id=9)
    return plain, odd, back, held, released


async def sum_entries(ledger: Ledger) -> tuple[int, int, int]:
    """Return the micro-dollars charged, refunded and on hold, summed in the plainest way."""
    async with ledger.read() as conn:
        rows = (await conn.execute(select(entries))).all()
    found = {kind: sum(row.micros for row in rows if row.kind == kind) for kind in ("charge", "credit")}
    ended = {row.request_id for row in rows if row.kind in ("charge", "release")}
    held = sum(row.micros for row in rows if row.kind == "hold" and row.request_id not in ended)
    return found["charge"], found["credit"], held
