"""Laws of the local provider's renderers: few at a time, and none that nobody asked for."""

import asyncio
import os
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
    killed,
    phase_is,
    process,
)
from waiting import wait_until

from providers import base
from sandbox.preview.jobs import try_lock


async def test_cancel_stops_the_renderer(company):
    """A cancelled job has no renderer, is refunded once and stays cancelled."""
    provider = company()
    job = await provider.submit(TAKE)
    place = folder(company, job.job_id)

    async def reported() -> bool:
        return place.renderer_pid is not None

    await wait_until(reported, 20, "the renderer")
    assert await provider.cancel(job.job_id) is True
    with pytest.raises(ProcessLookupError):
        os.kill(place.renderer_pid, 0)
    assert "it was cancelled" in str(await fails(provider, job.job_id))
    assert await provider.cancel(job.job_id) is False
    assert not place.video.exists()
    assert bill(company) == [CHARGED, REFUNDED]


async def test_cancel_reaches_the_renderer_of_another_process(company):
    """A cancel by a worker that did not start the renderer stops it, too."""
    job = await company().submit(TAKE)
    assert await company().cancel(job.job_id) is True


async def test_others_wait_for_a_place(company):
    """At most `renderers` are at work; the next begins by itself when one has ended."""
    provider = company(SILENT, renderers=1)
    first = await provider.submit(TAKE)
    second = await provider.submit(replace(TAKE, key="second"))
    assert await phase_is(provider, first.job_id, "running")
    assert await phase_is(provider, second.job_id, "queued")
    assert await phase_is(company(SILENT, renderers=1), second.job_id, "queued")
    assert await provider.cancel(first.job_id) is True

    async def begun() -> bool:
        return folder(company, second.job_id).starts == 1

    await wait_until(begun, 10, "the waiting job to begin")


async def test_one_renderer_for_one_job(company):
    """Many askers in several processes' places start one renderer."""
    providers = [company(SILENT, renderers=4) for _ in range(4)]
    job = await providers[0].submit(TAKE)
    await asyncio.gather(*(one.state(job.job_id) for one in providers for _ in range(5)))
    assert folder(company, job.job_id).starts == 1


async def test_an_orderly_end_is_no_death(company):
    """Closing ends the renderer, and the job begins again elsewhere as if it had never been started."""
    provider = company()
    job = await provider.submit(TAKE)
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
from providers.base import Take
async def main():
    provider = LocalProvider(Path(sys.argv[1]))
    job = await provider.submit(Take("r", "orphan", "storyboard", "idea", 12, "1792x1024", 7))
    print(job.job_id, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


async def test_a_killed_worker_leaves_no_renderer(company):
    """When its starter is killed with -9, a renderer ends by itself and frees its place."""
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

    await wait_until(gone, 10, "the renderer to leave")
    assert place.starts == 0
    assert await phase_is(company(SILENT), place.job_id, "running")
