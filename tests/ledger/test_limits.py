"""The database keeps the sums of `usage_buckets`, whatever writes an order; they are read by index alone."""

import random

import pytest
from sqlalchemy import insert, select, text, update

from guardrails.limits import BUCKET_WIDTHS_S, EVERYONE, LimitExceeded, Limits, user_scope
from guardrails.money import Money
from guardrails.protocols import PagePosition
from ledger import limits, orders, transitions
from ledger.database import Ledger
from ledger.models import QUOTA_FREE_STATES, UNCOUNTED_STATES, VideoState
from ledger.schema import usage_buckets, videos
from tests.support.factories import (
    LIMITS,
    NO_RATES,
    ORDER_PRICE,
    Opener,
    accepted,
    begun,
    new_job,
    order_for,
    ordered,
    put,
    video_of,
)

V = VideoState
pytestmark = pytest.mark.any_ledger
Bucket = tuple[str, int, int]


async def stored(ledger: Ledger) -> dict[Bucket, tuple[int, int, int]]:
    """Return every bucket that is not empty."""
    async with ledger.read() as conn:
        rows = (await conn.execute(select(usage_buckets))).all()
    return {
        (row.scope, row.width_s, row.bucket): (row.takes, row.starts, row.micros)
        for row in rows
        if (row.takes, row.starts, row.micros) != (0, 0, 0)
    }


async def counted(ledger: Ledger) -> dict[Bucket, tuple[int, int, int]]:
    """Count the orders themselves, in the plainest way."""
    found: dict[Bucket, tuple[int, int, int]] = {}
    async with ledger.read() as conn:
        rows = (await conn.execute(select(videos))).all()
    for row in rows:
        takes, starts = row.state not in QUOTA_FREE_STATES, row.state not in UNCOUNTED_STATES
        for scope in (EVERYONE, user_scope(row.user_id)):
            for width_s in BUCKET_WIDTHS_S:
                key = (scope, width_s, row.ordered_at // 1000 // width_s)
                before = found.get(key, (0, 0, 0))
                micros = max(row.quote_micros, row.cost_micros)
                more = (int(takes), int(starts), micros if starts else 0)
                found[key] = (before[0] + more[0], before[1] + more[1], before[2] + more[2])
    return {key: value for key, value in found.items() if any(value)}


async def spent(ledger: Ledger) -> int:
    found = (await stored(ledger)).items()
    return sum(micros for (scope, width_s, _), (_, _, micros) in found if (scope, width_s) == (EVERYONE, 900))


@pytest.mark.parametrize("seed", range(3))
async def test_the_sums_follow_every_change(ledger: Ledger, opened: Opener, seed: int):
    """Any states in any order, and late changes of time and price: the sums are those of the orders."""
    dice = random.Random(seed)
    known = [await ordered(ledger, opened, user) for user in (7, 7, 8)]
    for _ in range(30):
        request, state = dice.choice(known), dice.choice(list(V))
        await put(ledger, request, state)
        if dice.random() < 0.2:
            async with ledger.write() as conn:
                moved = videos.c.ordered_at - dice.randrange(10**6)
                query = update(videos).where(videos.c.request_id == request)
                await conn.execute(query.values(ordered_at=moved, quote_micros=dice.randrange(10**7)))
        assert await stored(ledger) == await counted(ledger)


async def test_a_videos_way_is_counted(ledger: Ledger, opened: Opener):
    """Ordered, begun, failed unpaid, adopted late, delivered: counted, given back, counted again; and each
    change of the state is a version.
    """
    request = await ordered(ledger, opened)
    sums = {takes for (_, _, _), (takes, _, _) in (await stored(ledger)).items()}
    assert sums == {1}
    assert await transitions.begin_submit(ledger, request, "f", 30, NO_RATES)
    failed = await transitions.transition(
        ledger, request, V.SUBMITTING, V.FAILED_UNPAID, "shoot", "refused", fence="f"
    )
    assert failed is not None
    assert failed.version == 2
    assert await stored(ledger) == {}
    late = await transitions.adopt_job(ledger, request, "job_1", "reconcile", Money(1))
    assert late is not None
    assert late.version == 3
    assert await stored(ledger) == await counted(ledger) != {}


async def test_a_bill_above_the_quote_counts(ledger: Ledger, opened: Opener):
    """Budgets count max(quote, net booked): a higher bill takes the difference too, a lower one takes the
    quote, and a refund gives back what was above it. Each change is a version, and is found as a change.
    """
    cheap, dear = [await begun(ledger, opened) for _ in range(2)]
    low, high = Money(ORDER_PRICE.micros // 3), Money(ORDER_PRICE.micros * 5)
    budget = Limits(user_budget=Money(ORDER_PRICE.micros * 7))
    assert await transitions.adopt_job(ledger, cheap, new_job(), "test", low)
    assert await spent(ledger) == 2 * ORDER_PRICE.micros
    assert await transitions.adopt_job(ledger, dear, new_job(), "test", high)
    assert await stored(ledger) == await counted(ledger)
    assert await spent(ledger) == 6 * ORDER_PRICE.micros
    assert isinstance(await orders.place(ledger, order_for(await opened()), budget), orders.Placed)
    refused = await orders.place(ledger, order_for(await opened()), budget)
    assert isinstance(refused, LimitExceeded)
    assert (refused.verdict, refused.used) == ("budget", 7 * ORDER_PRICE.micros)
    before = (await video_of(ledger, dear)).version
    await transitions.transition(
        ledger, dear, V.ACCEPTED, V.FAILED_PAID, "test", "billed less", billed=low, failure="failed"
    )
    assert await stored(ledger) == await counted(ledger)
    assert await spent(ledger) == 3 * ORDER_PRICE.micros
    assert (await video_of(ledger, dear)).version > before + 1


async def test_a_second_jobs_bill_is_a_change_without_a_state(
    ledger: Ledger, ledger_url: str, opened: Opener
):
    """A job too many leaves the state as it is: the order is counted with both bills, and read as changed."""
    request = await accepted(ledger, opened, new_job())
    later = Ledger(ledger_url, shift=3600)
    async with later.read() as conn:
        position = PagePosition(await later.now(conn) - 1000)
    assert await limits.orders_changed_since(later, position, 9) == []
    await transitions.adopt_job(later, request, new_job(), "test", None)
    assert await stored(later) == await counted(later)
    [found] = await limits.orders_changed_since(later, position, 9)
    assert (found.request_id, found.micros) == (request, 2 * ORDER_PRICE.micros)
    assert found.version == (await video_of(later, request)).version
    assert await limits.orders_changed_since(later, PagePosition(found.changed_at, request), 9) == []
    await later.close()


async def test_a_refused_order_counts_nothing(ledger: Ledger, opened: Opener):
    """What is rolled back leaves no sum; an insert that finds its row there adds none."""
    await orders.place(ledger, order_for(await opened()), Limits(quota=1))
    before = await stored(ledger)
    await orders.place(ledger, order_for(await opened()), Limits(quota=1))
    async with ledger.write() as conn:
        row = (await conn.execute(select(videos))).one()._mapping
        await conn.execute(ledger.insert_new(videos).values(dict(row)))
    assert await stored(ledger) == before


async def test_an_insert_that_ignores_conflicts_still_adds(ledger: Ledger, opened: Opener):
    """The outer statement's ON CONFLICT DO NOTHING does not reach the upserts of the trigger."""
    first = await ordered(ledger, opened)
    second = await opened()
    async with ledger.write() as conn:
        row = (await conn.execute(select(videos).where(videos.c.request_id == first))).one()._mapping
        await conn.execute(ledger.insert_new(videos).values(dict(row) | {"request_id": second}))
    assert await stored(ledger) == await counted(ledger)
    assert {takes for takes, _, _ in (await stored(ledger)).values()} == {2}


async def test_the_version_before_keeps_sums_and_versions(ledger: Ledger, opened: Opener):
    """A process that knows neither table nor column writes an order and its states: both are right."""
    request = await opened()
    old = (
        "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size,"
        " quote_micros, expires_at, ordered_at, updated_at)"
        " VALUES (:id, 7, 'QUEUED', 'p', 'm', '', 8, '', 5, 9, :at, :at)"
    )
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        await conn.execute(text(old), {"id": request, "at": now})
    assert await stored(ledger) == await counted(ledger) != {}
    for state, version in (("SUBMITTING", 1), ("SUBMITTING", 1), ("FAILED_PAID", 2)):
        async with ledger.write() as conn:
            change = text("UPDATE videos SET state = :state, updated_at = :at WHERE request_id = :id")
            await conn.execute(change, {"state": state, "at": now, "id": request})
            assert await conn.scalar(select(videos.c.version)) == version
    assert await stored(ledger) == await counted(ledger) != {}


async def plan_of(ledger: Ledger, statement: str, values: dict[str, object]) -> str:
    async with ledger.write() as conn:
        if ledger.dialect == "sqlite":
            rows = await conn.execute(text(f"EXPLAIN QUERY PLAN {statement}"), values)
            return "\n".join(str(row[3]) for row in rows)
        await conn.execute(text("SET LOCAL enable_seqscan = off"))
        return "\n".join(str(row[0]) for row in await conn.execute(text(f"EXPLAIN {statement}"), values))


async def test_the_recount_scans_nothing(ledger: Ledger, opened: Opener):
    """The recount is one statement that reads the sums by their key, and no order."""
    await ordered(ledger, opened)
    async with ledger.read() as conn:
        values = limits._sums_parameters(7, LIMITS, await ledger.now(conn))
    plan = await plan_of(ledger, str(limits._SUMS.text), values)
    assert "videos" not in plan
    assert not [line for line in plan.splitlines() if line.strip().startswith(("SCAN usage", "Seq Scan"))]


async def test_a_recount_costs_two_statements_at_most(ledger: Ledger, opened: Opener):
    """One statement admits; a refusal reads its window's buckets to say until when."""
    from sqlalchemy import event

    await ordered(ledger, opened)
    sent: list[str] = []
    event.listen(ledger.engine.sync_engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        for bounds, wanted in ((Limits(), 1), (Limits(quota=1), 2), (Limits(cooldown_s=600), 1)):
            sent.clear()
            await limits.recount(conn, 7, ORDER_PRICE, bounds, now)
            assert len(sent) == wanted, sent


async def test_pages_are_in_order_and_complete(ledger: Ledger, opened: Opener):
    """Pages of two name every order once, by time and by change; so do orders of one millisecond."""
    known = [await ordered(ledger, opened) for _ in range(5)]
    async with ledger.write() as conn:
        await conn.execute(update(videos).values(ordered_at=1000, updated_at=2000))
    for read, at in ((limits.orders_since, "at"), (limits.orders_changed_since, "changed_at")):
        found, after = [], PagePosition(0)
        while page := await read(ledger, after, 2):
            found += [one.request_id for one in page]
            after = PagePosition(getattr(page[-1], at), page[-1].request_id)
        assert found == sorted(known)


async def test_old_buckets_are_deleted(ledger: Ledger, ledger_url: str, opened: Opener):
    """Buckets that no window reaches go, the others stay: seconds after hours, minutes after days."""
    await ordered(ledger, opened)
    for shift, widths in (
        (0, {1, 60, 900}),
        (3 * 3600, {60, 900}),
        (4 * 86_400, {900}),
        (33 * 86_400, set()),
    ):
        later = Ledger(ledger_url, shift=shift)
        await limits.drop_old_buckets(later)
        await later.close()
        assert {width for _, width, _ in await stored(ledger)} == widths


async def test_a_change_long_after_the_order_leaves_old_sums_alone(
    ledger: Ledger, ledger_url: str, opened: Opener
):
    """An order ends unpaid when its fine buckets were deleted: the day's sums are right, nothing refuses."""
    request = await ordered(ledger, opened)
    later = Ledger(ledger_url, shift=3 * 3600)
    await limits.drop_old_buckets(later)
    await put(later, request, V.FAILED_UNPAID)
    async with later.read() as conn:
        usage = await limits.current_usage(conn, 7, ORDER_PRICE, Limits(quota=1), await later.now(conn))
    assert (usage.used, usage.exceeded) == (0, ())
    await later.close()


async def test_an_unpaid_insert_adds_nothing(ledger: Ledger, opened: Opener):
    """An order that is written in an end state without payment is in no sum."""
    first = await ordered(ledger, opened)
    await put(ledger, first, V.CANCELLED)
    second = await opened()
    async with ledger.write() as conn:
        row = (await conn.execute(select(videos).where(videos.c.request_id == first))).one()._mapping
        await conn.execute(insert(videos).values(dict(row) | {"request_id": second}))
    assert await stored(ledger) == {}
