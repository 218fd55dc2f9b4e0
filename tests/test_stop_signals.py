"""A worker that is stopped, for a while or for good, at the worst moments. The oracle is the charge log."""

import signal
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from crew import member
from test_crash_matrix import BLIND, LISTABLE, _charged, _law, a_stage
from waiting import wait_until

from ledger import reports
from ledger.models import VideoState
from sandbox.telegram.faults import Fault

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
