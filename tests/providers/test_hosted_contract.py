"""One contract for the model hosts, fal and Replicate, under every fault; the peers keep the books.

The same laws as tests/test_provider_contract.py, for adapters whose peers speak otherwise.
"""

import asyncio
import json
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from guardrails.money import Money
from providers import job_matching
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
    ProviderError,
    Rejected,
    Status,
    Throttled,
    Transient,
    Unsure,
)
from tests.support.hosted_provider import KEY, SIGNATURE
from tests.support.provider_cases import Host, lost, outcome, unclaimed
from sandbox.video_api.raw_faults import FAULTS, HANGS, Faults

pytestmark = [pytest.mark.all, pytest.mark.timeout(30)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_costs_one_post_and_leaves_doubt(host: Host, fault: str, caplog) -> None:
    """One submit is one POST on one connection, whatever answers; what is not the host's own is InDoubt."""
    caplog.set_level(logging.DEBUG)
    async with Faults(fault) as stub:
        provider = host.build(stub.base_url.removesuffix("/v1"), timeout_s=0.4 if fault in HANGS else 1.5)
        got = await outcome(provider, host.request)
        await provider.close()
    assert type(got) is host.documented.get(fault, InDoubt), got
    assert stub.connections == 1
    assert stub.posts == (0 if fault == "drop_before_reading" else 1)
    assert KEY not in caplog.text + str(got) + repr(got.__cause__) + repr(provider)


async def test_the_total_deadline_ends_a_hanging_post(host: Host) -> None:
    """The POST has ended when `submit_timeout_s` is over, even if every single read was quick."""
    async with Faults("slow_loris") as stub:
        provider = host.build(stub.base_url, timeout_s=0.4)
        began = time.monotonic()
        assert type(await outcome(provider, host.request)) is InDoubt
        assert time.monotonic() - began < 2
        await provider.close()


async def test_every_post_has_a_connection_of_its_own(host: Host) -> None:
    """No POST goes out on a connection that was used before: an old one may die under it."""
    async with Faults("200_no_id") as stub:
        provider = host.build(stub.base_url)
        await outcome(provider, host.request)
        await outcome(provider, host.request)
        await provider.close()
    assert (stub.posts, stub.connections) == (2, 2)


async def test_nobody_listening_is_proof(host: Host) -> None:
    """A connection that was refused is NotSent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    provider = host.build(f"http://127.0.0.1:{port}")
    assert type(await outcome(provider, host.request)) is NotSent
    await provider.close()


async def test_a_name_that_does_not_resolve_is_proof(host: Host, monkeypatch) -> None:
    """A DNS failure is NotSent."""

    async def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    provider = host.build("http://video.invalid")
    assert type(await outcome(provider, host.request)) is NotSent
    await provider.close()


async def test_a_cancelled_submit_says_so(host: Host) -> None:
    """A cancelled task ends as CancelledError, after its POST went out: the caller treats it as in doubt."""
    async with Faults("hang") as stub:
        provider = host.build(stub.base_url)
        task = asyncio.create_task(provider.submit(host.request))
        await stub.posted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await provider.close()
    assert stub.posts == 1


async def test_a_model_that_left_the_price_list_is_not_ordered(host: Host, tmp_path: Path) -> None:
    """What has no price is refused before anything is sent."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        got = await outcome(provider, replace(host.request, model="owner/of-yesterday"))
        await provider.close()
    assert isinstance(got, Rejected)
    assert fake_provider.requests() == []


# Over a life


LIVES = (
    "accept", "charge_drop", "charge_hang", "charge_500", "charge_cut", "charge_html", "charge_no_id",
    "drop", "500", "throttle", "refuse_invalid", "refuse_auth", "refuse_funds",
)  # fmt: skip


@pytest.mark.parametrize("first", LIVES)
async def test_one_seed_and_at_most_one_charge_over_a_life(host: Host, first, tmp_path: Path) -> None:
    """Whatever becomes of the POST: one body, one seed, at most one charge; what was charged is found."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url, timeout_s=0.5 if first == "charge_hang" else 1.5)
        fake_provider.script(first)
        sent_at, job = time.time(), None
        got = await outcome(provider, host.request)
        while isinstance(got, Throttled):
            got = await outcome(provider, host.request)
        if isinstance(got, InDoubt):
            found = await provider.reconcile(host.request, sent_at, unclaimed)
            assert await provider.reconcile(host.request, sent_at, unclaimed) == found, (
                "asking changes nothing"
            )
            job = found.job if isinstance(found, Found) else None
            assert job is not None or fake_provider.charges() == []
        elif isinstance(got, Job):
            job = got
        await provider.close()
    assert len({post["digest"] for post in fake_provider.posts()}) == 1
    assert len(fake_provider.posts()) == 1 + (first == "throttle" and job is not None)
    assert {charge["seed"] for charge in fake_provider.charges()} <= {host.request.seed}
    if job is None:
        assert fake_provider.charges() == []
    else:
        assert list(fake_provider.net()) == [job.job_id.rpartition("/")[2]]
        assert sum(fake_provider.net().values()) == 800_000


async def test_every_refusal_says_why(host: Host, tmp_path: Path) -> None:
    """A refusal in the host's own words is Rejected with its reason; nothing was charged."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        for refusal, reason in host.refusals.items():
            fake_provider.script(refusal)
            got = await outcome(provider, host.request)
            assert isinstance(got, Rejected), refusal
            assert got.reason == reason
        await provider.close()
    assert fake_provider.charges() == []
    assert len(fake_provider.posts()) == len(host.refusals)


async def test_the_same_take_makes_the_same_bytes(host: Host, tmp_path: Path) -> None:
    """Two orders of one take are equal to the byte, and carry the prompt unchanged and the seed."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        await provider.submit(host.request)
        await provider.submit(host.request)
        await provider.close()
    first, second = fake_provider.posts()
    assert first["body"] == second["body"]
    sent = json.loads(first["body"])
    sent = sent.get("input", sent)
    assert sent["prompt"] == host.request.prompt
    assert (sent["seed"], str(sent["duration"])) == (host.request.seed, "8")
    assert (sent["resolution"], sent["aspect_ratio"]) == ("720p", "9:16")


async def test_a_prompt_that_is_no_unicode_is_sent_once(host: Host, tmp_path: Path) -> None:
    """A lone surrogate neither breaks the order nor hides it: the seed finds it."""
    video_request = replace(host.request, prompt="a fox \ud800")
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        await lost(provider, fake_provider, video_request)
        assert isinstance(await provider.reconcile(video_request, time.time(), unclaimed), Found)
        await provider.close()
    assert len(fake_provider.posts()) == 1


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


async def test_among_many_the_one_with_our_seed_is_found(host: Host, tmp_path: Path) -> None:
    """Same words, same minute: the seed tells, over several job_matching, and a claimed job is left alone."""
    async with host.fake_provider(tmp_path) as fake_provider:
        fake_provider.page = 2
        provider = host.build(fake_provider.url)
        job_id = await lost(provider, fake_provider, host.request)
        for seed in range(5):
            await provider.submit(replace(host.request, seed=seed))
        found = await provider.reconcile(host.request, time.time(), unclaimed)
        claimed = await provider.reconcile(host.request, time.time() - 9999, lambda job: job.endswith(job_id))
        await provider.close()
    assert isinstance(found, Found)
    assert found.job.job_id.endswith(job_id)
    assert isinstance(claimed, (Absent, Unsure))
    assert len([one for one in fake_provider.requests() if one["query"].get("cursor")]) >= 2


async def test_two_jobs_of_one_seed_are_for_a_person(host: Host, tmp_path: Path) -> None:
    """If the host shows two unclaimed jobs that are ours, nobody guesses."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        await lost(provider, fake_provider, host.request)
        await provider.submit(host.request)
        assert await provider.reconcile(host.request, time.time(), unclaimed) == Unsure(
            "2 unclaimed jobs fit"
        )
        await provider.close()


async def test_a_job_whose_input_vanished_is_neither_found_nor_absent(host: Host, tmp_path: Path) -> None:
    """An entry of our time that no longer shows its input may be ours: Unsure."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        job_id = await lost(provider, fake_provider, host.request)
        fake_provider.jobs[job_id].wiped = True
        assert isinstance(await provider.reconcile(host.request, time.time(), unclaimed), Unsure)
        await provider.close()


@pytest.mark.parametrize(("fault", "asked"), [("stuck", 2), ("endless", 3), ("refused", 1), ("odd", 1)])
async def test_a_list_that_was_not_seen_whole_proves_nothing(
    host: Host, fault: str, asked: int, tmp_path: Path, monkeypatch
) -> None:
    """A cursor that is ignored, more pages than we read, an error, an entry without an id: never Absent."""
    monkeypatch.setattr(job_matching, "MAX_LIST_PAGES", 3)
    async with host.fake_provider(tmp_path) as fake_provider:
        fake_provider.page = 100 if fault == "odd" else 1
        provider = host.build(fake_provider.url, **({"absent_after_s": 0.0} if "fal" in host.model else {}))
        for seed in range(5):
            await provider.submit(replace(host.request, seed=seed))
        fake_provider.ignores_cursor, fake_provider.listing = fault == "stuck", fault != "refused"
        fake_provider.odd = fault == "odd"
        assert isinstance(await provider.reconcile(host.request, time.time() - 100, unclaimed), Unsure)
        await provider.close()
    assert sum(one["method"] == "GET" for one in fake_provider.requests()) == asked


@pytest.mark.parametrize("clock_s", [-500, 500])
async def test_a_wrong_clock_does_not_hide_our_job(host: Host, clock_s: float, tmp_path: Path) -> None:
    """Eight minutes between the clocks change nothing."""
    async with host.fake_provider(tmp_path) as fake_provider:
        fake_provider.clock_s = clock_s
        provider = host.build(fake_provider.url)
        await lost(provider, fake_provider, host.request)
        assert isinstance(await provider.reconcile(host.request, time.time(), unclaimed), Found)
        await provider.close()
