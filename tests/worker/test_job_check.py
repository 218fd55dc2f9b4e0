"""A job id that a person gives is checked at the provider before it is accepted."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest

from ledger.transitions import HoldNotResolved, Resolution
from providers.base import Gone, JobFailed, JobLinks, Status, Transient
from worker import job_check
from worker.job_check import check_job

VIDEO: Any = SimpleNamespace(
    request_id="tg:1:-:2:3",
    provider="openai_compat",
    account=None,
    job_id="job-own",
    status_url="https://h/own/status",
    result_url="https://h/own/result",
)


@dataclass
class Answering:
    """A provider that says one thing about every job."""

    answer: Status | Exception
    asked: int = 0
    links: JobLinks | None = None

    async def state(self, job_id: str, links: JobLinks | None = None) -> Status:
        self.asked += 1
        self.links = links
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def check(answer: Status | Exception, found: Resolution):
    provider: Any = Answering(answer)
    return provider, check_job(provider, VIDEO, found)


@pytest.mark.parametrize(
    "answer", [Status("queued"), Status("succeeded"), Status("unknown"), JobFailed("no", "billed")], ids=repr
)
async def test_a_job_that_the_provider_knows_is_accepted(answer):
    """Also one that failed: polling books how it ended."""
    provider, checked = check(answer, Resolution("paid", "job-1"))
    await checked
    assert provider.asked == 1


async def test_only_the_orders_own_job_is_asked_about_at_its_addresses():
    """A provider that gives addresses asks that none are built; those of one job are not another's."""
    for job, links in (
        ("job-own", JobLinks("https://h/own/status", "https://h/own/result")),
        ("job-1", None),
    ):
        provider, checked = check(Status("queued"), Resolution("paid", job))
        await checked
        assert provider.links == links


async def test_an_unknown_job_is_refused():
    """The sentence names the job, the provider's words, and what to give instead."""
    _, checked = check(Gone("404"), Resolution("paid", "job-1"))
    with pytest.raises(HoldNotResolved, match=r"does not know job 'job-1'.*`gone`"):
        await checked


@pytest.mark.parametrize("answer", [Transient("answered 500"), OSError("no route"), TimeoutError()], ids=repr)
async def test_a_job_that_cannot_be_asked_about_is_refused(answer):
    """No answer is no proof; the order's own job is known and needs none."""
    _, checked = check(answer, Resolution("paid", "job-1"))
    with pytest.raises(HoldNotResolved, match="could not be asked about job 'job-1'"):
        await checked
    _, checked = check(answer, Resolution("paid", "job-own"))
    await checked


async def test_a_provider_that_hangs_is_not_waited_for(monkeypatch):
    """A person waits for the answer."""
    monkeypatch.setattr(job_check, "CHECK_S", 0.05)

    class Hanging:
        async def state(self, job_id: str) -> Status:
            await job_check.asyncio.Event().wait()
            raise AssertionError

    provider: Any = Hanging()
    with pytest.raises(HoldNotResolved, match="no answer within"):
        await check_job(provider, VIDEO, Resolution("paid", "job-1"))


async def test_an_order_of_another_provider_cannot_be_checked():
    """It is named which provider is not configured here."""
    with pytest.raises(HoldNotResolved, match="openai_compat, which is not configured"):
        await check_job(None, VIDEO, Resolution("paid", "job-1"))


@pytest.mark.parametrize("found", [Resolution("unpaid"), Resolution("gone"), Resolution("gone", "job-1")])
async def test_what_brings_no_video_needs_no_job(found):
    """Nothing is asked."""
    provider, checked = check(Gone("404"), found)
    await checked
    await check_job(None, VIDEO, found)
    assert provider.asked == 0
