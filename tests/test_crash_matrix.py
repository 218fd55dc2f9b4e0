"""Kill a real worker at each durable step; another goes on. The oracle is the provider's own charge log."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import postgres
import pytest
from crew import Orders, member
from services import ROOT
from storm_stage import open_database
from waiting import wait_until

from evals.environment import is_settled
from guardrails.admission import PAID_TOOL, Admission, RedisKeys
from guardrails.redis_client import connect
from ledger import database, reports, requests
from ledger.database import Ledger
from ledger.limits import Limits
from ledger.models import Request, Video, VideoState
from ledger.money import ZERO
from sandbox.telegram.server import BotApiServer
from sandbox.video_api.openai import FakeProvider
from telemetry.failpoints import FAILPOINTS

QUICK = {"submit_timeout_s": 1.5, "poll_s": 0.05, "grace_s": 0.1, "settle_s": 1.0, "absent_gap_s": 0.3}
# Half the slack is what a worker may take from its look at the clock to its POST: a loaded machine needs
# it, or the worker sends nothing and never comes to the later points.
PACE = {"run_s": 2, "slack_s": 6}


@dataclass(frozen=True)
class Column:
    """One kind of provider: what it documents decides what may be promised."""

    name: str
    shape: str
    listing: bool | None
    ends: VideoState
    database: str = "sqlite"


KEYED = Column("keyed", "inworld", None, VideoState.DELIVERED)
LISTABLE = Column("listable", "openai", True, VideoState.DELIVERED)
BLIND = Column("blind", "openai", False, VideoState.HOLD)

# Before SUBMITTING nothing can be charged, and after ACCEPTED the job is known: only between them is doubt.
DOUBTFUL = {"submitting", "answered", "post_sent"}

# One column in `make test`; all three in `make test-all`.
COLUMNS = [
    pytest.param(KEYED, id="keyed"),
    pytest.param(LISTABLE, id="listable", marks=pytest.mark.all),
    pytest.param(BLIND, id="blind", marks=pytest.mark.all),
    pytest.param(
        replace(LISTABLE, database="postgresql"),
        id="listable_on_postgresql",
        marks=[
            pytest.mark.all,
            pytest.mark.skipif(not postgres.looked_up(), reason="PostgreSQL does not answer"),
        ],
    ),
]


@dataclass
class Stage:
    """Everything that outlives the workers."""

    api: BotApiServer
    fake_provider: FakeProvider
    ledger: Ledger
    orders: Orders

    async def newest(self) -> tuple[Request, Video | None] | None:
        found = await requests.list_for_user(self.ledger, 1001, 1)
        return found[0] if found else None

    async def taken(self) -> set[str]:
        """Return what Redis counts toward the user's quota, once it was refreshed from the ledger."""
        redis, keys = (
            connect(self.orders.settings["redis_url"]),
            RedisKeys(self.orders.settings["key_prefix"]),
        )
        try:
            await Admission(redis, self.ledger, keys, Limits(quota=5)).refresh()
            return set(await redis.zrange(keys.takes(PAID_TOOL, 1001), 0, -1))
        finally:
            await redis.aclose()

    async def rested(self, seconds: float = 40) -> tuple[Request, Video]:
        async def check() -> bool:
            found = await self.newest()
            return found is not None and is_settled(*found)

        await wait_until(check, seconds, "the request to rest")
        found = await self.newest()
        assert found is not None
        assert found[1] is not None, f"no order: {found[0].state} {found[0].reason}"
        return found[0], found[1]


@asynccontextmanager
async def a_stage(folder: Path, redis_url: str, column: Column) -> AsyncIterator[Stage]:
    async with (
        AsyncExitStack() as stack,
        FakeProvider(folder / "peer", shape=column.shape, listing=column.listing) as fake_provider,
        BotApiServer(clock_scale=60, media_dir=folder / "telegram") as api,
    ):
        url = open_database(folder, column.database, stack)
        ledger = Ledger(url)
        await database.migrate(ledger)
        orders = Orders(
            settings={
                "telegram_bot_token": api.token,
                "telegram_api_url": api.base_url,
                "redis_url": redis_url,
                "database_url": url,
                "key_prefix": f"crash-{uuid4().hex[:8]}",
                "var_dir": folder / "var",
                "agents_dir": ROOT / "agents",
            },
            provider={"base_url": fake_provider.base_url, "shape": column.shape},
            capabilities=QUICK if column.listing is not False else {**QUICK, "listing": False},
            timeouts=PACE,
            marker=folder / "here",
        )
        try:
            yield Stage(api, fake_provider, ledger, orders)
        finally:
            await ledger.close()


async def _law(env: Stage, column: Column, point: str) -> None:
    """At most one charge; delivered, or held where a blind provider leaves a doubt; the books agree."""
    request, video = await env.rested()
    wanted = column.ends if point in DOUBTFUL else VideoState.DELIVERED
    if column.name == "listable" and point == "submitting":
        # Nothing was sent, and two lists say so. That is proof enough to give the money back, and not enough
        # to pay again: docs/decisions/0010-absent-is-not-resent.md.
        wanted = VideoState.FAILED_UNPAID
        assert video.failure == "absent"
        assert env.fake_provider.posts() == []
    assert video.state is wanted, f"{video.state}: {video.failure_detail}"
    charged = env.fake_provider.net()
    assert len(env.fake_provider.charges()) <= 1
    shown = [one for one in env.api.user(1001).history() if one.media and f"#{request.short_id}" in one.text]
    assert bool(shown) == (video.state is VideoState.DELIVERED), "what the ledger says is not in the chat"
    booked = await reports.net_charged(env.ledger, request.request_id)
    if video.state is VideoState.DELIVERED:
        assert booked.micros == sum(charged.values())
    sums = await reports.cost_summary(env.ledger)
    unpaid = video.state is VideoState.FAILED_UNPAID
    assert sums.paid + sums.held == (ZERO if unpaid else video.quote)
    assert await env.taken() == (set() if unpaid else {request.request_id})


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("point", FAILPOINTS)
async def test_a_worker_is_killed_at_each_step(valkey, tmp_path, point, column):
    """SIGKILL at a durable step, a fresh worker after it: one charge at most, nothing lost in silence."""
    async with a_stage(tmp_path, valkey.connection_url, column) as env:
        with member(replace(env.orders, stop_at=point)) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await first.at_point()
            first.kill()
            with member(env.orders) as second:
                await _law(env, column, point)
                assert second.alive


@pytest.mark.slow
@pytest.mark.parametrize("column", COLUMNS)
async def test_a_worker_is_killed_between_post_and_answer(valkey, tmp_path, column):
    """The provider has charged, no answer comes, the worker dies: adopted or held, never paid again."""
    async with a_stage(tmp_path, valkey.connection_url, column) as env:
        env.fake_provider.script("charge_hang")
        with member(env.orders) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await wait_until(lambda: _charged(env.fake_provider), 20, "the charge")
            first.kill()
            with member(env.orders) as second:
                await _law(env, column, "post_sent")
                assert len(env.fake_provider.charges()) == 1
                assert second.alive


async def _charged(fake_provider: FakeProvider) -> bool:
    return bool(fake_provider.charges())
