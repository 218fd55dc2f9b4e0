"""`poll` brings a job to its end: the video is downloaded, or the booking is right and the user is
notified.
"""

from dataclasses import replace

import pytest

from evals.environment import PRICE
from guardrails.money import Money
from ledger import due_work
from ledger.models import VideoState
from providers.base import BadAsset, JobFailed, JobLinks, Status, Transient
from tests.support.counters import Held, held_by

V = VideoState
PATIENT = {"overdue_s": 3000.0}
"""Tests move the store's clock; the job is not overdue meanwhile."""


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
    assert (await env.video(request)).failure == ("no_answer" if content == "cut" else "bad_asset")
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
    assert (video.state, video.failure) == (V.HOLD, "overdue" if why == "slow" else "no_answer")


async def polled(env, request: str, *after_s: int) -> list[str]:
    """Poll after each of these pauses, on the store's clock; return the reasons on HOLD, or the states."""
    found = []
    for seconds in after_s:
        env.ledger.shift += seconds
        await env.poll(request)
        video = await env.video(request)
        found.append(str(video.failure if video.state is V.HOLD else video.state))
    return found


async def test_a_job_that_is_gone_is_held(pipeline_env):
    """A charged job that the provider does not know is held after three answers and a minute, not before."""
    env = await pipeline_env(quick=PATIENT)
    request = await env.accepted()
    env.fake_provider.jobs.clear()
    assert await polled(env, request, 0, 20, 20, 21) == ["ACCEPTED"] * 3 + ["gone"]
    assert await env.paid_micros() == PRICE.micros


async def test_two_answers_are_too_few_however_late(pipeline_env):
    """A worker that was paused between two answers has not seen the job missing for a minute."""
    env = await pipeline_env(quick=PATIENT)
    request = await env.accepted()
    env.fake_provider.jobs.clear()
    assert await polled(env, request, 0, 300, 0) == ["ACCEPTED", "ACCEPTED", "gone"]


@pytest.mark.representative
@pytest.mark.parametrize("at", ["state", "content"])
async def test_an_early_404_costs_no_video(pipeline_env, at):
    """A read replica that is behind, for the job or its file: the video is delivered all the same."""
    env = await pipeline_env(quick=PATIENT, polls=0, shape="openai")
    request = await env.accepted()
    jobs = dict(env.fake_provider.jobs)
    if at == "state":
        env.fake_provider.jobs.clear()
    else:
        env.fake_provider.content = "404"
    assert await polled(env, request, 0, 61) == ["ACCEPTED"] * 2
    env.fake_provider.jobs.update(jobs)
    env.fake_provider.content = "video"
    assert await polled(env, request, 1) == ["SUCCEEDED"]


async def test_a_job_that_was_there_meanwhile_is_counted_again(pipeline_env):
    """Denials count in a row: a state in between ends the row."""
    env = await pipeline_env(quick=PATIENT, polls=10**6)
    request = await env.accepted()
    jobs = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    await polled(env, request, 0, 61)
    env.fake_provider.jobs.update(jobs)
    await polled(env, request, 1)
    assert (await env.video(request)).denials == 0
    env.fake_provider.jobs.clear()
    assert await polled(env, request, 61, 59) == ["ACCEPTED"] * 2


async def test_a_denial_that_is_meant_holds_at_once(pipeline_env):
    """410 says that the file was removed: another look would not bring it."""
    env = await pipeline_env(quick=PATIENT, polls=0, shape="openai", content="410")
    request = await env.accepted()
    assert await polled(env, request, 0) == ["gone"]


@pytest.mark.parametrize("content", ["400", "401", "403"])
async def test_a_refused_download_is_held_under_its_name(pipeline_env, content):
    """A download that is refused for five minutes is held long before it is overdue, by its own name."""
    env = await pipeline_env(quick=PATIENT, polls=0, shape="openai", content=content)
    request = await env.accepted()
    assert await polled(env, request, 0, 100, 100, 101) == ["ACCEPTED"] * 3 + ["access_refused"]
    env.fake_provider.content = "video"  # the key was mended
    env.ledger.shift += 61
    await env.run_due("late_check")
    assert await polled(env, request, 1) == ["SUCCEEDED"]


@pytest.mark.parametrize("word", ["cancelled", "EXPIRED"])
async def test_a_named_bad_end_ends_at_once(pipeline_env, word):
    """It is not polled until it is overdue, and the reason says what the provider called it."""
    env = await pipeline_env(quick=PATIENT, shape="openai", compare=False)
    request = await env.accepted()
    for job in env.fake_provider.jobs.values():
        job.word = word
    await env.poll(request)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.FAILED_PAID, word.lower())
    assert await env.paid_micros() == PRICE.micros


async def test_a_failed_job_is_booked_at_its_own_price(pipeline_env):
    """A failed job that names a price is charged that price, whatever the dialect says of failed jobs."""
    env = await pipeline_env(quick=PATIENT, compare=False)
    request = await env.accepted()

    async def state(job_id):
        raise JobFailed("x", "billed", "failed", Money.parse("$0.30"))

    provider_of(env).state = state
    await env.poll(request)
    assert (await env.video(request)).state is V.FAILED_PAID
    assert await env.paid_micros() == 300_000


async def test_the_addresses_of_a_job_survive_a_restart(pipeline_env, monkeypatch):
    """What the POST's answer named is stored with the order and handed to every later question."""
    env = await pipeline_env(quick=PATIENT, compare=False)
    provider, links, asked = provider_of(env), JobLinks("https://h/r/1/status", "https://h/r/1"), []
    real = provider.submit

    async def submit(video_request):
        return replace(await real(video_request), links=links)

    async def state(job_id, links=None):
        asked.append(links)
        return Status("succeeded")

    async def fetch(job_id, into, links=None):
        asked.append(links)
        raise Transient("later")

    monkeypatch.setattr(provider, "submit", submit)
    monkeypatch.setattr(provider, "state", state)
    monkeypatch.setattr(provider, "fetch", fetch)
    request = await env.accepted()
    await env.poll(request)
    assert asked == [links, links]


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
