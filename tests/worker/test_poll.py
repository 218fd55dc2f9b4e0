"""`poll` brings a job to its end: the video is downloaded, or the booking is right and the user is
notified.
"""

import pytest

from evals.environment import PRICE
from guardrails.money import Money
from ledger import due_work
from ledger.models import VideoState
from providers.base import BadAsset, Status, Transient
from tests.support.counters import Held, held_by

V = VideoState


def provider_of(env):
    return env.provider


@pytest.mark.parametrize("fate", ["fail", "moderate"])
@pytest.mark.parametrize(
    ("shape", "bills", "state", "paid"),
    [("openai", True, V.FAILED_PAID, PRICE.micros), ("inworld", False, V.FAILED_UNPAID, 0)],
    ids=["billed", "unbilled"],
)
async def test_failed_job_is_booked_as_billed(pipeline_env, fate, shape, bills, state, paid):
    """Billed: the charge remains, the quota is released and the cooldown stays. Unbilled: all is released."""
    env = await pipeline_env(
        shape=shape, bills_failed=bills, bills_moderated=bills, hostile="call it 5 times"
    )
    env.fake_provider.fates.append(fate)
    request = await env.accepted()
    assert await env.finish_video(request) is state
    assert (await env.video(request)).failure == ("moderated" if fate == "moderate" else "failed")
    assert await env.paid_micros() == paid
    assert ("notify", request) in env.queue.asked + env.done
    assert (await held_by(env.worker.admission, 7)).takes == 0
    await env.worker.admission.refresh()
    assert await held_by(env.worker.admission, 7) == Held(0, 0, paid)


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("content", ["html", "cut", "json", "empty"])
async def test_bad_file_is_downloaded_again_then_held(pipeline_env, content):
    """A file that is not a video is downloaded three times; then the order is held and the charge remains."""
    env = await pipeline_env(content=content, quick={"overdue_s": 1.0})
    request = await env.accepted()
    assert await env.finish_video(request) is V.HOLD
    assert (await env.video(request)).failure in ("bad_asset", "overdue")
    assert not list(env.worker.media_dir.glob("*.mp4"))


@pytest.mark.slow
async def test_file_that_is_complete_later_is_delivered(pipeline_env, monkeypatch):
    """Two polls without an answer and one bad file do not end the job: the fourth poll delivers it."""
    env = await pipeline_env()
    request = await env.accepted()
    real, errors = (
        provider_of(env).fetch,
        [Transient("503"), Transient("503"), BadAsset("cut"), OSError(28)],
    )

    async def fetch(job_id, into):
        if errors:
            raise errors.pop(0)
        return await real(job_id, into)

    monkeypatch.setattr(provider_of(env), "fetch", fetch)
    assert await env.finish_video(request) is V.SUCCEEDED


@pytest.mark.representative
@pytest.mark.parametrize("why", ["slow", "silent", "no output"])
async def test_an_overdue_job_is_held(pipeline_env, monkeypatch, why):
    """A job that is not finished in time is held, also if the provider does not answer or its file is not a
    video.
    """
    env = await pipeline_env(quick={"overdue_s": 0.3})
    request = await env.accepted()

    async def fail(*_):
        raise Transient("503")

    if why == "slow":
        env.fake_provider.polls = 10**6
    else:
        monkeypatch.setattr(provider_of(env), "state" if why == "silent" else "fetch", fail)
    assert await env.finish_video(request) is V.HOLD
    video = await env.video(request)
    assert (video.state, video.failure) == (V.HOLD, "overdue")


async def test_a_job_that_is_gone_is_held(pipeline_env):
    """A job that was charged and that the provider no longer knows is held."""
    env = await pipeline_env()
    request = await env.accepted()
    env.fake_provider.jobs.clear()
    await env.poll(request)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.HOLD, "gone")


@pytest.mark.parametrize("billed", ["$0.50", "$0.80", "$1.20"])
async def test_price_named_by_the_provider_is_booked(pipeline_env, monkeypatch, billed):
    """A price that comes with the finished job is final: the difference is refunded or charged."""
    env = await pipeline_env(compare=False)
    request = await env.accepted()

    async def state(job_id):
        return Status("succeeded", 100, Money.parse(billed))

    monkeypatch.setattr(provider_of(env), "state", state)
    env.fake_provider.polls = 0
    for job in env.fake_provider.jobs.values():
        job.word = "completed"
    await env.poll(request)
    assert (await env.video(request)).state is V.SUCCEEDED
    assert await env.paid_micros() == Money.parse(billed).micros


@pytest.mark.slow
async def test_provider_text_never_breaks_a_write(pipeline_env, monkeypatch):
    """Provider text that no column can hold is stored in a form that it can."""
    env = await pipeline_env()
    request = await env.accepted()

    async def state(job_id):
        raise BadAsset("odd \ud800 \0 words" + "x" * 10_000)

    monkeypatch.setattr(provider_of(env), "state", state)
    assert await env.finish_video(request) is V.HOLD
    detail = (await env.video(request)).failure_detail
    assert detail.startswith("odd ?  words")
    assert len(detail) <= 500


async def test_an_answer_that_outlives_its_lease_is_used(pipeline_env, monkeypatch):
    """Another worker claims the job while the provider answers: the video is downloaded all the same."""
    env = await pipeline_env()
    request = await env.accepted()
    real = provider_of(env).state

    async def slow(job_id):
        status = await real(job_id)
        if status.phase == "succeeded":
            await due_work.claim_video(env.ledger, request, V.ACCEPTED, 60)
        return status

    monkeypatch.setattr(provider_of(env), "state", slow)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert (await env.video(request)).bad_assets == 0
