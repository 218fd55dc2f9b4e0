"""One contract for the POST of every adapter that speaks to a company over HTTP, under every fault."""

import asyncio
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from guardrails.money import Money
from providers.base import (
    Absent,
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
    Reconciled,
    Rejected,
    Status,
    Throttled,
    Transient,
    Unsure,
)
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY, SIGNATURE, Content, PostOutcome
from tests.support.provider_cases import CONTRACT_REQUEST, Case, outcome, unclaimed
from sandbox.video_api.raw_faults import FAULTS, HANGS, Faults

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_costs_one_post_and_leaves_doubt(case: Case, fault: str, caplog) -> None:
    """One submit is one POST on one connection, whatever answers; what proves nothing is InDoubt."""
    caplog.set_level(logging.DEBUG)
    async with Faults(fault) as stub:
        provider = case.build(stub.base_url, timeout_s=0.5 if fault in HANGS else 1.5, vouched=True)
        got = await outcome(provider)
        await provider.close()
    expected = case.after_429 if fault == "429_retry_after" else InDoubt
    assert type(got) is expected, got
    assert stub.connections == 1
    assert stub.posts == (0 if fault == "drop_before_reading" else 1)
    assert FAKE_KEY not in caplog.text + str(got) + repr(got.__cause__) + repr(provider)
    if isinstance(got, Throttled):
        assert got.retry_after == 7


async def test_the_total_deadline_ends_a_hanging_post(case: Case) -> None:
    """The POST has ended when `submit_timeout_s` is over, even if every single read was quick."""
    async with Faults("slow_loris") as stub:
        provider = case.build(stub.base_url, timeout_s=0.5, vouched=True)
        began = time.monotonic()
        assert type(await outcome(provider)) is InDoubt
        assert time.monotonic() - began < 2
        await provider.close()


async def test_every_post_has_a_connection_of_its_own(case: Case) -> None:
    """No POST goes out on a connection that was used before: an old one may die under it."""
    async with Faults("200_no_id") as stub:
        provider = case.build(stub.base_url, vouched=True)
        await outcome(provider)
        await outcome(provider)
        await provider.close()
    assert (stub.posts, stub.connections) == (2, 2)


async def test_nobody_listening_is_proof(case: Case) -> None:
    """A connection that was refused is NotSent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    provider = case.build(f"http://127.0.0.1:{port}/v1", vouched=True)
    assert type(await outcome(provider)) is NotSent
    await provider.close()


async def test_a_name_that_does_not_resolve_is_proof(case: Case, monkeypatch) -> None:
    """A DNS failure is NotSent."""

    async def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    provider = case.build("http://video.invalid/v1", vouched=True)
    assert type(await outcome(provider)) is NotSent
    await provider.close()


async def test_a_cancelled_submit_says_so(case: Case) -> None:
    """A cancelled task ends as CancelledError, after its POST went out: the caller treats it as in doubt."""
    async with Faults("hang") as stub:
        provider = case.build(stub.base_url, vouched=True)
        task = asyncio.create_task(provider.submit(CONTRACT_REQUEST))
        await stub.posted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await provider.close()
    assert stub.posts == 1


async def settle(
    case: Case, provider: Provider, fake_provider: FakeProvider
) -> tuple[Job | None, Reconciled | None]:
    """Live one order as the studio would: replay refusals that cost nothing, ask about doubt, never else."""
    sent_at = time.time()
    for _ in range(5):
        got = await outcome(provider)
        if isinstance(got, Job):
            return got, None
        if isinstance(got, InDoubt):
            found = await provider.reconcile(CONTRACT_REQUEST, sent_at, unclaimed)
            again = await provider.reconcile(CONTRACT_REQUEST, sent_at, unclaimed)
            assert again == found, "asking twice changes nothing"
            return (found.job if isinstance(found, Found) else None), found
        if isinstance(got, Rejected):
            return None, None
    raise AssertionError("five refusals")


LIVES: tuple[PostOutcome, ...] = (
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
)


@pytest.mark.parametrize("first", LIVES)
async def test_one_key_and_at_most_one_charge_over_a_life(
    case: Case, first: PostOutcome, tmp_path: Path
) -> None:
    """Whatever becomes of the first POST: one key, one body, at most one charge, and no word against it."""
    async with FakeProvider(tmp_path, shape=case.shape) as fake_provider:
        provider = case.build(fake_provider.base_url, timeout_s=0.6 if first == "charge_hang" else 1.5)
        fake_provider.script(first)
        job, found = await settle(case, provider, fake_provider)
        await provider.close()
    charges = fake_provider.charges()
    assert len(charges) <= 1
    assert (
        len({(post["digest"], post["headers"].get("idempotency-key")) for post in fake_provider.posts()}) == 1
    )
    assert len(fake_provider.posts()) == 1 or case.replays or first == "throttle_429"
    if job is not None:
        assert [charge["job"] for charge in charges] == [job.job_id]
        assert fake_provider.net() == {job.job_id: 800_000}
    elif isinstance(found, Absent) or found is None:
        assert charges == []
    if isinstance(found, Unsure):
        assert not case.replays
        assert not case.recognises, "a list that shows our prompt leaves no doubt"


@pytest.mark.parametrize(
    ("first", "reason"), [("refuse_400", "invalid"), ("refuse_policy", "policy"), ("refuse_401", "auth")]
)
async def test_a_documented_refusal_costs_nothing_and_says_why(
    case: Case, first: PostOutcome, reason: str, tmp_path: Path
) -> None:
    """A refusal in the provider's own words is Rejected with its reason; nothing was charged."""
    async with FakeProvider(tmp_path, shape=case.shape) as fake_provider:
        fake_provider.script(first)
        provider = case.build(fake_provider.base_url)
        got = await outcome(provider)
        await provider.close()
    assert isinstance(got, Rejected)
    assert got.reason == reason
    assert fake_provider.charges() == []


async def test_an_accepted_job_ends_as_a_file(case: Case, tmp_path: Path) -> None:
    """queued, running, succeeded, and then a video that opens, with nothing beside it but its thumbnail."""
    async with FakeProvider(tmp_path / "books", shape=case.shape, polls=2) as fake_provider:
        provider = case.build(fake_provider.base_url)
        job = await provider.submit(CONTRACT_REQUEST)
        phases = [(await provider.state(job.job_id)).phase for _ in range(3)]
        asset = await provider.fetch(job.job_id, tmp_path / "out" / "v.mp4")
        await provider.close()
    assert phases == ["queued", "running", "succeeded"]
    assert (asset.width, asset.height) == (64, 112)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"v.mp4", "v.jpg"}


async def test_an_unknown_status_is_unknown(case: Case, tmp_path: Path) -> None:
    """A status word that nobody documented means: ask again later."""
    async with FakeProvider(tmp_path, shape=case.shape) as fake_provider:
        provider = case.build(fake_provider.base_url)
        job = await provider.submit(CONTRACT_REQUEST)
        fake_provider.jobs[job.job_id].word = "contemplating"
        assert await provider.state(job.job_id) == Status("unknown", progress=0)
        await provider.close()


@pytest.mark.parametrize(("fate", "error"), [("fail", JobFailed), ("moderate", JobModerated)])
async def test_a_job_that_ends_badly_says_how(
    case: Case, fate: str, error: type[JobFailed], tmp_path: Path
) -> None:
    """A failed job is JobFailed, one that moderation took is JobModerated, whatever way the GET says so."""
    async with FakeProvider(tmp_path, shape=case.shape, polls=0) as fake_provider:
        fake_provider.fates.append(fate)
        provider = case.build(fake_provider.base_url)
        job = await provider.submit(CONTRACT_REQUEST)
        with pytest.raises(error) as caught:
            await provider.state(job.job_id)
        await provider.close()
    assert type(caught.value) is error
    if caught.value.billing == "unbilled":
        assert fake_provider.net() == {}


async def test_a_job_nobody_knows_is_gone(case: Case, tmp_path: Path) -> None:
    """The provider lost the job: Gone, for a person to look at."""
    async with FakeProvider(tmp_path, shape=case.shape) as fake_provider:
        provider = case.build(fake_provider.base_url)
        with pytest.raises(Gone):
            await provider.state("video_of_yesterday")
        await provider.close()


BAD_OUTPUTS: dict[Content, tuple[type[ProviderError], ...]] = {
    "cut": (Transient,),
    "running_json": (Transient,),
    "503": (Transient,),
    "302": (Transient,),
    "404": (Transient, Gone),
    "410": (Gone,),
    "json": (BadAsset,),
    "html": (BadAsset,),
    "empty": (BadAsset,),
    "huge": (BadAsset,),
}


@pytest.mark.parametrize("content", BAD_OUTPUTS)
async def test_a_bad_download_leaves_no_file(case: Case, content: Content, tmp_path: Path) -> None:
    """What is not a whole video leaves nothing on our disk; the next fetch brings it."""
    out = tmp_path / "out"
    async with FakeProvider(tmp_path / "books", shape=case.shape, polls=0, content=content) as fake_provider:
        provider = case.build(fake_provider.base_url)
        job = await provider.submit(CONTRACT_REQUEST)
        await provider.state(job.job_id)
        with pytest.raises(BAD_OUTPUTS[content]) as caught:
            await provider.fetch(job.job_id, out / "v.mp4")
        assert SIGNATURE not in str(caught.value)
        assert not out.exists() or not list(out.iterdir())
        fake_provider.content = "video"
        assert (await provider.fetch(job.job_id, out / "v.mp4")).path.exists()
        await provider.close()


async def test_secrets_reach_no_log_no_error_and_no_other_host(case: Case, tmp_path: Path, caplog) -> None:
    """The key goes to the API alone; neither it nor a signed URL is in a log or an error, even at DEBUG."""
    caplog.set_level(logging.DEBUG)
    hostile = f"bad key {FAKE_KEY}\n\x1b[31mCRITICAL paid https://x.test/v?X-Amz-Signature={SIGNATURE}"
    async with FakeProvider(tmp_path, shape=case.shape, polls=0, hostile=hostile) as fake_provider:
        provider = case.build(fake_provider.base_url)
        fake_provider.script("refuse_400")
        texts = [str(await outcome(provider))]
        fake_provider.fates.extend(("fail", "video"))
        failing, good = (
            await provider.submit(CONTRACT_REQUEST),
            await provider.submit(replace(CONTRACT_REQUEST, key="k2")),
        )
        with pytest.raises(JobFailed) as caught:
            await provider.state(failing.job_id)
        await provider.state(good.job_id)
        await provider.fetch(good.job_id, tmp_path / "v.mp4")
        await provider.close()
    texts += [str(caught.value), repr(provider), caplog.text]
    assert all(secret not in text for text in texts for secret in (FAKE_KEY, SIGNATURE, "\x1b", "X-Amz"))
    assert all("\n" not in text for text in texts[:2])
    for request in fake_provider.requests():
        assert ("authorization" in request["headers"]) == request["path"].startswith("/v1/")
        assert not request["headers"].keys() & {"traceparent", "tracestate", "baggage", "x-request-id"}


async def test_a_price_is_known_before_the_order(case: Case) -> None:
    """A quote is exact, and what is not on offer is named together with what is."""
    provider = case.build("http://127.0.0.1:9/v1")
    assert provider.quote("m-1", 8, "720x1280") == Money.parse("$0.80")
    for model, seconds, size in (("m-2", 8, "720x1280"), ("m-1", 5, "720x1280"), ("m-1", 8, "1x1")):
        with pytest.raises(ValueError, match=r"m-1|4, 8|720x1280"):
            provider.quote(model, seconds, size)
    await provider.close()
