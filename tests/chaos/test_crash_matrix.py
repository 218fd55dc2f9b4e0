"""Kill a real worker at each durable step; another continues. The oracle is the provider's charge log."""

import asyncio
import json
import signal
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial

import pytest

from guardrails.admission import Admission, RedisKeys
from guardrails.limits import Limits
from guardrails.money import ZERO
from guardrails.redis_client import connect
from ledger import reports
from ledger.guard_stores import LedgerCounters
from ledger.models import VideoState
from sandbox.telegram.base import SandboxError
from sandbox.telegram.faults import Fault
from sandbox.video_api.openai import FakeProvider
from telemetry.failpoints import FAILPOINTS, TAP_POINTS
from tests.chaos.soak_faults import STEP_S, plain_url, set_read_only
from tests.support import services
from tests.support.counters import held
from tests.support.crash_env import (
    BLIND,
    KEYED,
    LISTABLE,
    Column,
    ask_for_video,
    is_offer,
    latest,
    open_crash_env,
    wait_settled,
)
from tests.support.factories import PAID_TOOL
from tests.support.waiting import wait_until
from tests.support.worker_process import ProcessEnvironment, WorkerConfig, worker_process

# Before SUBMITTING nothing can be charged, and after ACCEPTED the job is known: between them it is unknown.
OUTCOME_UNKNOWN = {"submitting", "answered", "post_sent"}

_ON_POSTGRES = pytest.mark.skipif(not services.looked_up(), reason="PostgreSQL does not answer")
COLUMNS = {
    "keyed": (KEYED, ()),
    "listable": (LISTABLE, ()),
    "blind": (BLIND, ()),
    "listable_on_postgresql": (replace(LISTABLE, database="postgresql"), (_ON_POSTGRES,)),
}


def each_column():
    """Every kind of provider."""
    return [pytest.param(column, id=name, marks=marks) for name, (column, marks) in COLUMNS.items()]


def each_step():
    """Every step with every kind of provider. Where the outcome is known, the kinds do the same: there one is
    enough by day.
    """
    for point in FAILPOINTS:
        for name, (column, marks) in COLUMNS.items():
            by_day = name == "keyed" or point in OUTCOME_UNKNOWN
            at_night = () if by_day else (pytest.mark.nightly,)
            yield pytest.param(point, column, id=f"{point}-{name}", marks=(*marks, *at_night))


async def counted_by_redis(env: ProcessEnvironment) -> int:
    """Return how many orders Redis counts toward the user's quota, after a refresh from the ledger."""
    redis = connect(env.config.settings["redis_url"])
    keys = RedisKeys(env.config.settings["key_prefix"])
    try:
        await Admission(redis, LedgerCounters(env.ledger), keys, Limits(quota=5), PAID_TOOL).refresh()
        return (await held(redis, 1001, Limits(quota=5), keys)).takes
    finally:
        await redis.aclose()


async def assert_outcome(env: ProcessEnvironment, column: Column, point: str) -> None:
    """At most one charge; delivered, or held where a blind provider cannot be asked; the ledger agrees."""
    if point == "confirmed":  # its tap was not answered: its user taps again, next to a redelivery of it
        await _tap_until_handled(env)
    request, video = await wait_settled(env)
    wanted = column.ends if point in OUTCOME_UNKNOWN else VideoState.DELIVERED
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
    assert bool(shown) == (video.state is VideoState.DELIVERED), "the chat does not show what the ledger says"
    booked = await reports.net_charged(env.ledger, request.request_id)
    if video.state is VideoState.DELIVERED:
        assert booked.micros == sum(charged.values())
    sums = await reports.cost_summary(env.ledger)
    unpaid = video.state is VideoState.FAILED_UNPAID
    assert sums.paid + sums.held == (ZERO if unpaid else video.quote)
    assert await counted_by_redis(env) == (not unpaid)


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(("point", "column"), list(each_step()))
async def test_a_worker_is_killed_at_each_step(valkey, tmp_path, point, column):
    """SIGKILL at a durable step, a fresh worker after it: one charge at most, and the user is notified."""
    async with open_crash_env(tmp_path, valkey.connection_url, column, point) as env:
        with worker_process(replace(env.config, stop_at=point)) as first:
            await ask_for_video(env, point)
            await first.wait_at_failpoint()
            first.kill()
            with worker_process(env.config) as second:
                await assert_outcome(env, column, point)
                assert second.alive


@pytest.mark.slow
@pytest.mark.parametrize("column", each_column())
async def test_a_worker_is_killed_between_post_and_answer(valkey, tmp_path, column):
    """The provider has charged, no answer comes, the worker dies: adopted or held, never paid again."""
    async with open_crash_env(tmp_path, valkey.connection_url, column) as env:
        env.fake_provider.script("charge_hang")
        with worker_process(env.config) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await wait_until(lambda: _charged(env.fake_provider), 60, "the charge")
            first.kill()
            with worker_process(env.config) as second:
                await assert_outcome(env, column, "post_sent")
                assert len(env.fake_provider.charges()) == 1
                assert second.alive


@dataclass
class Change:
    """What is different when another worker continues."""

    config: WorkerConfig
    providers: Sequence[FakeProvider]
    heal: Callable[[], Awaitable[None]] | None = None


@asynccontextmanager
async def another_account(env: ProcessEnvironment) -> AsyncIterator[Change]:
    """New orders go to another account, and the first one drains."""
    folder = env.folder
    drain = folder / "drain.yaml"
    drain.write_text(json.dumps([{"provider": "openai_compat", "base_url": env.fake_provider.base_url}]))
    async with FakeProvider(folder / "second_provider", shape=env.fake_provider.shape) as second:
        config = replace(
            env.config,
            provider={**env.config.provider, "base_url": second.base_url},
            settings={**env.config.settings, "video_drain": drain},
        )
        yield Change(config, [env.fake_provider, second])


@asynccontextmanager
async def a_later_clock(env: ProcessEnvironment) -> AsyncIterator[Change]:
    """The ledger's clock was set five minutes forward."""
    yield Change(replace(env.config, clock_shift=STEP_S), [env.fake_provider])


@asynccontextmanager
async def a_read_only_ledger(env: ProcessEnvironment) -> AsyncIterator[Change]:
    """The ledger answers and refuses writes until it is healed."""
    url = plain_url(env.ledger.url)
    await set_read_only(url, "on")
    yield Change(env.config, [env.fake_provider], partial(set_read_only, url, "off"))


CHANGES = {"another account": another_account, "a later clock": a_later_clock}
ON_POSTGRES = {**CHANGES, "a read-only ledger": a_read_only_ledger}


def by_day_or_night(points, by_day):
    """Each point as a parameter; those that are not in `by_day` are left to `make nightly`."""
    return [one if one in by_day else pytest.param(one, marks=pytest.mark.nightly) for one in points]


@pytest.mark.slow
@pytest.mark.parametrize("change", ON_POSTGRES)
@pytest.mark.parametrize(
    "point",
    by_day_or_night([one for one in FAILPOINTS if one not in TAP_POINTS], ("submitting", "answered")),
)
async def test_the_world_is_another_when_a_worker_continues(valkey, tmp_path, point, change):
    """SIGKILL at a durable step, then another account, clock or ledger: one charge at most, and told."""
    if change in CHANGES:
        column = LISTABLE
    elif services.looked_up():
        column = replace(LISTABLE, database="postgresql")
    else:
        pytest.skip("PostgreSQL does not answer")
    async with open_crash_env(tmp_path, valkey.connection_url, column) as env:
        with worker_process(replace(env.config, stop_at=point)) as first:
            await ask_for_video(env)
            await first.wait_at_failpoint()
            first.kill()
        async with ON_POSTGRES[change](env) as world:
            with worker_process(world.config) as second:
                if world.heal is not None:
                    await asyncio.sleep(2)  # its writes are refused meanwhile
                    await world.heal()
                request, video = await wait_settled(env)
                assert second.alive
            charges = [line for one in world.providers for line in one.charges()]
            kept = {job: micros for one in world.providers for job, micros in one.net().items()}
            # Nothing was sent, and lists say so: unpaid. Every other step leads to the video.
            ends = {VideoState.DELIVERED, *([VideoState.FAILED_UNPAID] if point == "submitting" else [])}
            assert video.state in ends, f"{video.state}: {video.failure_detail}"
            assert len(charges) == (video.state is VideoState.DELIVERED)
            assert (await reports.net_charged(env.ledger, request.request_id)).micros == sum(kept.values())
            chat = env.api.user(1001).history()
            shown = [one for one in chat if one.media and f"#{request.short_id}" in one.text]
            assert bool(shown) == (video.state is VideoState.DELIVERED)


async def _charged(fake_provider: FakeProvider) -> bool:
    return bool(fake_provider.charges())


ENDED = {VideoState.HOLD, VideoState.FAILED_UNPAID, VideoState.DELIVERED}


async def _tap_until_handled(env) -> None:
    """Tap again every two seconds: Telegram forgets a tap that no bot fetches in its time."""
    offer = await env.api.user(1001, "Ana").wait_for(is_offer)
    make_it = offer.buttons[0][0].data or ""
    async with asyncio.timeout(280):
        while not await _is_tapped(env):
            with suppress(SandboxError):  # the buttons are gone: it was handled
                await env.api.user(1001, "Ana").tap(offer.id, make_it)
            await asyncio.sleep(2)


async def _is_tapped(env) -> bool:
    return await _state(env) is not VideoState.AWAITING_APPROVAL


async def _state(env):
    found = await latest(env)
    return None if found is None or found[1] is None else found[1].state


@pytest.mark.slow
async def test_an_owner_that_was_paused_before_the_post_sends_nothing(valkey, tmp_path):
    """SIGSTOP between CAS and POST, past every deadline; another settles it; SIGCONT: no POST, no refund."""
    async with open_crash_env(tmp_path, valkey.connection_url, LISTABLE) as env:
        config = replace(env.config, stop_at="submitting", resumes=True)
        with worker_process(config) as owner:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await owner.wait_at_failpoint()
            await freeze(owner, tmp_path / "ledger.db")
            with worker_process(replace(env.config, parts="worker")) as other:
                await wait_until(lambda: _is(env, {VideoState.FAILED_UNPAID}), 60, "the order to be settled")
                env.config.marker.unlink()  # lets the owner continue
                owner.send(signal.SIGCONT)
                await wait_until(lambda: _logged(owner, tmp_path, "too late to send"), 60, "its log line")
                assert other.alive
            assert env.fake_provider.posts() == []
            assert await _state(env) is VideoState.FAILED_UNPAID


@pytest.mark.slow
@pytest.mark.parametrize("column", [pytest.param(BLIND, id="blind"), pytest.param(LISTABLE, id="listable")])
async def test_the_late_job_of_a_paused_worker_is_adopted(valkey, tmp_path, column):
    """SIGSTOP after the POST, past every deadline; another settles; SIGCONT: the late job is adopted."""
    async with open_crash_env(tmp_path, valkey.connection_url, column) as env:
        config = replace(env.config, stop_at="answered", resumes=True)
        with worker_process(config) as owner:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await owner.wait_at_failpoint()
            await freeze(owner, tmp_path / "ledger.db")
            with worker_process(replace(env.config, parts="worker")):
                await wait_until(lambda: _is(env, ENDED), 60, "another worker to settle it")
                env.config.marker.unlink()
                owner.send(signal.SIGCONT)
                await wait_until(lambda: _is(env, {VideoState.DELIVERED}), 60, "the late job to be delivered")
            request, _ = await wait_settled(env)
            assert len(env.fake_provider.charges()) == 1
            assert (await reports.net_charged(env.ledger, request.request_id)).micros == sum(
                env.fake_provider.net().values()
            )


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    by_day_or_night(
        ["admitted", "ordered", "submitting", "answered", "polling", "video_sent"], ("submitting", "answered")
    ),
)
async def test_a_worker_that_is_asked_to_stop_leaves_a_clean_state(valkey, tmp_path, point):
    """SIGTERM at a step: it ends within the grace time; another finishes the request, with one POST."""
    async with open_crash_env(tmp_path, valkey.connection_url, LISTABLE) as env:
        with worker_process(replace(env.config, stop_at=point, resumes=True)) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await first.wait_at_failpoint()
            first.send(signal.SIGTERM)
            env.config.marker.unlink()  # the step continues while the process is ending
            await wait_until(lambda: _gone(first), 60, "its end")
            assert first.exit_code == 0
            with worker_process(env.config):
                _, video = await wait_settled(env)
                assert video.state is VideoState.DELIVERED
                assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


@pytest.mark.slow
@pytest.mark.parametrize("column", [pytest.param(BLIND, id="blind"), pytest.param(LISTABLE, id="listable")])
async def test_a_worker_that_is_asked_to_stop_while_it_posts(valkey, tmp_path, column):
    """SIGTERM while the provider has charged and does not answer: adopted or held, and never sent again."""
    async with open_crash_env(tmp_path, valkey.connection_url, column) as env:
        env.fake_provider.script("charge_hang")
        with worker_process(env.config) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await wait_until(lambda: _charged(env.fake_provider), 60, "the charge")
            first.send(signal.SIGTERM)
            await wait_until(lambda: _gone(first), 60, "its end")
            assert first.exit_code == 0
        with worker_process(env.config):
            _, video = await wait_settled(env)
            assert video.state is column.ends
            assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_a_worker_that_is_asked_to_stop_while_it_uploads(valkey, tmp_path):
    """SIGTERM while Telegram takes the video and does not answer: another delivers it; nothing is paid."""
    async with open_crash_env(tmp_path, valkey.connection_url, LISTABLE) as env:
        env.api.fail("editMessageMedia", Fault.hang())
        with worker_process(env.config) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await env.api.calls.wait_for(lambda call: call.method == "editMessageMedia")
            first.send(signal.SIGTERM)
            await wait_until(lambda: _gone(first), 60, "its end")
            assert first.exit_code == 0
        env.api.heal()
        with worker_process(env.config):
            await assert_outcome(env, LISTABLE, "fetched")
            assert len(env.fake_provider.posts()) == 1


async def freeze(one, database) -> None:
    """SIGSTOP, but not inside a write: a stopped process that holds SQLite's write lock stops all others."""

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
