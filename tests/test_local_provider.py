"""Laws of the local provider, judged by its own bill: its films, and how they fail."""

import os
import signal
from dataclasses import replace

import pytest
from local_stage import (
    CHARGED,
    REFUNDED,
    SILENT,
    TAKE,
    a_company,  # noqa: F401  # the fixture `company`
    bill,
    fails,
    folder,
    phase_is,
    renderer,
)
from waiting import wait_until

from ledger.money import Money
from providers import base
from providers.base import Provider
from providers.video_file import probe

RUN = "import runpy; runpy.run_module('sandbox.renderer', run_name='__main__')"
DEADLY = renderer("import os; os.kill(os.getpid(), 9)")
SMALL_DISK = renderer(f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (90_000, 90_000)); {RUN}")
NO_FONT = renderer(
    "import pathlib; from sandbox.renderer.drawing import Lettering; "
    f"Lettering.__init__.__defaults__ = (pathlib.Path('gone.ttf'),); {RUN}"
)


async def test_it_is_a_provider(company):
    """It speaks the protocol, quotes exactly, and says that its films are previews."""
    provider: Provider = company()
    assert provider.quote("storyboard", 8, "720x1280") == Money.parse("$3.00")
    can = provider.capabilities
    assert (can.replay, can.listing, can.cancel, can.preview) == (True, True, True, True)


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
    """A refused quote names the thing, the value and what there is; nothing is charged for asking."""
    with pytest.raises(ValueError, match="on offer") as raised:
        company().quote(*order)
    assert words in str(raised.value)
    with pytest.raises(base.Rejected) as refused:
        await company().submit(replace(TAKE, model=order[0], seconds=order[1], size=order[2]))
    assert refused.value.reason == "invalid"
    assert bill(company) == []


@pytest.mark.slow
async def test_one_order_makes_one_film_and_one_charge(company, tmp_path):
    """Order, progress, film, thumbnail: fetched twice, submitted thrice, charged once."""
    provider = company()
    job = await provider.submit(TAKE)
    assert job.billed == Money.parse("$1.50")
    seen: list[int] = []

    async def made() -> bool:
        status = await provider.state(job.job_id)
        seen.append(status.progress or 0)
        return status.phase == "succeeded"

    with pytest.raises(base.Transient):
        await provider.fetch(job.job_id, tmp_path / "early.mp4")
    assert await provider.submit(TAKE) == job
    await wait_until(made, 30, "the film")
    assert seen == sorted(seen)
    assert any(0 < percent < 100 for percent in seen)
    assets = [await provider.fetch(job.job_id, tmp_path / "media" / "v.mp4") for _ in range(2)]
    assert assets[0] == assets[1] == probe(tmp_path / "media" / "v.mp4")
    assert abs(assets[0].seconds - 4) <= 1 / 24
    assert (assets[0].width, assets[0].height) == (720, 1280)
    assert assets[0].thumbnail is not None
    assert await provider.submit(TAKE) == job
    assert await provider.cancel(job.job_id) is False
    assert bill(company) == [CHARGED]
    assert not (tmp_path / "early.mp4").exists()


@pytest.mark.slow
async def test_a_killed_renderer_is_started_again(company):
    """kill -9 in the middle costs time, not a film and not a second charge."""
    provider = company()
    job = await provider.submit(TAKE)
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


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (DEADLY, "the renderer stopped 3 times without a word"),
        (SMALL_DISK, "the preview was not written: the disk is full"),
        (NO_FONT, "the font gone.ttf is missing or cannot be read: install OneTake again"),
        (renderer(f"import av; av.open = None; {RUN}"), "the renderer failed (TypeError)"),
    ],
)
async def test_a_job_that_cannot_be_rendered_fails_in_words_and_is_refunded(command, words, company):
    """Dead renderers, a full disk, a lost font: a readable reason, no charge left, no trace of a stack."""
    provider = company(command)
    job = await provider.submit(TAKE)
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
    """An id that was never given out names no folder."""
    provider = company(SILENT)
    for asked in (
        provider.state(job_id),
        provider.cancel(job_id),
        provider.fetch(job_id, tmp_path / "v.mp4"),
    ):
        with pytest.raises(base.Gone):
            await asked
