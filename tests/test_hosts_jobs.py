"""One contract for the jobs and prices of the model hosts, fal and Replicate; the peers keep the books.

The same laws as tests/test_provider_jobs.py, for adapters whose peers speak otherwise.
"""

import logging
import time
from dataclasses import replace
from pathlib import Path

import pytest
from adapters import outcome, unclaimed
from faults import Faults
from hosts import (
    Host,
    each_host,  # noqa: F401  # the fixture `host`
    quick,  # noqa: F401  # a fixture of every law here
)
from peer_host import KEY, SIGNATURE

from ledger.money import Money
from providers.base import BadAsset, Gone, JobFailed, JobModerated, ProviderError, Status, Transient, Unsure

pytestmark = [pytest.mark.all, pytest.mark.timeout(30)]


# A job


async def test_an_accepted_job_ends_as_a_file(host: Host, tmp_path: Path) -> None:
    """queued, running, succeeded, and then a video that opens, with nothing beside it but its thumbnail."""
    async with host.fake_provider(tmp_path / "books") as fake_provider:
        fake_provider.polls = 2
        provider = host.build(fake_provider.url)
        job = await provider.submit(host.request)
        with pytest.raises(Transient):
            await provider.fetch(job.job_id, tmp_path / "out" / "v.mp4")
        fake_provider.jobs[job.job_id.rpartition("/")[2]].polls = 0
        phases = [(await provider.state(job.job_id)).phase for _ in range(3)]
        asset = await provider.fetch(job.job_id, tmp_path / "out" / "v.mp4")
        await provider.close()
    assert phases == ["queued", "running", "succeeded"]
    assert (asset.width, asset.height) == (64, 112)
    assert {path.name for path in (tmp_path / "out").iterdir()} <= {"v.mp4", "v.jpg"}


async def test_an_unknown_status_is_unknown(host: Host, tmp_path: Path) -> None:
    """A status word that nobody documented means: ask again later."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        job = await provider.submit(host.request)
        fake_provider.jobs[job.job_id.rpartition("/")[2]].word = "CONTEMPLATING"
        assert await provider.state(job.job_id) == Status("unknown")
        await provider.close()


@pytest.mark.parametrize("bills", [True, False])
@pytest.mark.parametrize(("fate", "error"), [("fail", JobFailed), ("moderate", JobModerated)])
async def test_a_job_that_ends_badly_says_how_and_never_lies_about_money(
    host: Host, fate, error: type[JobFailed], bills: bool, tmp_path: Path
) -> None:
    """A failed job is JobFailed, a moderated one JobModerated; `unbilled` only where that is documented."""
    async with host.fake_provider(tmp_path) as fake_provider:
        fake_provider.fates.append(fate)
        fake_provider.bills_moderated = bills
        provider = host.build(fake_provider.url)
        job = await provider.submit(host.request)
        with pytest.raises(error) as caught:
            await provider.state(job.job_id)
        with pytest.raises(error):
            await provider.fetch(job.job_id, tmp_path / "v.mp4")
        await provider.close()
    assert type(caught.value) is error
    assert caught.value.billing in ("unbilled", "unknown")
    if caught.value.billing == "unbilled":
        assert fake_provider.net() == {}
    if fate == "moderate":
        assert caught.value.billing == "unknown"


@pytest.mark.parametrize("job_id", ["{model}/nobodyknowsthisone", "../../secret", "", "a b", "x/../../y"])
async def test_a_job_nobody_knows_is_gone_and_an_odd_id_leaves_no_path(
    host: Host, job_id: str, tmp_path: Path
) -> None:
    """The host lost the job, or it never was one: Gone, for a person; no id reaches another path."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        with pytest.raises(Gone):
            await provider.state(job_id.format(model=host.model))
        assert not await provider.cancel(job_id.format(model=host.model))
        await provider.close()
    assert all("requests/nobody" in one["path"] for one in fake_provider.requests())


BAD_OUTPUTS: dict[str, type[ProviderError]] = {
    "cut": Transient, "503": Transient, "302": Transient, "404": Gone, "410": Gone,
    "json": BadAsset, "html": BadAsset, "empty": BadAsset, "huge": BadAsset,
}  # fmt: skip


@pytest.mark.parametrize("content", BAD_OUTPUTS)
async def test_a_bad_download_leaves_no_file(host: Host, content: str, tmp_path: Path) -> None:
    """What is not a whole video leaves nothing on our disk; the next fetch brings it."""
    out = tmp_path / "out"
    async with host.fake_provider(tmp_path / "books") as fake_provider:
        fake_provider.content = content
        provider = host.build(fake_provider.url)
        job = await provider.submit(host.request)
        with pytest.raises(BAD_OUTPUTS[content]) as caught:
            await provider.fetch(job.job_id, out / "v.mp4")
        assert SIGNATURE not in str(caught.value)
        assert not out.exists() or not list(out.iterdir())
        fake_provider.content = "video"
        assert (await provider.fetch(job.job_id, out / "v.mp4")).path.exists()
        await provider.close()


async def test_secrets_reach_no_log_no_error_and_no_other_host(host: Host, tmp_path: Path, caplog) -> None:
    """The key goes to the API alone; neither it nor a signed URL is in a log or an error, even at DEBUG."""
    caplog.set_level(logging.DEBUG)
    half = KEY.partition(":")[2] if "fal" in host.model else KEY  # fal's keys are id:secret
    hostile = f"bad key {KEY} or {half}\n\x1b[31mpaid https://x.test/v?sig={SIGNATURE}"
    async with host.fake_provider(tmp_path) as fake_provider:
        fake_provider.hostile = hostile
        provider = host.build(fake_provider.url)
        fake_provider.script("refuse_invalid", "throttle")
        texts = [str(await outcome(provider, host.request)) for _ in range(2)]
        for fate in ("fail", "moderate"):
            fake_provider.fates.append(fate)
            with pytest.raises(JobFailed) as caught:
                await provider.state((await provider.submit(host.request)).job_id)
            texts.append(str(caught.value))
        good = await provider.submit(host.request)
        await provider.fetch(good.job_id, tmp_path / "v.mp4")
        fake_provider.listing = False
        unsure = await provider.reconcile(host.request, time.time(), unclaimed)
        assert isinstance(unsure, Unsure)
        await provider.close()
    texts += [unsure.why, repr(provider), caplog.text]
    secrets = (KEY, half, SIGNATURE, "\x1b")
    assert [text for text in texts for secret in secrets if secret in text] == []
    assert all("\n" not in text for text in texts[:4])
    for request in fake_provider.requests():
        assert ("authorization" in request["headers"]) == (request["port"] == fake_provider.own_port)
        assert not request["headers"].keys() & {"traceparent", "tracestate", "baggage", "prefer"}


# Cancelling, prices


async def test_only_a_confirmed_stop_is_a_cancel(host: Host, tmp_path: Path) -> None:
    """A job that has not begun is stopped and costs nothing; a running or a finished one goes on."""
    async with host.fake_provider(tmp_path) as fake_provider:
        fake_provider.polls = 3
        provider = host.build(fake_provider.url)
        early, late = (
            await provider.submit(host.request),
            await provider.submit(replace(host.request, seed=2)),
        )
        assert await provider.cancel(early.job_id)
        for _ in range(2):
            await provider.state(late.job_id)
        assert not await provider.cancel(late.job_id)
        fake_provider.polls = 0
        assert not await provider.cancel(late.job_id)
        await provider.close()
    assert list(fake_provider.net().values()) == [800_000]


async def test_no_answer_to_a_cancel_is_a_no(host: Host) -> None:
    """What nobody confirmed has not stopped."""
    async with Faults("reset") as stub:
        provider = host.build(stub.base_url)
        job_id = "abcdefgh12345678" if "1-lite" in host.model else f"{host.model}/abcdefgh12345678"
        assert not await provider.cancel(job_id)
        await provider.close()


async def test_a_price_is_known_before_the_order(host: Host) -> None:
    """A quote is exact, and what is not on offer is named together with what is."""
    provider = host.build("http://127.0.0.1:9")
    assert provider.quote(host.model, 8, "720x1280") == Money.parse("$0.80")
    for model, seconds, size in (("m", 8, "720x1280"), (host.model, 5, "720x1280"), (host.model, 8, "1x1")):
        with pytest.raises(ValueError, match=r"seedance|4, 8|720x1280"):
            provider.quote(model, seconds, size)
    await provider.close()


async def test_nothing_is_promised_that_is_not_documented(host: Host) -> None:
    """No idempotency key, so no replay; a list and a cancel; and a note that nobody has met the service."""
    provider = host.build("http://127.0.0.1:9")
    capabilities = provider.capabilities
    assert (capabilities.replay, capabilities.listing, capabilities.cancel) == (False, True, True)
    assert not capabilities.preview
    assert any("never met" in note for note in capabilities.notes)
    assert capabilities.settle_s > capabilities.grace_s + capabilities.submit_timeout_s
    await provider.close()
