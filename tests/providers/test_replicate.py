"""What only the Replicate adapter promises: paths, hosts, output that is kept for an hour."""

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
    Provider,
    Rejected,
    Status,
    Throttled,
    Unsure,
)
from providers.http import Reply
from providers.replicate import NO_KEY, PAUSE_S, Replicate, ReplicateReader
from sandbox.video_api.replicate import MODEL, FakeReplicate
from sandbox.video_api.server import FAKE_KEY
from tests.support.provider_cases import HOSTS, Case, prices_of, unclaimed

pytestmark = pytest.mark.slow  # minutes in all: `make test-rest`

REQUEST = HOSTS["replicate"].request


@pytest.fixture
def case() -> Case:
    return HOSTS["replicate"]


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
        Replicate(FAKE_KEY, prices_of(model))


async def test_every_model_on_offer_can_be_quoted() -> None:
    """Each default model has a price in every length and size; the list says that it is second hand."""
    provider = Replicate(FAKE_KEY)
    for seconds in provider.capabilities.seconds:
        for size in provider.capabilities.sizes:
            assert provider.quote(MODEL, seconds, size) == Money.parse("$0.036") * seconds
    await provider.close()


# The order


async def test_an_official_model_and_a_version_have_their_own_paths(
    opened: contextlib.AsyncExitStack, fake_provider: FakeReplicate
) -> None:
    """`owner/name` goes to the model's path; with a version, to `/predictions` with it in the body."""
    version = f"me/community:{'a1' * 32}"
    provider = Replicate(FAKE_KEY, prices_of(MODEL, version), base_url=fake_provider.base_url)
    opened.push_async_callback(provider.close)
    await provider.submit(REQUEST)
    fake_provider.script("charge_drop")
    with pytest.raises(InDoubt):
        await provider.submit(replace(REQUEST, model=version))
    found = await provider.reconcile(replace(REQUEST, model=version), time.time(), unclaimed)
    official, community = fake_provider.posts()
    assert official["path"] == f"/v1/models/{MODEL}/predictions"
    assert community["path"] == "/v1/predictions"
    assert json.loads(community["body"])["version"] == version
    assert found == Found(Job(fake_provider.charges()[1]["job"])), "the other model's job has the same seed"


async def test_after_an_hour_the_output_is_gone(
    provider: Provider, fake_provider: FakeReplicate, tmp_path: Path
) -> None:
    """A prediction that succeeded and lost its data is for a person, and is not polled without end."""
    job = await provider.submit(REQUEST)
    fake_provider.jobs[job.job_id].wiped = True
    with pytest.raises(Gone):
        await provider.state(job.job_id)
    with pytest.raises(Gone):
        await provider.fetch(job.job_id, tmp_path / "v.mp4")


@pytest.mark.parametrize("shape", ["one", "list"])
async def test_an_output_is_one_url_or_a_list(
    provider: Provider, fake_provider: FakeReplicate, shape: str, tmp_path: Path, monkeypatch
) -> None:
    """Models answer either; the first is the video."""
    one = FakeReplicate._output
    if shape == "list":
        monkeypatch.setattr(FakeReplicate, "_output", lambda self, job: [one(self, job)])
    job = await provider.submit(REQUEST)
    assert (await provider.fetch(job.job_id, tmp_path / "v.mp4")).path.exists()


async def test_a_file_of_the_api_itself_is_fetched_with_the_key(
    provider: Provider, fake_provider: FakeReplicate, tmp_path: Path, monkeypatch
) -> None:
    """`/v1/files/…` belongs to the API and needs the token, which no other host gets."""
    monkeypatch.setattr(FakeReplicate, "_output", lambda self, job: f"{self.base_url}/files/{job.id}")
    job = await provider.submit(REQUEST)
    await provider.fetch(job.job_id, tmp_path / "v.mp4")
    assert "authorization" in fake_provider.requests()[-1]["headers"]


@pytest.mark.parametrize(
    "output", [None, 5, {}, [], "", "ftp://x/y", "data:video/mp4;base64,AAAA", "http://[", "x"]
)
async def test_an_output_that_is_no_address_is_not_fetched(
    provider: Provider, fake_provider: FakeReplicate, output: Any, tmp_path: Path, monkeypatch
) -> None:
    """What is not a URL of a video is BadAsset, and nothing is asked."""
    monkeypatch.setattr(FakeReplicate, "_output", lambda *_: output)
    job = await provider.submit(REQUEST)
    asked = len(fake_provider.requests())
    with pytest.raises(BadAsset):
        await provider.fetch(job.job_id, tmp_path / "v.mp4")
    assert len(fake_provider.requests()) == asked + 1


# Unknown outcomes


async def test_the_next_page_is_asked_of_our_own_host(
    provider: Provider, fake_provider: FakeReplicate
) -> None:
    """The list names the URL of its next page: only its query is used, so the key cannot be led away."""
    fake_provider.page = 1
    for seed in range(3):
        await provider.submit(replace(REQUEST, seed=seed))
    found = await provider.reconcile(replace(REQUEST, seed=0), time.time(), unclaimed)
    assert found == Found(Job(fake_provider.charges()[0]["job"]))
    lists = [one["query"] for one in fake_provider.requests() if one["method"] == "GET"]
    assert [query.get("cursor") for query in lists] == [None, "1", "2"]
    assert all(query["created_after"].endswith("Z") for query in lists)


async def test_a_whole_list_without_ours_is_absent(provider: Provider, fake_provider: FakeReplicate) -> None:
    """The list shows predictions from their start, so one that is not listed was not made."""
    fake_provider.polls = 3
    await provider.submit(replace(REQUEST, seed=2))
    assert await provider.reconcile(REQUEST, time.time(), unclaimed) == Absent()


async def test_another_model_without_its_input_is_not_ours(
    provider: Provider, fake_provider: FakeReplicate
) -> None:
    """A wiped prediction of another model is not ours; one of our model may be."""
    job = await provider.submit(replace(REQUEST, seed=2))
    fake_provider.jobs[job.job_id].wiped = True
    assert isinstance(await provider.reconcile(REQUEST, time.time(), unclaimed), Unsure)
    fake_provider.jobs[job.job_id].model = "somebody/else"
    assert await provider.reconcile(REQUEST, time.time(), unclaimed) == Absent()


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
def test_a_throttled_order_waits_as_long_as_stated(body: Any, headers: Any, pause: float) -> None:
    """Header, field, text, else a minute: a 429 in Replicate's own form costs nothing."""
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
    """Any answer is a job, a documented refusal or InDoubt; a 2xx, 3xx or 5xx is never a refusal."""
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
    """Status words of the lifecycle page; only a job that never started is documented as unbilled."""
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
def test_moderation_is_recognised_by_its_code(error: Any, kind: type[JobFailed]) -> None:
    """E005 is Replicate's code for content that was removed."""
    with pytest.raises(JobFailed) as caught:
        READ.status({"status": "failed", "error": error})
    assert type(caught.value) is kind
