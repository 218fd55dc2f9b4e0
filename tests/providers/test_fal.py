"""What only the fal adapter promises: its headers, its paths, a list of ended requests."""

import contextlib
import json
import time
from dataclasses import replace
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guardrails.money import Money
from providers.base import (
    Absent,
    AccessRefused,
    Found,
    Gone,
    InDoubt,
    Job,
    JobFailed,
    JobModerated,
    NotConfigured,
    Provider,
    Rejected,
    Transient,
    Unsure,
)
from providers.fal import NO_KEY, START_S, Fal, FalReader
from providers.http import Reply
from providers.pricing import FAL_PRICES, FAL_RECIPE, FAL_RECIPES, Recipe, listed_input, model_input
from sandbox.video_api.fal import MODEL, FakeFal
from sandbox.video_api.server import FAKE_KEY
from tests.support.provider_cases import HOSTS, Case, prices_of, unclaimed

pytestmark = pytest.mark.slow  # minutes in all: `make test-rest`

REQUEST = HOSTS["fal"].request


@pytest.fixture
def case() -> Case:
    return HOSTS["fal"]


# Setting it up


@pytest.mark.parametrize("key", ["", "   "])
def test_without_a_key_it_says_where_to_get_one(key: str) -> None:
    """No key: one sentence names the page and the setting."""
    with pytest.raises(NotConfigured) as caught:
        Fal(key)
    assert str(caught.value) == NO_KEY
    assert "fal.ai/dashboard/keys" in NO_KEY


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel", " blank "])
def test_a_key_that_no_header_could_carry_is_refused_at_once(key: str) -> None:
    """It fails when the adapter is built, never at the paid step, and is not repeated."""
    with pytest.raises(NotConfigured) as caught:
        Fal(key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("model", ["alone", "a/../b", "workflows/me/mine", "a//b", "a/b?x=1", "a/b c"])
def test_a_model_without_a_queue_of_its_own_is_refused(model: str) -> None:
    """The status is asked under owner and app: a name without them would lose a paid video."""
    with pytest.raises(NotConfigured):
        Fal(FAKE_KEY, prices_of(model))


async def test_every_model_on_offer_has_a_price_a_length_and_a_size() -> None:
    """Each default model can be quoted in every length and size, so that no menu shows what cannot be had."""
    provider = Fal(FAKE_KEY)
    for model in provider.capabilities.models:
        for seconds in provider.capabilities.seconds:
            for size in provider.capabilities.sizes:
                assert provider.quote(model, seconds, size) > Money(0)
    await provider.close()
    assert FAL_PRICES.source
    assert FAL_RECIPES.keys() <= FAL_PRICES.models.keys()


# The bytes


async def test_the_order_goes_to_the_model_and_bounds_its_wait(
    provider: Provider, fake_provider: FakeFal
) -> None:
    """The POST names the whole model, says to fal when to stop waiting, and lets it keep the payload."""
    job = await provider.submit(REQUEST)
    (post,) = fake_provider.posts()
    assert post["path"] == f"/{MODEL}"
    assert post["headers"]["x-fal-request-timeout"] == str(START_S)
    assert json.loads(post["headers"]["x-fal-object-lifecycle-preference"]) == {
        "expiration_duration_seconds": 604_800
    }
    assert "x-fal-store-io" not in post["headers"]
    assert job.job_id == f"{MODEL}/{fake_provider.charges()[0]['job']}"


@pytest.mark.parametrize("sound", [True, False])
async def test_the_sound_is_switched_where_the_model_documents_it(
    fake_provider: FakeFal, sound: bool
) -> None:
    """The body of a silent order differs in `generate_audio` alone, and its price is that of its list."""
    prices = FAL_PRICES.model_copy(update={"models": FAL_PRICES.models | prices_of("a/b").models})
    url = fake_provider.url
    provider = Fal(FAKE_KEY, prices, queue_url=url, api_url=f"{url}/v1")
    assert provider.capabilities.silenceable == tuple(FAL_RECIPES)
    assert provider.quote(MODEL, 8, "720x1280", sound=False) == Money.parse("$0.208")
    with pytest.raises(ValueError, match="without sound"):
        provider.quote("a/b", 8, "720x1280", sound=False)
    await provider.submit(replace(REQUEST, sound=sound, avoid="people", style="anime"))
    (post,) = fake_provider.posts()
    wanted = model_input(REQUEST, FAL_RECIPES[MODEL]) | {"generate_audio": sound}
    assert json.loads(post["body"]) == wanted
    await provider.close()


def test_a_model_gets_the_fields_that_it_documents() -> None:
    """Durations as text for Seedance, numbers elsewhere, and no seed for a model that takes none."""
    assert model_input(REQUEST, FAL_RECIPES[MODEL]) == {
        "prompt": REQUEST.prompt,
        "duration": "8",
        "resolution": "720p",
        "aspect_ratio": "9:16",
        "seed": REQUEST.seed,
        "generate_audio": True,
    }
    assert model_input(REQUEST, Recipe(seeded=False))["duration"] == 8
    assert "seed" not in model_input(REQUEST, Recipe(seeded=False))


def test_a_seed_that_was_not_sent_is_not_compared() -> None:
    """A model that takes no seed may list one of its own: that does not say whose job it is."""
    listed = model_input(REQUEST, FAL_RECIPE) | {"seed": 5}
    assert listed_input(listed, REQUEST, FAL_RECIPE)["seed"] == 5
    assert listed_input(listed, REQUEST, Recipe(seeded=False))["seed"] is None


async def test_status_and_result_are_asked_under_owner_and_app(
    provider: Provider, fake_provider: FakeFal
) -> None:
    """Only the POST uses the path of the endpoint; without fal's own addresses they are built."""
    job = await provider.submit(REQUEST)
    await provider.state(job.job_id)
    own = f"/fal-ai/bytedance/requests/{fake_provider.charges()[0]['job']}"
    assert [one["path"] for one in fake_provider.requests()[1:]] == [f"{own}/status", own]


# Unknown outcomes


async def test_a_request_that_still_runs_is_not_called_absent(
    provider: Provider, fake_provider: FakeFal
) -> None:
    """The list shows ended requests only: Unsure while ours may run, Found once it has ended."""
    fake_provider.polls = 3
    fake_provider.script("charge_drop")
    with pytest.raises(InDoubt):
        await provider.submit(REQUEST)
    early = await provider.reconcile(REQUEST, time.time(), unclaimed)
    fake_provider.polls = 0
    late = await provider.reconcile(REQUEST, time.time(), unclaimed)
    assert isinstance(early, Unsure)
    assert late == Found(Job(f"{MODEL}/{fake_provider.charges()[0]['job']}"))


async def test_a_request_is_absent_once_it_could_no_longer_run(
    provider: Provider, fake_provider: FakeFal
) -> None:
    """After the latest start and the longest run, a whole list without it is proof."""
    long_ago = time.time() - provider.capabilities.settle_s
    assert await provider.reconcile(REQUEST, long_ago, unclaimed) == Absent()
    assert isinstance(await provider.reconcile(REQUEST, long_ago + 900, unclaimed), Unsure)
    asked = fake_provider.requests()[0]["query"]
    assert (asked["endpoint_id"], asked["expand"]) == (MODEL, "payloads")


async def test_a_failed_request_is_found_too(provider: Provider, fake_provider: FakeFal) -> None:
    """A job that was charged and then failed is linked; its state says the rest."""
    fake_provider.fates.append("moderate")
    fake_provider.bills_moderated = True
    fake_provider.script("charge_500")
    with pytest.raises(InDoubt):
        await provider.submit(REQUEST)
    found = await provider.reconcile(REQUEST, time.time(), unclaimed)
    assert isinstance(found, Found)
    with pytest.raises(JobModerated):
        await provider.state(found.job.job_id)
    assert list(fake_provider.net().values()) == [800_000]


READ = FalReader(lambda text: text)


def reply(status: int, body: object) -> Reply:
    return Reply(status, httpx2.Headers(), json.dumps(body).encode())


# What comes back


def test_no_funds_is_read_from_the_text_of_a_locked_account() -> None:
    """fal has one status for a bad key and for an exhausted balance."""
    for words, reason in (("User is locked. Reason: Exhausted balance.", "funds"), ("Forbidden", "auth")):
        with pytest.raises(Rejected) as caught:
            READ.accepted(reply(403, {"detail": words}), MODEL)
        assert caught.value.reason == reason


@pytest.mark.parametrize("status", [400, 402, 408, 409, 425, 429, 500, 503])
def test_an_undocumented_refusal_is_an_unknown_outcome(status: int) -> None:
    """fal's own shape is not enough: a 429 is documented only for a queue limit that we never set."""
    with pytest.raises(InDoubt):
        READ.accepted(reply(status, {"detail": "no", "error_type": "rate_limited"}), MODEL)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["detail", "type", "msg", "error", "error_type", "request_id", "status"]), inner,
        max_size=4,
    ),
)  # fmt: skip


@given(status=st.integers(200, 599), body=json_values, status_body=json_values)
def test_no_answer_crashes_the_reader(status: int, body: object, status_body: object) -> None:
    """Any answer is a job, a documented refusal or InDoubt; any result a video, a failure or Transient."""
    answer = reply(status, body)
    try:
        READ.accepted(answer, MODEL)
    except Rejected:
        assert status in (401, 403, 404, 422)
    except InDoubt:
        pass
    else:
        assert status < 300
    with contextlib.suppress(AccessRefused, JobFailed, Gone, Transient):
        assert READ.result(status_body if isinstance(status_body, dict) else {}, answer) is not None
        assert status == 200


TIMED_OUT = {"detail": "Request timed out", "error_type": "request_timeout"}
STATUS_TIMED_OUT = {"status": "COMPLETED", "error": "Request timed out", "error_type": "request_timeout"}
REFUSED = {"detail": [{"type": "content_policy_violation", "msg": "no", "input": "the prompt"}]}


@pytest.mark.parametrize(
    ("status_body", "status", "body", "error", "billing"),
    [
        (STATUS_TIMED_OUT, 504, TIMED_OUT, JobFailed, "unbilled"),
        (STATUS_TIMED_OUT, 422, TIMED_OUT, JobFailed, "unknown"),
        (STATUS_TIMED_OUT, 403, TIMED_OUT, JobFailed, "unknown"),
        (STATUS_TIMED_OUT, 500, {"detail": "oops"}, JobFailed, "unknown"),
        (STATUS_TIMED_OUT, 502, "<html>", JobFailed, "unknown"),
        ({}, 504, TIMED_OUT, Transient, None),
        ({}, 401, {"detail": "Unauthorized"}, AccessRefused, None),
        ({}, 404, {"detail": "Not Found"}, Gone, None),
        ({}, 200, [], Transient, None),
        ({}, 422, REFUSED, JobModerated, "unknown"),
        ({}, 422, {"detail": "too long"}, JobFailed, "unknown"),
        ({}, 422, "<html>", Transient, None),
    ],
)
def test_only_a_failure_of_the_platform_that_both_answers_name_is_unbilled(
    status_body: Any, status: int, body: Any, error: type[Exception], billing: str | None
) -> None:
    """5xx is never charged, if status and result name the same error; a 422 may be; the rest says nothing."""
    with pytest.raises(error) as caught:
        READ.result(status_body, reply(status, body))
    assert type(caught.value) is error
    assert getattr(caught.value, "billing", None) == billing
    assert "the prompt" not in str(caught.value)


async def test_a_failed_validation_shows_only_in_the_result(
    provider: Provider, fake_provider: FakeFal
) -> None:
    """COMPLETED says that the work ended: the 422 behind it is a failure, and it may be billed."""
    fake_provider.fates.append("invalid")
    job = await provider.submit(REQUEST)
    with pytest.raises(JobFailed) as caught:
        await provider.state(job.job_id)
    assert (type(caught.value), caught.value.billing) == (JobFailed, "unknown")
