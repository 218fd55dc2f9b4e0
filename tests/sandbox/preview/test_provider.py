"""Tests of the preview provider, scored by its own charge log: its videos, and how they fail."""

import asyncio
import errno
import os
import signal
from dataclasses import replace

import pytest

from guardrails.money import Money
from providers import base
from providers.base import Provider
from providers.video_file import probe
from sandbox.preview import provider as preview
from sandbox.preview.jobs import try_lock
from sandbox.preview.provider import LocalProvider
from tests.support.preview_provider import (
    CHARGED,
    PREVIEW_REQUEST,
    REFUNDED,
    SILENT,
    bill,
    fails,
    folder,
    killed,
    phase_is,
    process,
    renderer,
)
from tests.support.provider_cases import all_claimed, unclaimed
from tests.support.waiting import wait_until

RUN = "import runpy; runpy.run_module('sandbox.renderer', run_name='__main__')"
DEADLY = renderer("import os; os.kill(os.getpid(), 9)")
SMALL_DISK = renderer(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000)); {RUN}")
NO_FONT = renderer(
    "import pathlib; from sandbox.renderer.drawing import Lettering; "
    f"Lettering.__init__.__defaults__ = (pathlib.Path('gone'),); {RUN}"
)


async def test_it_is_a_provider(company):
    """It implements the protocol, quotes exactly, and declares its videos as previews."""
    provider: Provider = company()
    assert provider.quote("storyboard", 8, "720x1280") == Money.parse("$3.00")
    can = provider.capabilities
    assert (can.replay, can.listing, can.preview) == (True, True, True)


@pytest.mark.parametrize(
    ("order", "words"),
    [
        (("sora-2", 8, "720x1280"), "model 'sora-2' is not on offer; on offer: storyboard"),
        (("storyboard", 5, "720x1280"), "seconds 5 is not on offer; on offer: 4, 8, 12"),
        (("storyboard", True, "720x1280"), "seconds True is not on offer"),
        (("storyboard", 8.0, "720x1280"), "seconds 8.0 is not on offer"),
        (("storyboard", 8, "1x1"), "size '1x1' is not on offer; on offer: 720x1280, 1280x720"),
    ],
)
async def test_a_quote_names_what_is_not_on_offer(order, words, company):
    """A refused quote names the field, the value and the offered values; asking costs nothing."""
    with pytest.raises(ValueError, match="on offer") as raised:
        company().quote(*order)
    assert words in str(raised.value)
    with pytest.raises(base.Rejected) as refused:
        await company().submit(replace(PREVIEW_REQUEST, model=order[0], seconds=order[1], size=order[2]))
    assert refused.value.reason == "invalid"
    assert bill(company) == []


@pytest.mark.slow
async def test_one_order_makes_one_video_and_one_charge(company, tmp_path):
    """Order, progress, video, thumbnail: fetched twice, submitted three times, charged once."""
    provider = company()
    job = await provider.submit(PREVIEW_REQUEST)
    assert job.billed == Money.parse("$1.50")
    seen: list[int] = []

    async def made() -> bool:
        status = await provider.state(job.job_id)
        seen.append(status.progress or 0)
        return status.phase == "succeeded"

    with pytest.raises(base.Transient):
        await provider.fetch(job.job_id, tmp_path / "early.mp4")
    assert await provider.submit(PREVIEW_REQUEST) == job
    await wait_until(made, 30, "the film")
    assert seen == sorted(seen)
    assert any(0 < percent < 100 for percent in seen)
    assets = [await provider.fetch(job.job_id, tmp_path / "media" / "v.mp4") for _ in range(2)]
    assert assets[0] == assets[1] == probe(tmp_path / "media" / "v.mp4")
    assert abs(assets[0].seconds - 4) <= 1 / 24
    assert (assets[0].width, assets[0].height) == (720, 1280)
    assert assets[0].thumbnail is not None
    assert await provider.submit(PREVIEW_REQUEST) == job
    assert bill(company) == [CHARGED]
    assert not (tmp_path / "early.mp4").exists()


@pytest.mark.slow
async def test_a_killed_renderer_is_started_again(company):
    """kill -9 in the middle costs time, but neither the video nor a second charge."""
    provider = company()
    job = await provider.submit(PREVIEW_REQUEST)
    place = folder(company, job.job_id)

    async def under_way() -> bool:
        return (await provider.state(job.job_id)).progress > 0

    await wait_until(under_way, 20, "the renderer to be at work")
    first = place.renderer_pid
    os.kill(first, signal.SIGKILL)

    async def finished() -> bool:
        return await phase_is(provider, job.job_id, "succeeded")

    await wait_until(finished, 30, "the second renderer")
    assert place.renderer_pid != first
    assert place.starts == 2
    assert not list(place.path.glob("*.part-*"))
    assert bill(company) == [CHARGED]


@pytest.mark.representative
@pytest.mark.parametrize(
    ("command", "words"),
    [
        (DEADLY, "the renderer stopped 3 times without a result"),
        (SMALL_DISK, "the preview was not written: the disk is full"),
        (NO_FONT, "the font Nunito-ExtraBold.ttf is missing or cannot be read: install OneTake again"),
        (renderer(f"import av; av.open = None; {RUN}"), "the renderer failed (TypeError)"),
    ],
)
async def test_a_job_that_cannot_be_rendered_fails_with_a_reason_and_is_refunded(command, words, company):
    """Dead renderers, a full disk, a missing font: a readable reason, no charge left, no traceback."""
    provider = company(command)
    job = await provider.submit(PREVIEW_REQUEST)
    failed = await fails(provider, job.job_id)
    assert str(failed) == f"no preview was made: {words}"
    assert failed.billing == "unbilled"
    assert str(await fails(company(command), job.job_id)) == str(failed)
    assert bill(company) == [CHARGED, REFUNDED]
    assert provider.charges.total() == Money(0)
    with pytest.raises(base.Gone, match="no preview was made"):
        await provider.fetch(job.job_id, company.root / "v.mp4")
    assert not list(folder(company, job.job_id).path.glob("*.part-*"))


@pytest.mark.parametrize(
    "job_id", ["local-" + "0" * 32, "../../etc", "", "local-x", "local-" + "0" * 31 + "\n"]
)
async def test_unknown_jobs_are_gone(job_id, company, tmp_path):
    """An id that was never issued has no folder."""
    provider = company(SILENT)
    for question in (
        provider.state(job_id),
        provider.fetch(job_id, tmp_path / "v.mp4"),
    ):
        with pytest.raises(base.Gone):
            await question


SUBMIT = """
import asyncio, sys
from pathlib import Path
from sandbox.preview.provider import LocalProvider
from providers.base import VideoRequest
async def main():
    idle = (sys.executable, "-c", "import sys; sys.stdin.read()")
    provider = LocalProvider(Path(sys.argv[1]), command=idle)
    print("ready", flush=True)
    sys.stdin.readline()
    request = VideoRequest("r", sys.argv[2], "storyboard", "idea", 4, "720x1280", 7)
    jobs = await asyncio.gather(*(provider.submit(request) for _ in range(4)))
    print(*{job.job_id for job in jobs}, flush=True)
    await provider.close()
asyncio.run(main())
"""


@pytest.mark.slow
async def test_eight_processes_with_one_key_are_one_charge(company):
    """The same key at once from eight processes, four times each: one job, one line in the charge log."""
    processes = [await process(SUBMIT, str(company.root), PREVIEW_REQUEST.key) for _ in range(8)]
    try:
        for one in processes:
            assert await one.stdout.readline() == b"ready\n"
        answers = await asyncio.gather(*(one.communicate(b"go\n") for one in processes))
    finally:
        for one in processes:
            await killed(one)
    assert len({out for out, _ in answers}) == 1
    assert bill(company) == [CHARGED]


async def test_the_same_key_with_another_body_is_refused(company):
    """A key names one order, compared byte by byte; our own ids are not part of it."""
    provider = company(SILENT)
    job = await provider.submit(PREVIEW_REQUEST)
    assert await provider.submit(replace(PREVIEW_REQUEST, request_id="another")) == job
    for other in (
        replace(PREVIEW_REQUEST, prompt=PREVIEW_REQUEST.prompt + ","),
        replace(PREVIEW_REQUEST, seconds=8),
        replace(PREVIEW_REQUEST, seed=8),
        replace(PREVIEW_REQUEST, sound=False),
        replace(PREVIEW_REQUEST, style="clay"),
    ):
        with pytest.raises(base.Rejected) as refused:
            await provider.submit(other)
        assert refused.value.reason == "invalid"
    assert bill(company) == [CHARGED]


async def test_an_order_without_options_has_the_body_that_it_always_had(company):
    """A replay after an upgrade is compared with what the version before wrote."""
    job = await company(SILENT).submit(PREVIEW_REQUEST)
    sent = ["model", "prompt", "seconds", "size", "seed", "caption"]
    assert list(folder(company, job.job_id).order["body"]) == sent
    silent = await company(SILENT).submit(replace(PREVIEW_REQUEST, key="k", sound=False, style="clay"))
    assert (
        folder(company, silent.job_id).order["body"] | {"sound": False, "style": "clay"}
        == (folder(company, silent.job_id).order["body"])
    )


async def test_odd_text_is_the_same_on_replay(company):
    """Lone surrogates and split emoji survive the provider's storage."""
    odd = replace(PREVIEW_REQUEST, prompt="\ud83d\ude00 \udfff \x00")
    assert await company(SILENT).submit(odd) == await company(SILENT).submit(odd)
    with pytest.raises(base.Rejected, match="empty"):
        await company(SILENT).submit(replace(PREVIEW_REQUEST, prompt=" \n"))


async def test_reconcile_finds_by_key(company):
    """An order is found by its key; a missing one is absent, a claimed or unreachable one unsure."""
    provider = company(SILENT)
    assert await provider.reconcile(PREVIEW_REQUEST, 0.0, unclaimed) == base.Absent()
    job = await provider.submit(PREVIEW_REQUEST)
    assert await company(SILENT).reconcile(PREVIEW_REQUEST, 0.0, unclaimed) == base.Found(job)
    assert isinstance(await provider.reconcile(PREVIEW_REQUEST, 0.0, all_claimed), base.Unsure)
    (company.root.parent / "file").write_text("in the way")
    lost = LocalProvider(company.root.parent / "file")
    assert isinstance(await lost.reconcile(PREVIEW_REQUEST, 0.0, unclaimed), base.Unsure)
    with pytest.raises(base.NotSent, match="takes no orders"):
        await lost.submit(PREVIEW_REQUEST)


@pytest.mark.parametrize("again", ["submit", "reconcile"])
async def test_a_crash_between_order_and_charge_is_repaired(again, company, monkeypatch):
    """A process that dies between order and charge leaves a job that the next lookup charges."""
    provider = company(SILENT)
    with monkeypatch.context() as patch:
        patch.setattr(preview.ChargeLog, "once", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            provider._jobs.accept(PREVIEW_REQUEST, Money.parse("$1.50"))
    assert bill(company) == []
    if again == "submit":
        await provider.submit(PREVIEW_REQUEST)
    else:
        assert isinstance(await provider.reconcile(PREVIEW_REQUEST, 0.0, unclaimed), base.Found)
    assert bill(company) == [CHARGED]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


async def test_an_order_that_cannot_be_charged_is_not_accepted(company, monkeypatch):
    """On a full disk there is neither job nor charge, and the refusal proves it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    provider = company(SILENT)
    with monkeypatch.context() as patch:
        patch.setattr(preview.os, "write", full)
        with pytest.raises(base.NotSent, match="the disk is full"):
            await provider.submit(PREVIEW_REQUEST)
    assert await provider.reconcile(PREVIEW_REQUEST, 0.0, unclaimed) == base.Absent()
    assert bill(company) == []
    with monkeypatch.context() as patch:
        patch.setattr(preview.ChargeLog, "once", full)
        patch.setattr(preview.JobFolder, "forget_order", full)
        with pytest.raises(base.InDoubt):
            await provider.submit(PREVIEW_REQUEST)


async def test_a_torn_line_is_no_charge(company):
    """A line torn by a power cut is skipped, and the next line starts on its own."""
    company.root.mkdir()
    (company.root / "charges.jsonl").write_text('{"kind": "charge", "job_id": "lo')
    await company(SILENT).submit(PREVIEW_REQUEST)
    assert bill(company) == [CHARGED]


async def test_others_wait_for_a_slot(company):
    """At most `renderers` run at once; the next starts by itself when one has ended."""
    provider = company(SILENT, renderers=1)
    first = await provider.submit(PREVIEW_REQUEST)
    second = await provider.submit(replace(PREVIEW_REQUEST, key="second"))
    assert await phase_is(provider, first.job_id, "running")
    assert await phase_is(provider, second.job_id, "queued")
    assert await phase_is(company(SILENT, renderers=1), second.job_id, "queued")
    os.kill(provider._renderers._children[first.job_id].pid, signal.SIGKILL)

    async def begun() -> bool:
        return folder(company, second.job_id).starts == 1

    await wait_until(begun, 10, "the waiting job to begin")


async def test_one_renderer_for_one_job(company):
    """Many questions from several providers start one renderer."""
    providers = [company(SILENT, renderers=4) for _ in range(4)]
    job = await providers[0].submit(PREVIEW_REQUEST)
    await asyncio.gather(*(one.state(job.job_id) for one in providers for _ in range(5)))
    assert folder(company, job.job_id).starts == 1


@pytest.mark.slow
async def test_a_clean_exit_is_no_failed_start(company):
    """Closing ends the renderer, and the job starts again elsewhere as if never started."""
    provider = company()
    job = await provider.submit(PREVIEW_REQUEST)
    place = folder(company, job.job_id)

    async def reported() -> bool:
        return place.renderer_pid is not None

    await wait_until(reported, 20, "the renderer")
    await provider.close()
    with pytest.raises(ProcessLookupError):
        os.kill(place.renderer_pid, 0)
    assert place.starts == 0
    with pytest.raises(base.Transient, match="closed"):
        await provider.state(job.job_id)
    assert await phase_is(company(SILENT), job.job_id, "running")


ORPHAN = """
import asyncio, os, sys
from pathlib import Path
from sandbox.preview.provider import LocalProvider
from providers.base import VideoRequest
async def main():
    provider = LocalProvider(Path(sys.argv[1]))
    job = await provider.submit(VideoRequest("r", "orphan", "storyboard", "idea", 12, "1792x1024", 7))
    print(job.job_id, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.mark.slow
async def test_a_killed_worker_leaves_no_renderer(company):
    """When its starter is killed with -9, a renderer ends by itself and frees its slot."""
    worker = await process(ORPHAN, str(company.root))
    try:
        place = folder(company, (await worker.stdout.readline()).decode().strip())

        async def reported() -> bool:
            return place.renderer_pid is not None

        await wait_until(reported, 20, "the renderer")
    finally:
        await killed(worker)

    async def gone() -> bool:
        handle = try_lock(place.lock)
        if handle is not None:
            os.close(handle)
        return handle is not None

    await wait_until(gone, 10, "the renderer to end")
    assert place.starts == 0
    assert await phase_is(company(SILENT), place.job_id, "running")
