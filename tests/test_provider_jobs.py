"""One contract for the jobs of every adapter that speaks to a company over HTTP, in every dialect."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from adapters import (
    TAKE,
    Case,
    each_case,  # noqa: F401  # the fixture `case`
    no_pauses,  # noqa: F401  # a fixture of every law here
    outcome,
)

from ledger.money import Money
from providers.base import BadAsset, Gone, JobFailed, JobModerated, ProviderError, Status, Transient
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY, SIGNATURE, Content

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`


async def test_an_accepted_job_ends_as_a_file(case: Case, tmp_path: Path) -> None:
    """queued, running, succeeded, and then a video that opens, with nothing beside it but its thumbnail."""
    async with FakeProvider(tmp_path / "books", shape=case.shape, polls=2) as fake_provider:
        provider = case.build(fake_provider.base_url)
        job = await provider.submit(TAKE)
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
        job = await provider.submit(TAKE)
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
        job = await provider.submit(TAKE)
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
        job = await provider.submit(TAKE)
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
        failing, good = await provider.submit(TAKE), await provider.submit(replace(TAKE, key="k2"))
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
