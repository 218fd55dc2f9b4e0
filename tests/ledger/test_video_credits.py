"""Credits: one video above the quota each, used by the tap, given back, never lost or doubled."""

import asyncio
import random

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from guardrails.limits import LimitExceeded, Limits
from guardrails.money import Money
from ledger import offers, orders, star_payments, transitions, video_credits
from ledger.database import Ledger
from ledger.models import QUOTA_FREE_STATES, Credit, VideoState
from ledger.orders import Placed
from ledger.schema import credit_lots, videos
from ledger.schema import star_payments as payment_rows
from ledger.star_payments import NewPayment, RefundState
from ledger.video_credits import Balance, Grant
from tests.ledger.test_limits import counted, stored
from tests.ledger.test_offers import TERMS
from tests.ledger.test_options import choose
from tests.support.factories import ORDER_PRICE, Opener, new_job, order_for, put, video_of

V = VideoState
ONE = Limits(quota=1)
pytestmark = pytest.mark.any_ledger


async def give(ledger: Ledger, count: int = 1, user_id: int = 7, request: str = "g") -> bool:
    return await video_credits.grant(ledger, Grant(request, 1, user_id, count, "admin:9", "a gift", "en"))


def payment(charge: str = "c1", credits_: int = 3, user_id: int = 7, **more) -> NewPayment:
    values = {"paid_at": 0, "found_by": "update"} | more
    return NewPayment(charge, 1, user_id, str(credits_), "i1", credits_ * 250, credits_, **values)


async def pay(ledger: Ledger, charge: str = "c1", credits_: int = 3, user_id: int = 7, **more) -> bool:
    async with ledger.read() as conn:
        now = await ledger.now(conn)
    values = {"paid_at": now} | more
    return await star_payments.record(ledger, payment(charge, credits_, user_id, **values), "en")


async def used_up(ledger: Ledger, opened: Opener, user_id: int = 7, request: str | None = None) -> str:
    """Use the one video of the quota."""
    request = request or await opened(user_id=user_id)
    assert isinstance(await orders.place(ledger, order_for(request), ONE), Placed)
    return request


async def offer(
    ledger: Ledger, opened: Opener, nonce: str, bounds: Limits = ONE, user_id: int = 7, request: str = ""
):
    request = request or await opened(user_id=user_id)
    order = order_for(request, approval_nonce=nonce, valid_s=900, account="local")
    return await orders.place(ledger, order, bounds)


async def tap(ledger: Ledger, nonce: str, bounds: Limits = ONE, user_id: int = 7):
    return await offers.approve(ledger, nonce, user_id, TERMS, bounds, valid_s=1800, offer_valid_s=900)


async def with_credit(ledger: Ledger, opened: Opener, nonce: str = "n") -> str:
    """Order a video above the quota; return its request."""
    placed = await offer(ledger, opened, nonce)
    assert isinstance(placed, Placed)
    approved = await tap(ledger, nonce)
    assert approved.outcome == "approved"
    return placed.video.request_id


async def assert_balanced(ledger: Ledger) -> None:
    """Assert the sums of every lot from the rows that they are of, and those of the limits."""
    async with ledger.read() as conn:
        lots = (await conn.execute(select(credit_lots))).all()
        held = (await conn.execute(select(videos.c.credit_lot).where(videos.c.credit == Credit.HELD))).all()
        paid = {row.charge_id: row for row in (await conn.execute(select(payment_rows))).all()}
        people = {row.user_id for row in lots}
    for lot in lots:
        assert lot.used == sum(one.credit_lot == lot.lot_id for one in held), lot
        refund = paid[lot.lot_id.removeprefix("stars:")].refund if lot.kind == "stars" else ""
        if refund in (RefundState.INTENDED, RefundState.REFUNDED):
            assert lot.refunded == lot.credits - lot.used
        else:
            assert lot.refunded == 0
    for user_id in people:
        found = await video_credits.balance(ledger, user_id)
        assert found.bought + found.granted == found.left + found.used + found.refunded
        assert found.left >= 0
    assert await stored(ledger) == await held_apart(ledger)


async def held_apart(ledger: Ledger):
    """Count the orders as `counted` does, without those that hold a credit in the quota."""
    found = await counted(ledger)
    async with ledger.read() as conn:
        rows = (await conn.execute(select(videos).where(videos.c.credit == Credit.HELD))).all()
    for row in rows:
        for scope in ("everyone", f"user:{row.user_id}"):
            for width_s in (1, 60, 900):
                key = (scope, width_s, row.ordered_at // 1000 // width_s)
                takes, starts, micros = found[key]
                found[key] = (takes - 1, starts, micros)
    return {key: value for key, value in found.items() if any(value)}


async def test_a_grant_is_given_once(ledger: Ledger):
    """A redelivered /grant gives nothing more."""
    assert [await give(ledger, 3) for _ in range(13)] == [True] + [False] * 12
    assert await video_credits.balance(ledger, 7) == Balance(granted=3)


async def test_without_a_credit_the_quota_refuses(ledger: Ledger, opened: Opener):
    """The quota refuses what is above it, in orders and in offers."""
    await used_up(ledger, opened)
    refused = await offer(ledger, opened, "n")
    assert isinstance(refused, LimitExceeded)
    assert (refused.verdict, refused.used, refused.limit) == ("quota", 1, 1)


async def test_a_credit_is_used_by_the_tap_alone(ledger: Ledger, opened: Opener):
    """The offer says that it uses one and uses none; the tap does; the order counts toward no quota."""
    await used_up(ledger, opened)
    await give(ledger, 2)
    placed = await offer(ledger, opened, "n")
    assert isinstance(placed, Placed)
    assert placed.video.credit == Credit.OFFERED
    assert (await video_credits.balance(ledger, 7)).left == 2
    approved = await tap(ledger, "n")
    assert approved.outcome == "approved"
    assert (approved.video.credit, approved.video.credit_lot) == (Credit.HELD, "grant:g")
    assert await video_credits.balance(ledger, 7) == Balance(granted=2, used=1)
    assert (await tap(ledger, "n")).outcome == "already"
    await assert_balanced(ledger)


async def test_an_order_without_a_tap_uses_no_credit(ledger: Ledger, opened: Opener):
    """It becomes an offer where it may; else the quota refuses it."""
    await used_up(ledger, opened)
    await give(ledger)
    refused = await orders.place(ledger, order_for(await opened()), ONE)
    assert isinstance(refused, LimitExceeded)
    order = order_for(await opened(), credit_nonce="c", offer_valid_s=900)
    placed = await orders.place(ledger, order, ONE)
    assert isinstance(placed, Placed)
    assert (placed.video.state, placed.video.nonce) == (V.AWAITING_APPROVAL, "c")
    assert placed.video.credit == Credit.OFFERED
    assert (await video_credits.balance(ledger, 7)).left == 1


async def test_other_limits_still_hold(ledger: Ledger, opened: Opener):
    """Cooldown and budgets refuse with a credit too, and an order with a credit counts toward them."""
    both = Limits(quota=1, cooldown_s=600)
    tight = Limits(quota=1, user_budget=Money(ORDER_PRICE.micros * 2))
    await used_up(ledger, opened)
    await give(ledger, 5)
    refused = await offer(ledger, opened, "a", both)
    assert isinstance(refused, LimitExceeded)
    assert refused.verdict == "cooldown"
    assert isinstance(await offer(ledger, opened, "b", tight), Placed)
    assert (await tap(ledger, "b", tight)).outcome == "approved"
    refused = await offer(ledger, opened, "c", tight)
    assert isinstance(refused, LimitExceeded)
    assert refused.verdict == "budget"
    assert (await video_credits.balance(ledger, 7)).used == 1


async def test_no_credit_is_used_that_the_offer_did_not_name(ledger: Ledger, opened: Opener):
    """The quota filled after the offer was shown: the tap shows it again with the credit, then orders."""
    await give(ledger)
    earlier = await opened()  # a later one would withdraw the offer
    placed = await offer(ledger, opened, "n")
    assert isinstance(placed, Placed)
    assert placed.video.credit == Credit.NONE
    await used_up(ledger, opened, request=earlier)
    changed = await tap(ledger, "n")
    assert changed.outcome == "changed"
    assert changed.video.credit == Credit.OFFERED
    assert (await video_credits.balance(ledger, 7)).left == 1
    assert (await tap(ledger, changed.video.nonce)).outcome == "approved"
    await assert_balanced(ledger)


async def test_a_quota_with_room_is_used_first(ledger: Ledger, opened: Opener):
    """An offer that named a credit uses none where the quota has room at the tap."""
    first = await used_up(ledger, opened)
    await give(ledger)
    assert isinstance(await offer(ledger, opened, "n"), Placed)
    await transitions.cancel(ledger, first, 7)
    approved = await tap(ledger, "n")
    assert approved.outcome == "approved"
    assert (approved.video.credit, approved.video.credit_lot) == (Credit.NONE, None)
    assert (await video_credits.balance(ledger, 7)).left == 1
    await assert_balanced(ledger)


@pytest.mark.parametrize("state", sorted(QUOTA_FREE_STATES - {V.AWAITING_APPROVAL}))
async def test_it_comes_back_where_the_quota_would(ledger: Ledger, opened: Opener, state: VideoState):
    """Each end that frees the quota gives the credit back, once, in every process and however often."""
    await used_up(ledger, opened)
    await give(ledger)
    request = await with_credit(ledger, opened)
    assert (await video_credits.balance(ledger, 7)).left == 0
    for _ in range(3):
        await put(ledger, request, state)
        assert (await video_credits.balance(ledger, 7)).left == 1
        await assert_balanced(ledger)
    video = await video_of(ledger, request)
    assert (video.credit, video.credit_lot) == (Credit.BACK, "grant:g")


@pytest.mark.parametrize("state", sorted(set(V) - QUOTA_FREE_STATES))
async def test_it_stays_used_where_the_quota_does(ledger: Ledger, opened: Opener, state: VideoState):
    """A video that is made, or whose outcome is not known, keeps its credit."""
    await used_up(ledger, opened)
    await give(ledger)
    await put(ledger, await with_credit(ledger, opened), state)
    assert (await video_credits.balance(ledger, 7)).left == 0
    await assert_balanced(ledger)


async def test_a_late_charge_counts_like_any_other(ledger: Ledger, opened: Opener):
    """The credit came back and may be used again; the video that turned up late counts toward the quota."""
    await used_up(ledger, opened)
    await give(ledger)
    request = await with_credit(ledger, opened)
    async with ledger.write() as conn:
        await conn.execute(
            update(videos).where(videos.c.request_id == request).values(state=V.SUBMITTING, fence="f")
        )
    await transitions.transition(
        ledger, request, V.SUBMITTING, V.FAILED_UNPAID, "shoot", "refused", fence="f"
    )
    assert await transitions.adopt_job(ledger, request, new_job(), "reconcile", None)
    assert (await video_credits.balance(ledger, 7)).left == 1
    assert (await video_of(ledger, request)).credit == Credit.BACK
    await assert_balanced(ledger)


async def test_two_orders_race_for_the_last_credit(ledger: Ledger, ledger_url: str, opened: Opener):
    """Two replicas, two offers, one credit: one tap is an order, the other is refused by the quota."""
    await used_up(ledger, opened)
    await give(ledger)
    other = Ledger(ledger_url)
    known = [await opened() for _ in range(2)]  # before the offers: a later one withdraws those
    for nonce, request in zip(("a", "b"), known, strict=True):
        assert isinstance(await offer(ledger, opened, nonce, request=request), Placed)
    found = await asyncio.gather(*(tap(one, nonce) for one in (ledger, other) for nonce in ("a", "b")))
    assert sorted(one.outcome for one in found).count("approved") == 1
    assert {one.denied.verdict for one in found if one.denied} == {"quota"}
    assert await video_credits.balance(ledger, 7) == Balance(granted=1, used=1)
    await assert_balanced(ledger)
    await other.close()


async def test_the_database_itself_refuses_a_credit_too_many(ledger: Ledger, opened: Opener):
    """Whatever the code does, no lot gives more than it has."""
    await give(ledger)
    first, second = [await used_up(ledger, opened, user) for user in (7, 8)]
    await put(ledger, first, V.QUEUED, credit=Credit.HELD, credit_lot="grant:g")
    with pytest.raises(IntegrityError):
        await put(ledger, second, V.QUEUED, credit=Credit.HELD, credit_lot="grant:g")


async def test_grants_are_used_before_payments(ledger: Ledger, opened: Opener):
    """So a payment stays refundable as long as it can."""
    await used_up(ledger, opened)
    await pay(ledger)
    await give(ledger)
    await with_credit(ledger, opened, "a")
    assert (await video_of(ledger, await with_credit(ledger, opened, "b"))).credit_lot == "stars:c1"
    assert await star_payments.intend_refund(ledger, "c1", 7, "user:7") == "used"


async def test_a_payment_is_one_row(ledger: Ledger, ledger_url: str):
    """13 deliveries at two replicas: one row, one lot, one notice."""
    other = Ledger(ledger_url)
    found = await asyncio.gather(*(pay(one, paid_at=1) for _ in range(7) for one in (ledger, other)))
    assert sorted(found) == [False] * 13 + [True]
    assert await video_credits.balance(ledger, 7) == Balance(bought=3)
    claimed = await asyncio.gather(*(video_credits.claim_notices(one, 1) for one in (ledger, other)))
    assert [notice.kind for one in claimed for notice in one] == ["paid"]
    await other.close()


async def test_an_invoice_paid_twice_is_two_payments(ledger: Ledger):
    """Each has a charge id of its own; the second says so."""
    assert await pay(ledger, "c1")
    assert await pay(ledger, "c2")
    assert (await video_credits.balance(ledger, 7)).left == 6
    assert [one.kind for one in await video_credits.claim_notices(ledger, 1)] == ["paid", "paid_again"]


async def test_a_refund_takes_its_credits_first(ledger: Ledger, opened: Opener):
    """From the intent on none can be used; refused by Telegram, they are back; refunded, they are gone."""
    await used_up(ledger, opened)
    await pay(ledger)
    assert await star_payments.intend_refund(ledger, "c1", 7, "user:7") == "intended"
    assert await star_payments.intend_refund(ledger, "c1", 7, "user:7") == "already"
    refused = await offer(ledger, opened, "n")
    assert isinstance(refused, LimitExceeded)
    await assert_balanced(ledger)
    assert await star_payments.refuse_refund(ledger, "c1", "en")
    assert not await star_payments.refuse_refund(ledger, "c1", "en")
    assert (await video_credits.balance(ledger, 7)).left == 3
    assert await star_payments.intend_refund(ledger, "c1", 7, "user:7") == "intended"
    for done in (True, False, False):
        assert await star_payments.finish_refund(ledger, "c1", "en") is done
    assert await video_credits.balance(ledger, 7) == Balance(bought=3, refunded=3)
    assert await star_payments.intend_refund(ledger, "c1", 7, "user:7") == "already"
    assert not await star_payments.refuse_refund(ledger, "c1", "en")
    await assert_balanced(ledger)


async def test_who_may_be_refunded(ledger: Ledger):
    """Only the payer, within 21 days, of a payment that exists."""
    async with ledger.read() as conn:
        now = await ledger.now(conn)
    day = 86_400_000
    await pay(ledger, "old", paid_at=now - 21 * day - 60_000)
    await pay(ledger, "new", paid_at=now - 21 * day + 60_000)
    assert await star_payments.intend_refund(ledger, "old", 7, "user:7") == "late"
    assert await star_payments.intend_refund(ledger, "new", 8, "user:8") == "unknown"
    assert await star_payments.intend_refund(ledger, "none", 7, "user:7") == "unknown"
    assert await star_payments.intend_refund(ledger, "new", 7, "user:7") == "intended"


async def test_a_refund_and_an_order_race(ledger: Ledger, ledger_url: str, opened: Opener):
    """Either the credit is used, or the payment is refunded; never both."""
    other = Ledger(ledger_url)
    for n in range(6):
        user = 100 + n
        await used_up(ledger, opened, user)
        await pay(ledger, f"r{n}", 1, user)
        assert isinstance(await offer(ledger, opened, f"n{n}", ONE, user), Placed)
        approved, outcome = await asyncio.gather(
            tap(ledger, f"n{n}", ONE, user),
            star_payments.intend_refund(other, f"r{n}", user, "user"),
        )
        assert (approved.outcome, outcome) in (("approved", "used"), ("refused", "intended"))
        await assert_balanced(ledger)
    await other.close()


async def test_telegrams_own_refund_is_honoured(ledger: Ledger, opened: Opener):
    """What is left is taken at once, what is used as it comes back; a missed payment is written first."""
    await used_up(ledger, opened)
    await pay(ledger)
    request = await with_credit(ledger, opened)
    assert await star_payments.record_refunded(ledger, payment(), "en")
    assert not await star_payments.record_refunded(ledger, payment(), "en")
    assert await video_credits.balance(ledger, 7) == Balance(bought=3, used=1, refunded=2)
    await put(ledger, request, V.CANCELLED)
    assert not await video_credits.came_back(ledger, await video_of(ledger, request))
    assert await video_credits.balance(ledger, 7) == Balance(bought=3, refunded=3)
    await assert_balanced(ledger)
    assert await star_payments.record_refunded(ledger, payment("missed"), "en")
    assert await video_credits.balance(ledger, 7) == Balance(bought=6, refunded=6)


async def test_due_refunds_are_claimed_by_one(ledger: Ledger, ledger_url: str):
    """An intent is left to its handler for a minute; then one replica asks, and again later and later."""
    await pay(ledger)
    await star_payments.intend_refund(ledger, "c1", 7, "user:7")
    assert await star_payments.claim_refunds(ledger, 1) == []
    later, other = Ledger(ledger_url, shift=61), Ledger(ledger_url, shift=61)
    found = await asyncio.gather(*(star_payments.claim_refunds(one, 1) for one in (later, other)))
    assert sorted(map(len, found)) == [0, 1]
    assert await star_payments.claim_refunds(later, 2) == [], "another bot's"
    await star_payments.finish_refund(ledger, "c1", "en")
    ended = Ledger(ledger_url, shift=9999)
    assert await star_payments.claim_refunds(ended, 1) == []
    for one in (later, other, ended):
        await one.close()


class Acts:
    """Random acts on one person's credits; each may be repeated."""

    def __init__(self, ledger: Ledger, opened: Opener, seed: int) -> None:
        self.ledger, self.opened, self.dice = ledger, opened, random.Random(seed)
        self.made: list[str] = []

    async def pay(self, name: str) -> None:
        await pay(self.ledger, name, self.dice.randint(1, 3))

    async def give(self, name: str) -> None:
        await give(self.ledger, self.dice.randint(1, 2), request=name)

    async def order(self, name: str) -> None:
        placed = await offer(self.ledger, self.opened, f"{name}{self.dice.random()}")
        if isinstance(placed, Placed):
            await tap(self.ledger, str(placed.video.nonce))
            self.made.append(placed.video.request_id)

    async def move(self, _: str) -> None:
        if self.made:
            await put(self.ledger, self.dice.choice(self.made), self.dice.choice(sorted(V)))

    async def intend(self, name: str) -> None:
        await star_payments.intend_refund(self.ledger, name, 7, "user:7")

    async def refuse(self, name: str) -> None:
        await star_payments.refuse_refund(self.ledger, name, "en")

    async def finish(self, name: str) -> None:
        if self.dice.random() < 0.3:
            await star_payments.finish_refund(self.ledger, name, "en")


@pytest.mark.parametrize("seed", range(3))
async def test_nothing_is_lost_or_doubled(ledger: Ledger, opened: Opener, seed: int):
    """Any acts in any order, each of them up to three times: the figures of credits and limits agree."""
    await used_up(ledger, opened)
    acts = Acts(ledger, opened, seed)
    kinds = (acts.pay, acts.give, acts.order, acts.order, acts.move, acts.intend, acts.refuse, acts.finish)
    for n in range(60):
        kind = acts.dice.choice(kinds)
        for _ in range(acts.dice.choice([1, 1, 3])):
            await kind(f"p{n % 5}")
        await assert_balanced(ledger)
    assert (await video_credits.balance(ledger, 7)).used or acts.made


async def test_an_option_of_an_offer_that_uses_a_credit_is_not_refused(ledger: Ledger, opened: Opener):
    """What [Make it] would take a credit for is not said to be above the quota; without one it is."""
    await give(ledger)
    await used_up(ledger, opened)
    placed = await offer(ledger, opened, "n")
    assert isinstance(placed, Placed)
    request = placed.video.request_id
    choice = await choose(ledger, request, bounds=ONE, seconds=4)
    assert (choice.outcome, choice.denied) == ("chosen", None)
    await _use_no_credit(ledger, request)
    refused = await choose(ledger, request, bounds=ONE, seconds=8)
    assert refused.denied is not None
    assert refused.denied.verdict == "quota"


async def _use_no_credit(ledger: Ledger, request: str) -> None:
    """Let the offer use no credit, as one that was made before the quota was used up."""
    async with ledger.write() as conn:
        await conn.execute(update(videos).where(videos.c.request_id == request).values(credit=Credit.NONE))
