"""What only the Replicate adapter promises: paths, hosts, an hour of life."""

import contextlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.money import Money
from providers.base import (
    Absent,
    BadAsset,
    Found,
    Gone,
    InDoubt,
    Job,
    JobFailed,
    JobModerated,
    NotConfigured,
    Rejected,
    Status,
    Throttled,
    Unsure,
)
from providers.http import Reply
from providers.replicate import NO_KEY, PAUSE_S, Replicate, ReplicateReader
from tests.support.hosted_provider import KEY
from sandbox.video_api.replicate import MODEL, ReplicatePeer
from tests.support.provider_cases import HOSTS, prices_of, take_for, unclaimed

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`

TAKE = take_for(MODEL)


def build(url: str, **options: Any) -> Any:
    return HOSTS["replicate"].build(url, **options)


# Setting it up


@pytest.mark.parametrize("token", ["", "   "])
def test_without_a_token_it_says_where_to_get_one(token: str) -> None:
    """No token: one sentence names the page and the setting."""
    with pytest.raises(NotConfigured) as caught:
        Replicate(token)
    assert str(caught.value) == NO_KEY


@pytest.mark.parametrize("model", ["alone", "a/b/c", "a/../b", "a/b:short", "a/b?x=1"])
def test_a_model_that_replicate_cannot_have_is_refused(model: str) -> None:
    """A name is `owner/name` or `owner/name:version`; anything else never reaches a path."""
    with pytest.raises(NotConfigured):
        Replicate(KEY, prices_of(model))


async def test_every_model_on_offer_can_be_quoted() -> None:
    """Each default model has a price in every length and size; the list says that it is second hand."""
    provider = Replicate(KEY)
    for seconds in provider.capabilities.seconds:
        for size in provider.capabilities.sizes:
            assert provider.quote(MODEL, seconds, size) == Money.parse("$0.036") * seconds
    await provider.close()


# The order


async def test_an_official_model_and_a_version_have_their_own_paths(tmp_path: Path) -> None:
    """`owner/name` goes to the model's path; with a version, to `/predictions` with it in the body."""
    version = f"me/community:{'a1' * 32}"
    async with ReplicatePeer(tmp_path) as fake_provider:
        provider = Replicate(KEY, prices_of(MODEL, version), base_url=fake_provider.base_url)
        await provider.submit(TAKE)
        fake_provider.script("charge_drop")
        with pytest.raises(InDoubt):
            await provider.submit(replace(TAKE, model=version))
        found = await provider.reconcile(replace(TAKE, model=version), time.time(), unclaimed)
        await provider.close()
    official, community = fake_provider.posts()
    assert official["path"] == f"/v1/models/{MODEL}/predictions"
    assert community["path"] == "/v1/predictions"
    assert json.loads(community["body"])["version"] == version
    assert found == Found(Job(fake_provider.charges()[1]["job"])), "the other model's job has the same seed"


async def test_after_an_hour_the_output_is_gone(tmp_path: Path) -> None:
    """A prediction that succeeded and lost its data is for a person, not asked again for ever."""
    async with ReplicatePeer(tmp_path) as fake_provider:
        provider = build(fake_provider.url)
        job = await provider.submit(TAKE)
        fake_provider.jobs[job.job_id].wiped = True
        with pytest.raises(Gone):
            await provider.state(job.job_id)
        with pytest.raises(Gone):
            await provider.fetch(job.job_id, tmp_path / "v.mp4")
        await provider.close()


@pytest.mark.parametrize("shape", ["one", "list"])
async def test_an_output_is_one_url_or_a_list(shape: str, tmp_path: Path, monkeypatch) -> None:
    """Models answer either; the first is the video."""
    async with ReplicatePeer(tmp_path) as fake_provider:
        one = ReplicatePeer._output
        if shape == "list":
            monkeypatch.setattr(ReplicatePeer, "_output", lambda self, job: [one(self, job)])
        provider = build(fake_provider.url)
        job = await provider.submit(TAKE)
        assert (await provider.fetch(job.job_id, tmp_path / "v.mp4")).path.exists()
        await provider.close()


async def test_a_file_of_the_api_itself_is_fetched_with_the_key(tmp_path: Path, monkeypatch) -> None:
    """`/v1/files/…` belongs to the API and wants the token, which no other host sees."""
    async with ReplicatePeer(tmp_path) as fake_provider:
        monkeypatch.setattr(ReplicatePeer, "_output", lambda self, job: f"{self.base_url}/files/{job.id}")
        provider = build(fake_provider.url)
        job = await provider.submit(TAKE)
        await provider.fetch(job.job_id, tmp_path / "v.mp4")
        await provider.close()
    assert "authorization" in fake_provider.requests()[-1]["headers"]


@pytest.mark.parametrize(
    "output", [None, 5, {}, [], "", "ftp://x/y", "data:video/mp4;base64,AAAA", "http://[", "x"]
)
async def test_an_output_that_is_no_address_is_not_fetched(output: Any, tmp_path: Path, monkeypatch) -> None:
    """What is not a URL of a video is BadAsset, and nothing is asked."""
    async with ReplicatePeer(tmp_path) as fake_provider:
        monkeypatch.setattr(ReplicatePeer, "_output", lambda *_: output)
        provider = build(fake_provider.url)
        job = await provider.submit(TAKE)
        asked = len(fake_provider.requests())
        with pytest.raises(BadAsset):
            await provider.fetch(job.job_id, tmp_path / "v.mp4")
        await provider.close()
    assert len(fake_provider.requests()) == asked + 1


# In doubt


async def test_the_next_page_is_asked_of_our_own_host(tmp_path: Path) -> None:
    """The list names the URL of its next page: only its query is used, so the key cannot be led away."""
    async with ReplicatePeer(tmp_path) as fake_provider:
        fake_provider.page = 1
        provider = build(fake_provider.url)
        for seed in range(3):
            await provider.submit(replace(TAKE, seed=seed))
        found = await provider.reconcile(replace(TAKE, seed=0), time.time(), unclaimed)
        await provider.close()
    assert found == Found(Job(fake_provider.charges()[0]["job"]))
    lists = [one["query"] for one in fake_provider.requests() if one["method"] == "GET"]
    assert [query.get("cursor") for query in lists] == [None, "1", "2"]
    assert all(query["created_after"].endswith("Z") for query in lists)


async def test_a_whole_list_without_ours_is_absent(tmp_path: Path) -> None:
    """It shows predictions from their start on, so what is not there was not made."""
    async with ReplicatePeer(tmp_path) as fake_provider:
        fake_provider.polls = 3
        provider = build(fake_provider.url)
        await provider.submit(replace(TAKE, seed=2))
        assert await provider.reconcile(TAKE, time.time(), unclaimed) == Absent()
        await provider.close()


async def test_another_model_without_its_input_is_not_taken_for_ours(tmp_path: Path) -> None:
    """A stranger's wiped prediction of another model leaves no doubt; one of our model does."""
    async with ReplicatePeer(tmp_path) as fake_provider:
        provider = build(fake_provider.url)
        job = await provider.submit(replace(TAKE, seed=2))
        fake_provider.jobs[job.job_id].wiped = True
        assert isinstance(await provider.reconcile(TAKE, time.time(), unclaimed), Unsure)
        fake_provider.jobs[job.job_id].model = "somebody/else"
        assert await provider.reconcile(TAKE, time.time(), unclaimed) == Absent()
        await provider.close()


READ = ReplicateReader(lambda text: text)


def reply(status: int, body: object, **headers: str) -> Reply:
    return Reply(status, httpx2.Headers(headers), json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "headers", "pause"),
    [
        ({"detail": "Request was throttled. Your rate limit resets in ~30s."}, {}, 30.0),
        ({"detail": "Request was throttled.", "status": 429, "retry_after": 5}, {}, 5.0),
        ({"detail": "Request was throttled. It resets in ~30s."}, {"Retry-After": "2"}, 2.0),
        ({"detail": "Request was throttled."}, {"Retry-After": "soon"}, PAUSE_S),
        ({"detail": "Request was throttled.", "retry_after": True}, {}, PAUSE_S),
        ({"detail": "Request was throttled.", "retry_after": -3}, {}, PAUSE_S),
    ],
)
def test_a_throttled_order_waits_as_long_as_it_is_told(body: Any, headers: Any, pause: float) -> None:
    """Header, field, words, and a minute where nothing is told: a 429 in Replicate's words costs nothing."""
    with pytest.raises(Throttled) as caught:
        READ.accepted(reply(429, body, **headers))
    assert caught.value.retry_after == pause


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["detail", "title", "id", "status", "error", "data_removed", "retry_after"]), inner,
        max_size=4,
    ),
)  # fmt: skip


@given(status=st.integers(200, 599), body=json_values)
def test_no_answer_crashes_the_reader(status: int, body: object) -> None:
    """Any answer is a job, a documented refusal or doubt; no refusal is read out of a 2xx, 3xx or 5xx."""
    answer = reply(status, body)
    try:
        READ.accepted(answer)
    except Rejected:
        assert status in (401, 402, 404, 422)
    except Throttled:
        assert status == 429
    except InDoubt:
        pass
    else:
        assert status < 300
    with contextlib.suppress(JobFailed, Gone):
        READ.status(answer.json() or {})


# A prediction


def test_every_documented_word_has_its_meaning() -> None:
    """Words of the lifecycle page; what never started costs nothing, of the rest nobody says so."""
    assert READ.status({"status": "starting"}) == Status("queued")
    assert READ.status({"status": "processing"}) == Status("running")
    assert READ.status({"status": "succeeded"}) == Status("succeeded", progress=100)
    for word, billing in (("failed", "unknown"), ("canceled", "unknown"), ("aborted", "unbilled")):
        with pytest.raises(JobFailed) as caught:
            READ.status({"status": word})
        assert caught.value.billing == billing


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("The input or output was flagged as sensitive. Please try again. (E005) (x1)", JobModerated),
        ("CUDA out of memory (E1001)", JobFailed),
        (None, JobFailed),
        ({"nested": 1}, JobFailed),
    ],
)
def test_moderation_is_told_by_its_code(error: Any, kind: type[JobFailed]) -> None:
    """E005 is Replicate's word for content that was taken away."""
    with pytest.raises(JobFailed) as caught:
        READ.status({"status": "failed", "error": error})
    assert type(caught.value) is kind
