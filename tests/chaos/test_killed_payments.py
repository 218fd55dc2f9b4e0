"""Kill a real process between every two steps of a payment, a refund and a grant; two others continue.

The oracle is Telegram's own list of Stars. One process takes updates; the other is a second replica, which
settles what is due at the same time.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import select

from app.application import App
from chat.handlers import payments
from chat.i18n import translator
from chat.star_payments import run_star_payments
from chat.star_shop import Pack
from ledger import video_credits
from ledger.schema import credit_notices, star_payments
from ledger.video_credits import Balance
from sandbox.telegram.user import Person
from telemetry.failpoints import PAYMENT_POINTS
from tests.support.waiting import wait_until
from tests.support.worker_process import ProcessEnvironment, WorkerConfig, open_process_env, worker_process

pytestmark = pytest.mark.slow

ANA, ADMIN = 1001, 9001
PACK = Pack(3, 750)
REDELIVERED = 13
LEASES_S = 61
"""So much later another process continues what a dead one had claimed."""
EN = translator("en")
REFUNDED = ("refund_intended", "refund_answered", "refund_written", "refund_told", "refund_stored")
BOUGHT, RETURNED, GIVEN = Balance(bought=3), Balance(bought=3, refunded=3), Balance(granted=3)
WORDS = {BOUGHT: [("paid", 3)], RETURNED: [("paid", 3), ("refunded", 0)], GIVEN: [("granted", 3)]}
"""What a person reads: the kinds of words, with what is left then."""
# The daily comparison is killed in tests/chat/test_payments.py: what it finds must be lost on purpose.
BY_DAY = ("paid", "refund_intended", "refund_answered")
POINTS = [
    point if point in BY_DAY else pytest.param(point, marks=pytest.mark.nightly)
    for point in PAYMENT_POINTS
    if point != "payment_missing"
]


@dataclass(frozen=True)
class ShopConfig(WorkerConfig):
    """A child that sells credits; with `parts` "settler" it takes no updates and settles what is due."""

    def prepare(self) -> None:
        super().prepare()
        payments.CHECKS_S = 8.0  # a busy machine is no provider that does not answer

    def background(self, app: App) -> list[Any]:
        return [run_star_payments(app.chat)] if self.parts == "settler" else super().background(app)


@pytest.fixture
async def shop(valkey, tmp_path):
    settings = {"stars": "on", "admins": frozenset({ADMIN}), "key_prefix": f"shop-{tmp_path.name[-8:]}"}
    async with open_process_env(
        tmp_path, valkey.connection_url, shape="openai", settings=settings, config=ShopConfig
    ) as env:
        for person in (env.api.user(ANA, "Ana"), env.api.user(ADMIN, "Op")):
            env.api.world.chats.users[person.id].started = True
        yield env


@pytest.mark.parametrize("point", POINTS)
async def test_a_process_is_killed_at_each_step_of_a_payment(shop, point):
    """SIGKILL, redeliveries, two replicas: the rows, credits and Stars that Telegram lists, and told."""
    env, ana = shop, shop.api.user(ANA, "Ana")
    with worker_process(replace(env.config, stop_at=point)) as first:
        await begin(env, ana, point)
        await first.wait_at_failpoint()
        first.kill()
    for update_id in env.api.pending_updates:  # the one that was being handled
        await env.api.redeliver(update_id, REDELIVERED - 1)
    later = replace(env.config, clock_shift=LEASES_S)
    with worker_process(later) as second, worker_process(replace(later, parts="settler")) as third:
        wanted = ends_with(point)
        await wait_until(lambda: is_settled(env, wanted), 60, f"{wanted}")
        assert second.alive
        assert third.alive
    await assert_agrees(env, wanted, point)


async def begin(env: ProcessEnvironment, ana: Person, point: str) -> None:
    """Do what leads to the failpoint, without waiting for its end."""
    if point == "granted":
        await env.api.user(ADMIN, "Op").send(f"/grant {ANA} 3 sorry")
        return
    await ana.send("/buy")
    words = EN("button_pack", count=PACK.credits, stars=PACK.stars)
    menu = await ana.wait_for(lambda bubble: words in bubble.button_texts)
    await ana.tap(menu.id, words)
    await ana.pay((await ana.wait_for(lambda bubble: bubble.invoice is not None)).id)
    if point in REFUNDED:
        await wait_until(lambda: is_settled(env, BOUGHT), 60, "the credits")
        await ana.send("/paysupport")
        asked = await ana.wait_for(lambda bubble: any(map(is_refund, bubble.button_texts)))
        await ana.tap(asked.id, next(filter(is_refund, asked.button_texts)))


def is_refund(button: str) -> bool:
    """Say whether this is [Refund], which has no dot as the packs on sale have."""
    return "750 ⭐" in button and "·" not in button


def ends_with(point: str) -> Balance:
    if point == "granted":
        return GIVEN
    return RETURNED if point in REFUNDED else BOUGHT


async def is_settled(env: ProcessEnvironment, wanted: Balance) -> bool:
    """Say whether the credits are as wanted, every person was told, and every update is handled."""
    if await video_credits.balance(env.ledger, ANA) != wanted or env.api.pending_updates:
        return False
    async with env.ledger.read() as conn:
        notices = (await conn.execute(select(credit_notices))).all()
        rows = (await conn.execute(select(star_payments))).all()
    told = [one for one in notices if one.told_at]
    return len(told) == len(notices) > 0 and all(row.refund_due_at is None for row in rows)


async def assert_agrees(env: ProcessEnvironment, wanted: Balance, point: str) -> None:
    """Telegram's Stars, our rows and the credits agree; what was said was said once."""
    async with env.ledger.read() as conn:
        rows = (await conn.execute(select(star_payments))).all()
    listed = env.api.world.stars.transactions
    assert [one["amount"] for one in listed if "source" in one] == [PACK.stars] * (wanted.bought // 3)
    assert [one["amount"] for one in listed if "receiver" in one] == [PACK.stars] * (wanted.refunded // 3)
    assert [row.charge_id for row in rows] == [one["id"] for one in listed if "source" in one]
    assert [row.refund for row in rows] == [("refunded" if wanted.refunded else "")] * len(rows)
    texts = [one.text for one in env.api.user(ANA).history() if not one.mine]
    words = [
        plain(EN(f"credits_{kind}", count=3, stars=PACK.stars, left=left)) for kind, left in WORDS[wanted]
    ]
    # Between Telegram's answer and its record nobody knows that it was said: only there it may be said twice.
    most = 2 if point == "notice_sent" else 1
    assert [one for one in words if not 1 <= texts.count(one) <= most] == [], texts


def plain(html: str) -> str:
    return html.replace("<b>", "").replace("</b>", "")
