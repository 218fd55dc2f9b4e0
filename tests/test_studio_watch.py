"""`watch` follows a job to its end: the video is here, or the money is right and somebody is told."""

import asyncio

import pytest

from evals.environment import PRICE
from ledger.models import VideoState
from ledger.money import Money
from providers.base import BadAsset, Status, Transient

V = VideoState


def provider_of(stage):
    return stage.studio.providers["openai_compat"]


@pytest.mark.parametrize("fate", ["fail", "moderate"])
@pytest.mark.parametrize(
    ("shape", "bills", "state", "paid"),
    [("openai", True, V.FAILED_PAID, PRICE.micros), ("inworld", False, V.FAILED_UNPAID, 0)],
    ids=["billed", "unbilled"],
)
async def test_a_failed_job_leaves_the_money_right(backstage, fate, shape, bills, state, paid):
    """Billed: the charge stands, the quota is back and the cooldown stays. Unbilled: all of it is back."""
    stage = await backstage(shape=shape, bills_failed=bills, bills_moderated=bills, hostile="call it 5 times")
    stage.peer.fates.append(fate)
    request = await stage.accepted()
    assert await stage.deliver(request) is state
    assert (await stage.video(request)).failure == ("moderated" if fate == "moderate" else "failed")
    assert await stage.paid() == paid
    assert ("tell", request) in stage.queue.asked + stage.done
    kinds = {key.rpartition(":")[2] for key in await stage.reserved()}
    assert "takes" not in kinds
    await stage.studio.admission.refresh()
    kinds = {key.rpartition(":")[2] for key in await stage.reserved()}
    assert ("starts" in kinds) is bool(paid)


@pytest.mark.parametrize("content", ["html", "cut", "json", "empty"])
async def test_a_bad_file_is_fetched_again_then_held(backstage, content):
    """What is no video is asked for three times; then a person looks. The charge stands."""
    stage = await backstage(content=content, quick={"overdue_s": 1.0})
    request = await stage.accepted()
    assert await stage.deliver(request) is V.HOLD
    assert (await stage.video(request)).failure in ("bad_asset", "overdue")
    assert not list(stage.studio.media_dir.glob("*.mp4"))


async def test_a_file_that_is_whole_the_next_time_is_delivered(backstage, monkeypatch):
    """Two questions without an answer and one bad file are no reason to give up: the fourth time it is
    here.
    """
    stage = await backstage()
    request = await stage.accepted()
    real, errors = (
        provider_of(stage).fetch,
        [Transient("503"), Transient("503"), BadAsset("cut"), OSError(28)],
    )

    async def fetch(job_id, into):
        if errors:
            raise errors.pop(0)
        return await real(job_id, into)

    monkeypatch.setattr(provider_of(stage), "fetch", fetch)
    assert await stage.deliver(request) is V.SUCCEEDED


@pytest.mark.parametrize("why", ["slow", "silent", "no output"])
async def test_an_overdue_job_is_held(backstage, monkeypatch, why):
    """A job that is not done in time waits for a person: also if the provider is silent, or its file is not
    there.
    """
    stage = await backstage(quick={"overdue_s": 0.3})
    request = await stage.accepted()

    async def away(*_):
        raise Transient("503")

    if why == "slow":
        stage.peer.polls = 10**6
    else:
        monkeypatch.setattr(provider_of(stage), "state" if why == "silent" else "fetch", away)
    await asyncio.wait_for(stage.watch(request), 5)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.HOLD, "overdue")


async def test_a_job_that_is_gone_is_held(backstage):
    """A provider that no longer knows a job it charged for: a person settles it."""
    stage = await backstage()
    request = await stage.accepted()
    stage.peer.jobs.clear()
    await stage.watch(request)
    video = await stage.video(request)
    assert (video.state, video.failure) == (V.HOLD, "gone")


@pytest.mark.parametrize("billed", ["$0.50", "$0.80", "$1.20"])
async def test_the_provider_s_own_figure_is_what_is_booked(backstage, monkeypatch, billed):
    """A figure that comes with the finished job settles the price: the difference is credited or charged."""
    stage = await backstage(books=False)
    request = await stage.accepted()

    async def state(job_id):
        return Status("succeeded", 100, Money.parse(billed))

    monkeypatch.setattr(provider_of(stage), "state", state)
    stage.peer.polls = 0
    for job in stage.peer.jobs.values():
        job.word = "completed"
    await stage.watch(request)
    assert (await stage.video(request)).state is V.SUCCEEDED
    assert await stage.paid() == Money.parse(billed).micros


async def test_a_stranger_s_text_never_breaks_the_books(backstage, monkeypatch):
    """Words of a provider that no column can hold are kept in a form that it can."""
    stage = await backstage()
    request = await stage.accepted()

    async def state(job_id):
        raise BadAsset("odd \ud800 \0 words" + "x" * 10_000)

    monkeypatch.setattr(provider_of(stage), "state", state)
    await stage.watch(request)
    detail = (await stage.video(request)).failure_detail
    assert detail.startswith("odd ?  words")
    assert len(detail) <= 500
