"""What fal and Replicate have in common beyond the contract: no key, a seed, and a list that finds it."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from providers import job_matching
from providers.base import (
    Absent,
    Found,
    Gone,
    JobFailed,
    JobModerated,
    Provider,
    Rejected,
    Transient,
    Unsure,
)
from sandbox.video_api.server import FakeProviderServer, JobFate
from tests.support.provider_cases import HOSTS, Case, claiming, lost, number_of, outcome, unclaimed

pytestmark = [pytest.mark.slow, pytest.mark.timeout(30)]


@pytest.fixture(params=HOSTS.values(), ids=HOSTS, name="case")
def each_host(request: pytest.FixtureRequest) -> Case:
    return request.param


# The order


async def test_a_model_that_left_the_price_list_is_not_ordered(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """A model without a price is refused before anything is sent."""
    got = await outcome(provider, replace(case.request, model="owner/of-yesterday"))
    assert isinstance(got, Rejected)
    assert fake_provider.requests() == []


async def test_the_same_request_makes_the_same_bytes(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """Two orders of one request are equal to the byte, and carry the prompt unchanged and the seed."""
    await provider.submit(case.request)
    await provider.submit(case.request)
    first, second = fake_provider.posts()
    assert first["body"] == second["body"]
    sent = json.loads(first["body"])
    sent = sent.get("input", sent)
    assert sent["prompt"] == case.request.prompt
    assert (sent["seed"], str(sent["duration"])) == (case.request.seed, "8")
    assert (sent["resolution"], sent["aspect_ratio"]) == ("720p", "9:16")


async def test_a_prompt_that_is_no_unicode_is_sent_once(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """A lone surrogate neither breaks the order nor hides it: the seed finds it."""
    request = replace(case.request, prompt="a fox \ud800")
    await lost(provider, fake_provider, request)
    assert isinstance(await provider.reconcile(request, time.time(), unclaimed), Found)
    assert len(fake_provider.posts()) == 1


async def test_nothing_is_promised_that_is_not_documented(case: Case, build) -> None:
    """No idempotency key, so no replay; a list; and a note that we never met the service."""
    capabilities = build("http://127.0.0.1:9").capabilities
    assert (capabilities.replay, capabilities.listing) == (False, True)
    assert not capabilities.preview
    assert any("never met" in note for note in capabilities.notes)
    assert capabilities.settle_s > capabilities.grace_s + capabilities.submit_timeout_s


# The job


async def test_a_video_is_not_fetched_too_early(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, tmp_path: Path
) -> None:
    """While the job runs, a fetch is Transient."""
    fake_provider.polls = 2
    job = await provider.submit(case.request)
    with pytest.raises(Transient):
        await provider.fetch(job.job_id, tmp_path / "v.mp4")


@pytest.mark.parametrize("bills", [True, False])
@pytest.mark.parametrize(("fate", "error"), [("fail", JobFailed), ("moderate", JobModerated)])
async def test_a_job_that_ends_badly_says_unbilled_only_where_that_is_documented(
    case: Case,
    provider: Provider,
    fake_provider: FakeProviderServer,
    fate: JobFate,
    error: type[JobFailed],
    bills: bool,
    tmp_path: Path,
) -> None:
    """State and fetch both say how it ended; `unbilled` agrees with the charge log, a 422 may be billed."""
    fake_provider.fates.append(fate)
    fake_provider.bills_moderated = bills
    job = await provider.submit(case.request)
    with pytest.raises(error) as caught:
        await provider.state(job.job_id)
    with pytest.raises(error):
        await provider.fetch(job.job_id, tmp_path / "v.mp4")
    assert type(caught.value) is error
    assert caught.value.billing in ("unbilled", "unknown")
    if caught.value.billing == "unbilled":
        assert fake_provider.net() == {}
    if fate == "moderate":
        assert caught.value.billing == "unknown"


@pytest.mark.parametrize("job_id", ["{model}/nobodyknowsthisone", "../../secret", "", "a b", "x/../../y"])
async def test_an_unknown_job_is_gone_and_an_odd_id_leaves_no_path(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, job_id: str
) -> None:
    """The host lost the job, or it never was one: Gone, for a person; no id reaches another path."""
    with pytest.raises(Gone):
        await provider.state(job_id.format(model=case.model))
    assert all("requests/nobody" in one["path"] for one in fake_provider.requests())


# Unknown outcomes


async def test_among_many_the_one_with_our_seed_is_found(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """Same words, same minute: the seed decides, over several pages, and a claimed job is left alone."""
    fake_provider.page = 2
    job_id = await lost(provider, fake_provider, case.request)
    for seed in range(5):
        await provider.submit(replace(case.request, seed=seed))
    found = await provider.reconcile(case.request, time.time(), unclaimed)
    claimed = await provider.reconcile(case.request, time.time() - 9999, claiming(job_id))
    assert isinstance(found, Found)
    assert number_of(found.job) == job_id
    assert isinstance(claimed, (Absent, Unsure))
    assert len([one for one in fake_provider.requests() if one["query"].get("cursor")]) >= 2


async def test_two_jobs_of_one_seed_are_for_a_person(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """Two unclaimed jobs that could be ours are not guessed between."""
    await lost(provider, fake_provider, case.request)
    await provider.submit(case.request)
    found = await provider.reconcile(case.request, time.time(), unclaimed)
    assert found == Unsure("2 unclaimed jobs fit")


async def test_a_job_whose_input_vanished_is_neither_found_nor_absent(
    case: Case, provider: Provider, fake_provider: FakeProviderServer
) -> None:
    """An entry of our time that no longer shows its input may be ours: Unsure."""
    job_id = await lost(provider, fake_provider, case.request)
    fake_provider.jobs[job_id].wiped = True
    assert isinstance(await provider.reconcile(case.request, time.time(), unclaimed), Unsure)


@pytest.mark.parametrize(("fault", "asked"), [("stuck", 2), ("endless", 3), ("refused", 1), ("odd", 1)])
async def test_a_list_that_was_not_seen_whole_proves_nothing(
    case: Case, build, fake_provider: FakeProviderServer, fault: str, asked: int, monkeypatch
) -> None:
    """A cursor that is ignored, more pages than we read, an error, an entry without an id: never Absent."""
    monkeypatch.setattr(job_matching, "MAX_LIST_PAGES", 3)
    fake_provider.page = 100 if fault == "odd" else 1
    provider = build(fake_provider.url, **({"absent_after_s": 0.0} if "fal" in case.model else {}))
    for seed in range(5):
        await provider.submit(replace(case.request, seed=seed))
    fake_provider.ignores_after, fake_provider.listing = fault == "stuck", fault != "refused"
    fake_provider.odd = fault == "odd"
    assert isinstance(await provider.reconcile(case.request, time.time() - 100, unclaimed), Unsure)
    assert sum(one["method"] == "GET" for one in fake_provider.requests()) == asked


@pytest.mark.parametrize("clock_s", [-500, 500])
async def test_a_wrong_clock_does_not_hide_our_job(
    case: Case, provider: Provider, fake_provider: FakeProviderServer, clock_s: float
) -> None:
    """Eight minutes between the clocks change nothing."""
    fake_provider.clock_s = clock_s
    await lost(provider, fake_provider, case.request)
    assert isinstance(await provider.reconcile(case.request, time.time(), unclaimed), Found)
