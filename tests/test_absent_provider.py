"""VIDEO_PROVIDER is changed while orders are under way: none is sent elsewhere, lost, or forgotten."""

from dataclasses import replace

import pytest
from backstage import Backstage
from lives import put

from app.doctor import run_checks
from app.settings import read_settings
from ledger import reports, transitions
from ledger.models import VideoState
from ledger.money import ZERO
from worker.reconcile import check_late_charges
from worker.sweeper import reconcile_all, sweep

V = VideoState


def without_provider(stage: Backstage, absent_s: float = 300) -> Backstage:
    """The same house after a restart with another provider configured."""
    pace = replace(stage.studio.pace, absent_s=absent_s)
    return replace(stage, studio=replace(stage.studio, providers={}, pace=pace))


async def work(stage: Backstage) -> None:
    await sweep(stage.studio)
    await reconcile_all(stage.studio)
    await stage.do_asked()
    await check_late_charges(stage.studio)


async def test_a_queued_order_waits_for_its_own_provider(backstage):
    """It is sent by nobody else; configured again in time, its provider makes it, for one charge."""
    stage = await backstage()
    request = await stage.ordered()
    await work(without_provider(stage))
    assert (await stage.video(request)).state is V.QUEUED
    assert stage.peer.posts() == []
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


async def test_a_queued_order_ends_with_its_money_back(backstage):
    """Its provider does not come back: it expires in words, nothing is held, and the user may order again."""
    stage = await backstage(changes={"cooldown": "10m"})
    request = await stage.ordered()
    stage.ledger.shift += 1801
    await work(without_provider(stage))
    assert (await stage.video(request)).state is V.EXPIRED
    assert ("tell", request) in stage.done
    sums = await reports.cost_summary(stage.ledger)
    assert (sums.paid, sums.held) == (ZERO, ZERO)
    await stage.ordered()


@pytest.mark.parametrize("state", [V.ACCEPTED, V.IN_DOUBT])
async def test_what_may_be_paid_is_held(backstage, state):
    """A job, or a doubt, of a provider that is gone waits a while for a process that knows it; then a person
    has to look, the money stays, and the user is told.
    """
    stage = await backstage()
    request = await started(stage, state)
    lost = without_provider(stage)
    await work(lost)
    assert (await stage.video(request)).state is state
    stage.ledger.shift += 301
    await work(lost)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.HOLD, "no_provider")
    await work(lost)
    assert ("tell", request) in stage.done
    sums = await reports.cost_summary(stage.ledger)
    assert sums.paid + sums.held == video.quote
    await settle_as_paid(stage, request)


async def started(stage: Backstage, state: VideoState) -> str:
    if state is V.IN_DOUBT:
        stage.peer.script("charge_drop")
    request = await stage.ordered()
    await stage.shoot(request)
    assert (await stage.video(request)).state is state
    return request


async def settle_as_paid(stage: Backstage, request: str) -> None:
    """The provider is configured again: the hold is resolved as ever, and the video made."""
    job, *_ = stage.peer.net()
    moved = await transitions.resolve_hold(
        stage.ledger, request, transitions.parse_resolution("paid", job), "law"
    )
    assert moved.state is V.ACCEPTED
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


async def test_a_held_job_ends_by_itself(backstage):
    """Configured again within a day, the provider is asked about the job that was held, and it is made."""
    stage = await backstage()
    request = await started(stage, V.ACCEPTED)
    await work(without_provider(stage, absent_s=0))
    assert (await stage.video(request)).state is V.HOLD
    stage.ledger.shift += 61

    for _ in range(3):  # the peer's job runs while it is asked about
        await check_late_charges(stage.studio)
        stage.ledger.shift += 90
    assert await stage.deliver(request) is V.SUCCEEDED
    assert len(stage.peer.charges()) == 1


async def test_orders_of_nobody_starve_no_late_look(backstage):
    """Many ended orders of a provider that is gone do not use up the looks at those that can be asked."""
    stage = await backstage(shape="openai", quick={"settle_s": 0.0, "absent_gap_s": 0.0})
    pace = replace(stage.studio.pace, late_most=1)
    studio = replace(stage.studio, pace=pace)
    stage.peer.script("refuse_400", "charge_drop")
    strange, late = await stage.ordered(), await stage.ordered(user_id=8)
    await stage.shoot(strange)
    await stage.shoot(late)
    await put(stage.ledger, strange, V.FAILED_UNPAID, provider="long_gone")
    await put(stage.ledger, late, V.HOLD)
    stage.ledger.shift += 61
    await check_late_charges(studio)
    assert (await stage.video(late)).state is V.ACCEPTED


async def test_the_doctor_counts_them(backstage, tmp_path):
    """What is under way at a provider that is not configured is a finding; else it is well."""
    stage = await backstage()
    await stage.ordered()

    async def found(provider: str):
        settings = read_settings(
            _env_file=None, var_dir=tmp_path / "var", database_url=stage.ledger.url.render_as_string(False),
            video_provider=provider,
        )  # fmt: skip
        return next(one for one in await run_checks(settings) if one.part == "orders")

    strange, own = await found("local"), await found("openai_compat")
    assert (strange.health, own.health) == ("look", "well")
    assert "1 of openai_compat" in strange.words
    assert "VIDEO_PROVIDER" in strange.words
