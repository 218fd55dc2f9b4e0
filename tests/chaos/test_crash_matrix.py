"""Kill a real worker at each durable step; another goes on. The oracle is the provider's own charge log."""

import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import pytest

from evals.environment import is_settled
from guardrails.admission import Admission, RedisKeys
from guardrails.limits import Limits
from guardrails.money import ZERO
from guardrails.redis_client import connect
from ledger import database, reports, requests
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from ledger.models import Request, Video, VideoState
from sandbox.telegram.faults import Fault
from sandbox.telegram.server import BotApiServer
from sandbox.video_api.openai import FakeProvider
from telemetry.failpoints import FAILPOINTS
from tests.chaos.soak_env import open_database
from tests.support import services
from tests.support.factories import PAID_TOOL
from tests.support.services import ROOT
from tests.support.waiting import wait_until
from tests.support.worker_process import Orders, member

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
            pytest.mark.skipif(not services.looked_up(), reason="PostgreSQL does not answer"),
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
            await Admission(redis, LedgerCounters(self.ledger), keys, Limits(quota=5), PAID_TOOL).refresh()
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


STATES_AFTER_DOUBT = {VideoState.IN_DOUBT, VideoState.HOLD, VideoState.FAILED_UNPAID, VideoState.ACCEPTED}
ENDED = {VideoState.HOLD, VideoState.FAILED_UNPAID, VideoState.DELIVERED}


async def _state(env):
    found = await env.newest()
    return None if found is None or found[1] is None else found[1].state


@pytest.mark.all
@pytest.mark.slow
async def test_an_owner_that_slept_before_the_post_sends_nothing(valkey, tmp_path):
    """SIGSTOP between CAS and POST, past every deadline; another settles it; SIGCONT: no POST, no refund."""
    async with a_stage(tmp_path, valkey.connection_url, LISTABLE) as env:
        orders = replace(env.orders, stop_at="submitting", sleep_at=True)
        with member(orders) as owner:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await owner.at_point()
            await freeze(owner, tmp_path / "ledger.db")
            with member(replace(env.orders, parts="worker")) as other:
                await wait_until(lambda: _is(env, {VideoState.FAILED_UNPAID}), 30, "the doubt to be settled")
                env.orders.marker.unlink()  # wakes the sleeper
                owner.send(signal.SIGCONT)
                await wait_until(lambda: _logged(owner, tmp_path, "too late to send"), 20, "its words")
                assert other.alive
            assert env.fake_provider.posts() == []
            assert await _state(env) is VideoState.FAILED_UNPAID


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.parametrize("column", [pytest.param(BLIND, id="blind"), pytest.param(LISTABLE, id="listable")])
async def test_the_job_that_a_sleeper_brings_late_is_adopted(valkey, tmp_path, column):
    """SIGSTOP after the POST, past every deadline; another judges; SIGCONT: the late job is adopted, once."""
    async with a_stage(tmp_path, valkey.connection_url, column) as env:
        orders = replace(env.orders, stop_at="answered", sleep_at=True)
        with member(orders) as owner:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await owner.at_point()
            await freeze(owner, tmp_path / "ledger.db")
            with member(replace(env.orders, parts="worker")):
                await wait_until(lambda: _is(env, ENDED), 30, "another to judge")
                env.orders.marker.unlink()
                owner.send(signal.SIGCONT)
                await wait_until(lambda: _is(env, {VideoState.DELIVERED}), 30, "the late job's delivery")
            request, _ = await env.rested()
            assert len(env.fake_provider.charges()) == 1
            assert (await reports.net_charged(env.ledger, request.request_id)).micros == sum(
                env.fake_provider.net().values()
            )


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.parametrize("point", ["admitted", "ordered", "submitting", "answered", "polling", "video_sent"])
async def test_a_worker_that_is_told_to_stop_leaves_a_clean_state(valkey, tmp_path, point):
    """SIGTERM at a step: it ends within the grace time; what it left another finishes, with one POST."""
    async with a_stage(tmp_path, valkey.connection_url, LISTABLE) as env:
        with member(replace(env.orders, stop_at=point, sleep_at=True)) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await first.at_point()
            first.send(signal.SIGTERM)
            env.orders.marker.unlink()  # the step goes on while the process is ending
            await wait_until(lambda: _gone(first), 15, "its end")
            assert first.exit_code == 0
            with member(env.orders):
                _, video = await env.rested()
                assert video.state is VideoState.DELIVERED
                assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


@pytest.mark.all
@pytest.mark.slow
@pytest.mark.parametrize("column", [pytest.param(BLIND, id="blind"), pytest.param(LISTABLE, id="listable")])
async def test_a_worker_that_is_told_to_stop_while_it_posts(valkey, tmp_path, column):
    """SIGTERM while the provider has charged and does not answer: adopted or held, and never sent again."""
    async with a_stage(tmp_path, valkey.connection_url, column) as env:
        env.fake_provider.script("charge_hang")
        with member(env.orders) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await wait_until(lambda: _charged(env.fake_provider), 20, "the charge")
            first.send(signal.SIGTERM)
            await wait_until(lambda: _gone(first), 15, "its end")
            assert first.exit_code == 0
        with member(env.orders):
            _, video = await env.rested()
            assert video.state is column.ends
            assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


@pytest.mark.all
@pytest.mark.slow
async def test_a_worker_that_is_told_to_stop_while_it_uploads(valkey, tmp_path):
    """SIGTERM while Telegram takes the video and does not answer: another delivers it; nothing is paid."""
    async with a_stage(tmp_path, valkey.connection_url, LISTABLE) as env:
        env.api.fail("editMessageMedia", Fault.hang())
        with member(env.orders) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await env.api.calls.wait_for(lambda call: call.method == "editMessageMedia", timeout=30)
            first.send(signal.SIGTERM)
            await wait_until(lambda: _gone(first), 30, "its end")
            assert first.exit_code == 0
        env.api.heal()
        with member(env.orders):
            await _law(env, LISTABLE, "fetched")
            assert len(env.fake_provider.posts()) == 1


async def freeze(one, database) -> None:
    """SIGSTOP, but not inside a write: a stopped process that holds SQLite's one lock stops everybody."""

    async def stopped() -> bool:
        one.send(signal.SIGSTOP)
        with closing(sqlite3.connect(database, timeout=0.3, isolation_level=None)) as probe:
            try:
                probe.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                one.send(signal.SIGCONT)
                return False
            probe.execute("ROLLBACK")
            return True

    await wait_until(stopped, 10, "a moment without a write")


async def _is(env, states) -> bool:
    return await _state(env) in states


async def _gone(one) -> bool:
    return not one.alive


async def _logged(one, folder, words) -> bool:
    path = folder / "var" / f"child-{one.pid}.jsonl"
    return path.exists() and words in path.read_text()
