"""Free questions are generous: redirects, spellings of states, a job's own addresses, its price."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest

from guardrails.money import Money
from providers.base import AccessRefused, Gone, Job, JobFailed, JobLinks, JobModerated, Rejected
from providers.fal import FalReader
from providers.http import Reply, _redirected
from providers.openai_compat import OpenAIReader
from providers.openai_dialects import INWORLD, OPENAI, VLLM_OMNI
from providers.pricing import dollars
from providers.replicate import ReplicateReader
from sandbox.video_api.fal import MODEL, FakeFal
from sandbox.video_api.openai import FakeProvider
from tests.support.provider_cases import HOSTS, SORA_REQUEST, Case

FAL = HOSTS["fal"]
PHASE_OF = {
    "queued": ["queued", "QUEUED", "pending", "IN_QUEUE", "submitted", "starting", "not-started"],
    "running": ["in_progress", "IN_PROGRESS", "In Progress", "processing", "RUNNING", "generating"],
    "succeeded": [
        "completed",
        "succeeded",
        "COMPLETED",
        "done",
        "SUCCESS",
        "finished",
        "JOB_STATE_SUCCEEDED",
    ],
    "unknown": ["CONTEMPLATING", "", "ready", None, 7],
}
WORDS = [(word, phase) for phase, words in PHASE_OF.items() for word in words]
BAD_WORDS = {
    "failed": "failed", "FAILED": "failed", "error": "failed", "cancelled": "cancelled",
    "CANCELED": "cancelled", "expired": "expired", "timed_out": "expired", "moderated": "moderated",
}  # fmt: skip
READERS: dict[str, Callable[[dict[str, object]], str]] = {
    "openai": lambda data: OpenAIReader(OPENAI, str).status(data).phase,
    "fal": lambda data: FalReader(str).phase(data),
    "replicate": lambda data: ReplicateReader(str).status(data).phase,
}


# Redirects


@pytest.mark.parametrize(("status", "to"), [(302, "host"), (307, "host"), (303, "path"), (308, "path")])
async def test_a_redirected_download_is_fetched_without_the_key(
    connect, fake_openai: FakeProvider, status: int, to: str, tmp_path: Path
) -> None:
    """`/content` that leads to a signed address on another host gives the video; that host gets no key."""
    provider = connect(content="redirect", redirect=(status, to), polls=0)
    job = await provider.submit(SORA_REQUEST)
    await provider.state(job.job_id)
    assert (await provider.fetch(job.job_id, tmp_path / "v.mp4")).path.exists()
    last = fake_openai.requests()[-1]
    assert (last["port"] != fake_openai.port) is (to == "host")
    assert ("authorization" in last["headers"]) is (to == "path")


async def test_a_circle_of_redirects_ends(connect, fake_openai: FakeProvider, tmp_path: Path) -> None:
    """An address that leads to itself is asked six times, and the answer is a refusal, not a timeout."""
    provider = connect(content="302", polls=0)
    job = await provider.submit(SORA_REQUEST)
    await provider.state(job.job_id)
    before = len(fake_openai.requests())
    with pytest.raises(AccessRefused, match="more than 5 times"):
        await provider.fetch(job.job_id, tmp_path / "v.mp4")
    assert len(fake_openai.requests()) - before == 6


@pytest.mark.parametrize("to", ["http://files/v.mp4?sig=1", "", "mailto:us", "file:///v.mp4"])
def test_a_redirect_never_leaves_https(to: str) -> None:
    """From https to plain http, or to what is no web address: refused, without the address in the text."""
    with pytest.raises(AccessRefused) as caught:
        _redirected(httpx2.URL("https://host/v1/videos/1/content"), to)
    assert "sig" not in str(caught.value)


# States


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("word", "phase"), WORDS)
def test_every_spelling_of_a_phase_is_read(read, word: object, phase: str) -> None:
    """A job that is done and spelled otherwise is done; a word that may mean several things is unknown."""
    assert read({"status": word}) == phase


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("word", "ended"), BAD_WORDS.items())
def test_every_bad_end_ends_at_once_under_its_name(read, word: str, ended: str) -> None:
    """A cancelled, expired or failed job is no unknown state that is polled until it is overdue."""
    with pytest.raises(JobFailed) as caught:
        read({"status": word})
    assert caught.value.ended_as == ended
    assert isinstance(caught.value, JobModerated) is (ended == "moderated")
    if ended == "expired":
        assert caught.value.billing == "unknown"


@pytest.mark.parametrize("content", ["400", "401", "403"])
async def test_a_refused_download_has_its_own_name(
    case: Case, provider, fake_provider, content: str, tmp_path: Path
) -> None:
    """400, 401 and 403 are neither "gone" nor a network that is down."""
    job = await provider.submit(case.request)
    await provider.state(job.job_id)
    fake_provider.content = content
    with pytest.raises(AccessRefused, match=content):
        await provider.fetch(job.job_id, tmp_path / "v.mp4")


@pytest.mark.parametrize(("content", "final"), [("404", False), ("410", True)])
async def test_a_404_is_not_final(connect, fake_openai, content: str, final: bool, tmp_path: Path) -> None:
    """A 404 may be a store that lags behind its own writes; a 410 is meant."""
    provider = connect(content=content, polls=0)
    job = await provider.submit(SORA_REQUEST)
    await provider.state(job.job_id)
    with pytest.raises(Gone) as caught:
        await provider.fetch(job.job_id, tmp_path / "v.mp4")
    assert caught.value.final is final


# fal: its own addresses, and no second tries


@pytest.fixture
async def fal(tmp_path: Path):
    async with FakeFal(tmp_path / "fal") as server:
        provider = FAL.build(server.url)
        yield provider, server
        await provider.close()


async def test_fal_is_asked_at_the_addresses_that_it_gave(fal, tmp_path: Path) -> None:
    """The answer to the POST names both addresses: they are handed on, and asked; fal does not repeat."""
    provider, server = fal
    server.app_alias = "fal-ai/another"
    job = await provider.submit(FAL.request)
    (post,) = server.posts()
    assert post["headers"]["x-fal-no-retry"] == "1"
    number = server.charges()[0]["job"]
    own = f"/fal-ai/another/requests/{number}"
    assert job == Job(f"{MODEL}/{number}", links=JobLinks(f"{server.url}{own}/status", f"{server.url}{own}"))
    assert (await provider.state(job.job_id, job.links)).phase == "succeeded"
    await provider.fetch(job.job_id, tmp_path / "v.mp4", job.links)
    asked = [one["path"] for one in server.requests() if "/requests/" in one["path"]]
    assert asked == [f"{own}/status", own] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        "https://elsewhere.example/fal-ai/x/requests/{id}/status",
        "http://user:pass@{host}/requests/{id}/status",
        "{url}/fal-ai/x/requests/another-request",
        "no address",
        "http://[",
    ],
)
async def test_an_address_elsewhere_is_not_asked(fal, wrong: str) -> None:
    """Only fal's own host gets the key, and only for this request; else the address is built from the id."""
    provider, server = fal
    job = await provider.submit(FAL.request)
    number = server.charges()[0]["job"]
    given = wrong.format(id=number, url=server.url, host=server.url.removeprefix("http://"))
    assert (await provider.state(job.job_id, JobLinks(given, given))).phase == "succeeded"
    built = f"/fal-ai/bytedance/requests/{number}"
    assert [one["path"] for one in server.requests()[1:]] == [f"{built}/status", built]


# Prices


@pytest.mark.parametrize("change", [{"model": "owner/of-yesterday"}, {"seconds": 5}, {"size": "1x1"}])
async def test_what_left_the_price_list_is_not_ordered(
    case: Case, provider, fake_provider, change: dict[str, object]
) -> None:
    """Every adapter refuses an order without a price before anything is sent: nothing is charged."""
    with pytest.raises(Rejected, match="no longer on offer"):
        await provider.submit(replace(case.request, **change))
    assert fake_provider.requests() == []


@pytest.mark.parametrize(
    ("value", "micros"),
    [
        (0.8, 800_000), ("$0.80", 800_000), ("1.2345678", 1_234_568), (3, 3_000_000), (0, None), (-1, None),
        (True, None), ("many", None), ("1e999999", None), (float("nan"), None), (10_000, None), ([1], None),
        (0.0000001, None),
    ],
)  # fmt: skip
def test_dollars_are_read_exactly_or_not_at_all(value: object, micros: int | None) -> None:
    """What is no price is none: no charge is booked as zero, and no figure is guessed."""
    assert dollars(value) == (None if micros is None else Money(micros))


def reply(data: object) -> Reply:
    return Reply(200, httpx2.Headers(), json.dumps(data).encode())


def test_the_price_that_a_job_names_is_read() -> None:
    """`usage.cost` in dollars is the price of the whole job, in the answer to the POST and in its states."""
    read = OpenAIReader(OPENAI, str)
    job = {"id": "video_1", "status": "completed", "usage": {"cost": 0.64, "is_byok": False}}
    assert read.accepted(reply(job)) == Job("video_1", Money.parse("$0.64"))
    assert read.status(job).billed == Money.parse("$0.64")
    assert read.status(job | {"usage": {"cost": 0}}).billed is None
    assert read.status(job | {"usage": {"cost": 0.01, "is_byok": True}}).billed is None
    assert OpenAIReader(INWORLD, str).status(job).billed is None


def test_a_failed_job_that_names_its_price_is_billed() -> None:
    """Even where the dialect says that failed jobs are free: the figure of the job itself counts."""
    dialect = replace(VLLM_OMNI, cost_path=("usage", "cost"))
    failed = {
        "id": "v",
        "status": "failed",
        "usage": {"cost": "0.64"},
        "error": {"code": "x", "message": "y"},
    }
    with pytest.raises(JobFailed) as caught:
        OpenAIReader(dialect, str).status(failed)
    assert (caught.value.billing, caught.value.billed) == ("billed", Money.parse("$0.64"))
    with pytest.raises(JobFailed) as caught:
        OpenAIReader(dialect, str).status(failed | {"usage": {"cost": 0}})
    assert (caught.value.billing, caught.value.billed) == ("unbilled", None)
