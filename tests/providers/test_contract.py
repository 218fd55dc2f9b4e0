"""One contract for every adapter that pays over HTTP, under every fault, against a fake with a charge log."""

import asyncio
import logging
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from guardrails.money import Money
from providers.base import (
    Absent,
    AccessRefused,
    BadAsset,
    Found,
    Gone,
    InDoubt,
    Job,
    JobFailed,
    JobModerated,
    NotSent,
    Provider,
    ProviderError,
    Rejected,
    Status,
    Throttled,
    TooBig,
    Transient,
    Unsure,
)
from sandbox.video_api.fal import FakeFal
from sandbox.video_api.raw_faults import FAULTS, HANGS, Faults
from sandbox.video_api.server import FAKE_KEY, SIGNATURE, Content, FakeProviderServer, JobFate, PostOutcome
from tests.support.provider_cases import Case, number_of, outcome, unclaimed
from tests.support.waiting import Stopwatch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(30)]  # minutes in all: `make test-rest`

Build = Callable[..., Provider]
Faulty = Callable[[str], Awaitable[Faults]]


# The paid POST


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_costs_one_post_and_proves_nothing(
    case: Case, build: Build, faulty: Faulty, fault: str, caplog
) -> None:
    """One submit is one POST on one connection under any fault; what proves nothing is InDoubt."""
    caplog.set_level(logging.DEBUG)
    server = await faulty(fault)
    provider = build(server.url, timeout_s=0.5 if fault in HANGS else 20, vouched=True)
    got = await outcome(provider, case.request)
    await provider.close()
    assert type(got) is case.documented.get(fault, InDoubt), got
    assert server.connections == 1
    assert server.posts == (0 if fault == "drop_before_reading" else 1)
    assert FAKE_KEY not in caplog.text + str(got) + repr(got.__cause__) + repr(provider)
    if isinstance(got, Throttled) and fault == "429_retry_after":
        assert got.retry_after == 7


async def test_the_total_deadline_ends_a_hanging_post(case: Case, build: Build, faulty: Faulty) -> None:
    """The POST ends at `submit_timeout_s`, even if every single read was quick."""
    server = await faulty("slow_loris")
    provider = build(server.url, timeout_s=0.5, vouched=True)
    async with Stopwatch() as stopwatch:
        assert type(await outcome(provider, case.request)) is InDoubt
    assert stopwatch.seconds < 2


async def test_every_post_has_a_connection_of_its_own(case: Case, build: Build, faulty: Faulty) -> None:
    """No POST reuses a connection: an old one may die under it."""
    server = await faulty("200_no_id")
    provider = build(server.url, vouched=True)
    await outcome(provider, case.request)
    await outcome(provider, case.request)
    assert (server.posts, server.connections) == (2, 2)


async def test_a_refused_connection_is_proof(case: Case, build: Build) -> None:
    """A connection that was refused is NotSent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    provider = build(f"http://127.0.0.1:{port}", vouched=True)
    assert type(await outcome(provider, case.request)) is NotSent


async def test_a_name_that_does_not_resolve_is_proof(case: Case, build: Build, monkeypatch) -> None:
    """A DNS failure is NotSent."""

    async def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    provider = build("http://video.invalid", vouched=True)
    assert type(await outcome(provider, case.request)) is NotSent


async def test_a_cancelled_submit_says_so(case: Case, build: Build, faulty: Faulty) -> None:
    """A task cancelled after its POST ends as CancelledError: the caller treats it as an unknown outcome."""
    server = await faulty("hang")
    provider = build(server.url, vouched=True)
    task = asyncio.create_task(provider.submit(case.request))
    await server.posted.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.posts == 1


OUTCOMES: tuple[PostOutcome, ...] = (
    "accept",
    "charge_drop",
    "charge_hang",
    "charge_500",
    "charge_cut",
    "charge_html",
    "charge_202_no_id",
    "drop",
    "500",
    "429",
    "throttle_429",
    "refuse_400",
    "refuse_policy",
    "refuse_401",
    "refuse_402",
)


async def submitted(case: Case, provider: Provider) -> tuple[Job | None, object]:
    """Submit until it is not throttled, and reconcile twice if the outcome is unknown."""
    sent_at = time.time()
    got = await outcome(provider, case.request)
    while isinstance(got, Throttled):
        got = await outcome(provider, case.request)
    if not isinstance(got, InDoubt):
        return (got if isinstance(got, Job) else None), None
    found = await provider.reconcile(case.request, sent_at, unclaimed)
    again = await provider.reconcile(case.request, sent_at, unclaimed)
    assert again == found, "asking twice changes nothing"
    return (found.job if isinstance(found, Found) else None), found


@pytest.mark.parametrize("first", OUTCOMES)
async def test_one_key_and_at_most_one_charge_per_order(
    case: Case, build: Build, fake_provider: FakeProviderServer, first: PostOutcome
) -> None:
    """After any first POST: one key, one body, one seed, at most one charge, and no answer against it."""
    provider = build(fake_provider.url, timeout_s=0.6 if first == "charge_hang" else 20)
    fake_provider.script(first)
    job, found = await submitted(case, provider)
    posts, charges = fake_provider.posts(), fake_provider.charges()
    assert len({(post["digest"], post["headers"].get("idempotency-key")) for post in posts}) == 1
    assert len(posts) == 1 + (first == "throttle_429" and job is not None) or case.replays
    assert {str(charge["seed"]) for charge in charges} <= {str(case.request.seed), "None"}
    if job is not None:
        assert [charge["job"] for charge in charges] == [number_of(job)]
        assert fake_provider.net() == {number_of(job): 800_000}
    elif isinstance(found, Absent) or found is None or not case.absent_at_once:
        assert charges == []
    if isinstance(found, Unsure):
        assert not case.replays
        assert not (case.recognises and case.absent_at_once), "a list that shows our prompt is proof"


async def test_every_documented_refusal_costs_nothing_and_says_why(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """A refusal in the provider's own words is Rejected with its reason; nothing was charged."""
    for refusal, reason in case.refusals.items():
        fake_provider.script(refusal)
        got = await outcome(provider, case.request)
        assert isinstance(got, Rejected), refusal
        assert got.reason == reason
    assert fake_provider.charges() == []
    assert len(fake_provider.posts()) == len(case.refusals)


# The job


async def test_an_accepted_job_ends_as_a_file(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, tmp_path: Path
) -> None:
    """queued, running, succeeded, then a video that opens; its folder holds only it and its thumbnail."""
    fake_provider.polls = 2
    job = await provider.submit(case.request)
    phases = [(await provider.state(job.job_id)).phase for _ in range(3)]
    asset = await provider.fetch(job.job_id, tmp_path / "out" / "v.mp4")
    assert phases == ["queued", "running", "succeeded"]
    assert (asset.width, asset.height) == (64, 112)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"v.mp4", "v.jpg", "v.cover.jpg"}


async def test_an_unknown_status_is_unknown(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """An undocumented status word means: ask again later."""
    job = await provider.submit(case.request)
    fake_provider.jobs[number_of(job)].word = "CONTEMPLATING"
    assert replace(await provider.state(job.job_id), progress=None) == Status("unknown")


@pytest.mark.parametrize(("fate", "error"), [("fail", JobFailed), ("moderate", JobModerated)])
async def test_a_job_that_ends_badly_says_how(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, fate: JobFate, error: type[JobFailed]
) -> None:
    """A failed job is JobFailed, one that moderation took is JobModerated, however the GET says so."""
    fake_provider.fates.append(fate)
    job = await provider.submit(case.request)
    with pytest.raises(error) as caught:
        await provider.state(job.job_id)
    assert type(caught.value) is error
    if caught.value.billing == "unbilled":
        assert fake_provider.net() == {}


async def test_an_unknown_job_is_gone(provider: Provider) -> None:
    """The provider lost the job: Gone, for a person to decide on."""
    with pytest.raises(Gone):
        await provider.state("video_of_yesterday")


BAD_OUTPUTS: dict[Content, type[ProviderError]] = {
    "cut": Transient,
    "running_json": Transient,
    "503": Transient,
    "400": AccessRefused,
    "401": AccessRefused,
    "403": AccessRefused,
    "302": AccessRefused,
    "404": Gone,
    "410": Gone,
    "json": BadAsset,
    "html": BadAsset,
    "empty": BadAsset,
    "huge": TooBig,
}


@pytest.mark.parametrize("content", BAD_OUTPUTS)
async def test_a_bad_download_leaves_no_file(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, content: Content, tmp_path: Path
) -> None:
    """What is not a whole video leaves nothing on our disk; the next fetch brings it."""
    out = tmp_path / "out"
    fake_provider.content = content
    job = await provider.submit(case.request)
    await provider.state(job.job_id)
    with pytest.raises(ProviderError) as caught:
        await provider.fetch(job.job_id, out / "v.mp4")
    assert type(caught.value) is (BAD_OUTPUTS | case.bad_outputs)[content]
    assert SIGNATURE not in str(caught.value)
    assert not out.exists() or not list(out.iterdir())
    fake_provider.content = "video"
    assert (await provider.fetch(job.job_id, out / "v.mp4")).path.exists()


@pytest.mark.parametrize("to", ["host", "path"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_download_follows_redirects_without_the_key(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, status: int, to: str, tmp_path: Path
) -> None:
    """A paid video behind a redirect is fetched; the other host gets no key."""
    fake_provider.content, fake_provider.redirect = "redirect", (status, to)
    job = await provider.submit(case.request)
    await provider.state(job.job_id)
    assert (await provider.fetch(job.job_id, tmp_path / "v.mp4")).path.exists()
    asked = fake_provider.requests()
    assert "moved" in asked[-1]["query"]
    elsewhere = [one for one in asked if one["port"] != fake_provider.port]
    assert [one for one in elsewhere if "authorization" in one["headers"]] == []
    assert len(fake_provider.posts()) == 1


NEVER_SENT = {"traceparent", "tracestate", "baggage", "x-request-id", "prefer"}


async def test_secrets_reach_no_log_no_error_and_no_other_host(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, tmp_path: Path, caplog
) -> None:
    """The key goes to the API alone; neither it nor a signed URL is in a log or an error, even at DEBUG."""
    caplog.set_level(logging.DEBUG)
    half = FAKE_KEY.partition(":")[2] if isinstance(fake_provider, FakeFal) else FAKE_KEY  # id:secret
    fake_provider.hostile = f"bad key {FAKE_KEY} or {half}\n\x1b[31mpaid https://x.test/v?X-Amz-S={SIGNATURE}"
    fake_provider.script("refuse_400", "throttle_429")
    texts = [str(await outcome(provider, case.request)) for _ in range(2)]
    for number, fate in enumerate(("fail", "moderate", "video")):
        fake_provider.fates.append(fate)
        job = await provider.submit(replace(case.request, key=f"k{number}", seed=number))
        if fate == "video":
            await provider.state(job.job_id)
            await provider.fetch(job.job_id, tmp_path / "v.mp4")
            continue
        with pytest.raises(JobFailed) as caught:
            await provider.state(job.job_id)
        texts.append(str(caught.value))
    fake_provider.listing = False
    found = await provider.reconcile(case.request, time.time(), unclaimed)
    assert case.replays or isinstance(found, Unsure)
    assert all("\n" not in text for text in texts)
    texts += [str(found), repr(provider), caplog.text]
    secrets = (FAKE_KEY, half, SIGNATURE, "\x1b", "X-Amz")
    assert [text for text in texts for secret in secrets if secret in text] == []
    for request in fake_provider.requests():
        assert ("authorization" in request["headers"]) == (request["port"] == fake_provider.port)
        assert not request["headers"].keys() & NEVER_SENT


async def test_a_price_is_known_before_the_order(case: Case, build: Build) -> None:
    """A quote is exact, and what is not on offer is named together with what is."""
    provider = build("http://127.0.0.1:9")
    assert provider.quote(case.model, 8, "720x1280") == Money.parse("$0.80")
    for model, seconds, size in (("m", 8, "720x1280"), (case.model, 5, "720x1280"), (case.model, 8, "1x1")):
        with pytest.raises(ValueError, match=re.escape(case.model) + "|4, 8|720x1280"):
            provider.quote(model, seconds, size)
