"""How a doubt about a model host, fal or Replicate, is settled by its list; the peers keep the books."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from adapters import unclaimed
from hosts import (
    Host,
    each_host,  # noqa: F401  # the fixture `host`
    lost,
    quick,  # noqa: F401  # a fixture of every law here
)

from providers import job_matching
from providers.base import Absent, Found, Unsure

pytestmark = [pytest.mark.all, pytest.mark.timeout(30)]


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
