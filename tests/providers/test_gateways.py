"""Gateways in front of a provider: noticed before the first order, or forbidden to send an order twice."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from ledger.schema import MAX_JOB_ID as MAX_IN_LEDGER
from providers.base import (
    MAX_JOB_ID,
    InDoubt,
    Job,
    KeyRefused,
    NotConfigured,
    NotSent,
    Provider,
    Rejected,
    Throttled,
    Transient,
)
from providers.gateways import MARKS, count_sends, find_gateway, is_litellm_id
from providers.http import Reply
from providers.openai_compat import OpenAICompat, OpenAIReader
from providers.openai_dialects import DIALECTS, INWORLD, LITELLM, OPENAI, Dialect
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY
from tests.support.provider_cases import SORA_REQUEST, Case, openai_adapter

LITELLM_MARK = {"x-litellm-version": "1.108.7"}
OTHERS = [dialect for dialect in DIALECTS.values() if not dialect.gateway]
Connect = Callable[..., OpenAICompat]


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda dialect: dialect.name)
async def test_nothing_is_ordered_through_a_gateway(
    connect: Connect, fake_openai: FakeProvider, dialect: Dialect
) -> None:
    """The first order of a process is preceded by a free question with the key, which shows the marks."""
    provider = connect(dialect, gateway=LITELLM_MARK)
    with pytest.raises(Rejected, match="VIDEO_DIALECT=litellm"):
        await provider.submit(SORA_REQUEST)
    with pytest.raises(NotConfigured, match="LiteLLM"):
        await provider.check()
    assert fake_openai.posts() == []
    assert all("authorization" in request["headers"] for request in fake_openai.requests())


@pytest.mark.parametrize("mark", MARKS)
async def test_every_gateway_is_named(connect: Connect, fake_openai: FakeProvider, mark: str) -> None:
    """The refusal names the gateway and what to set, and nothing is sent."""
    provider = connect(gateway={f"{mark.title()}Version": "1"})
    with pytest.raises(Rejected) as caught:
        await provider.submit(SORA_REQUEST)
    assert MARKS[mark] in str(caught.value)
    assert ("VIDEO_PROXY_RETRIES_OFF" in str(caught.value)) == (mark != "x-litellm-")
    assert fake_openai.posts() == []


async def test_the_question_is_asked_once_per_process(connect: Connect, fake_openai: FakeProvider) -> None:
    """One question before the first order, none before the second; a new process asks again."""
    for _ in range(2):
        provider = connect()
        await provider.submit(SORA_REQUEST)
        await provider.submit(replace(SORA_REQUEST, key="other"))
    kinds = [request["method"] for request in fake_openai.requests()]
    assert kinds == ["GET", "POST", "POST"] * 2


async def test_a_gateway_that_appears_later_is_noticed(connect: Connect, fake_openai: FakeProvider) -> None:
    """Any answer with a mark stops the next payment."""
    provider = connect()
    job = await provider.submit(SORA_REQUEST)
    fake_openai.gateway = LITELLM_MARK
    await provider.state(job.job_id)
    with pytest.raises(Rejected):
        await provider.submit(replace(SORA_REQUEST, key="other"))
    assert len(fake_openai.posts()) == 1


async def test_its_owner_can_vouch_for_a_gateway(connect: Connect, fake_openai: FakeProvider) -> None:
    """A gateway that its owner says repeats nothing is used, and not asked for first."""
    provider = connect(vouched=True, gateway=LITELLM_MARK)
    await provider.submit(SORA_REQUEST)
    assert [request["path"] for request in fake_openai.requests()] == ["/v1/videos"]


async def test_nothing_is_ordered_with_a_key_that_is_refused(connect: Connect, faulty: Any) -> None:
    """Who is not let in sees no marks: the order ends unpaid by its name, and no POST was sent."""
    provider = connect()
    provider._http._free = httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(403, json={"error": {"message": "no"}}))
    )
    with pytest.raises(Rejected, match="VIDEO_API_KEY") as caught:
        await provider.submit(SORA_REQUEST)
    assert caught.value.reason == "auth"


async def test_an_answer_to_a_stranger_does_not_count_as_the_look(
    connect: Connect, fake_openai: FakeProvider
) -> None:
    """LiteLLM without its database takes every key for a wrong one, with 400 and without marks."""
    provider = connect(INWORLD)
    fake_openai.shape = "litellm"  # it wants Bearer: the key of this dialect is a wrong one
    with pytest.raises(Rejected) as caught:
        await provider.submit(SORA_REQUEST)
    assert caught.value.reason == "auth"
    assert fake_openai.posts() == []


async def test_the_question_goes_to_the_api(connect: Connect) -> None:
    """Below a path, too."""
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={"data": []}, headers=LITELLM_MARK)

    provider = connect(url="http://127.0.0.1:9/proxy")
    provider._http._free = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    with pytest.raises(NotConfigured):
        await provider.check()
    assert seen == ["http://127.0.0.1:9/proxy/v1/videos?limit=1"]


# What an answer proves


def error_reply(status: int, *, marks: dict[str, str], **error: object) -> Reply:
    return Reply(status, httpx2.Headers(marks), json.dumps({"error": error}).encode())


def read(dialect: Dialect, reply: Reply, gateway: str = "") -> Job | Exception:
    try:
        return OpenAIReader(dialect, lambda text: text).accepted(reply, gateway)
    except (InDoubt, Rejected, Throttled) as error:
        return error


@pytest.mark.parametrize("dialect", OTHERS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("status", [400, 401, 403, 422, 429])
def test_an_error_through_a_gateway_proves_nothing(dialect: Dialect, status: int) -> None:
    """It may answer the last of several POSTs, of which an earlier one was charged."""
    marks = {"retry-after": "3"}
    plain = error_reply(status, marks=marks, code="invalid_value", message="no")
    marked = error_reply(status, marks=marks | LITELLM_MARK, code="invalid_value", message="no")
    assert type(read(dialect, marked)) is InDoubt
    assert type(read(dialect, plain, gateway="Portkey")) is InDoubt
    assert type(read(dialect, plain)) is not InDoubt or status not in dialect.refusals


UPSTREAM = "litellm.BadRequestError: OpenAIException - "


def upstream(code: str) -> str:
    """What LiteLLM says of a provider's own error."""
    return UPSTREAM + json.dumps({"error": {"code": code, "message": "no"}})


READ_OF_LITELLM: list[tuple[int, str, str, type[Exception], str]] = [
    # status, message, type, what it is, and its reason or its pause
    (400, upstream("invalid_value"), "", Rejected, "invalid"),
    (400, upstream("moderation_blocked"), "", Rejected, "policy"),
    (400, "litellm.ContentPolicyViolationError: no", "", Rejected, "policy"),
    (400, "/videos: Invalid model name passed in model=x", "", Rejected, "invalid"),
    (400, "No connected db.", "no_db_connection", Rejected, "auth"),
    (401, upstream("invalid_api_key"), "", Rejected, "auth"),
    (402, upstream("payment_required"), "", Rejected, "funds"),
    (429, "Budget has been exceeded!", "budget_exceeded", Rejected, "funds"),
    (429, upstream("insufficient_quota"), "", Rejected, "funds"),
    (429, upstream("rate_limit_exceeded"), "", InDoubt, ""),
    (429, "litellm.RateLimitError: Model rate limit exceeded. RPM limit=1", "", Throttled, "60"),
    (429, "No deployments available for selected model, Try again in 5 seconds.", "", Throttled, "5"),
    (500, UPSTREAM + "{}", "", InDoubt, ""),
    (404, upstream("not_found"), "", InDoubt, ""),
]


@pytest.mark.parametrize(("status", "message", "type_", "kind", "detail"), READ_OF_LITELLM)
def test_litellm_answers_are_proof_because_it_may_not_try_again(
    status: int, message: str, type_: str, kind: type[Exception], detail: str
) -> None:
    """The provider's own code is read from inside of LiteLLM's message; its own limits were never sent."""
    error = {"message": message, "type": type_ or "invalid_request_error", "code": str(status)}
    got = read(LITELLM, error_reply(status, marks=LITELLM_MARK, **error))
    assert type(got) is kind, got
    found = f"{got.retry_after:g}" if isinstance(got, Throttled) else getattr(got, "reason", "")
    assert found == detail


def test_the_providers_retry_after_is_waited_for() -> None:
    """LiteLLM hands it on under another name."""
    marks = LITELLM_MARK | {"llm_provider-retry-after": "7"}
    got = read(LITELLM, error_reply(429, marks=marks, message=UPSTREAM + "{}", code="429"))
    assert isinstance(got, Throttled)
    assert got.retry_after == 7


def test_without_its_marks_only_a_refused_key_is_proof() -> None:
    """What does not bear LiteLLM's marks may be another gateway, which knows nothing of our conditions."""
    assert type(read(LITELLM, error_reply(400, marks={}, message="no", code="400"))) is InDoubt
    assert type(read(LITELLM, error_reply(401, marks={}, message="no", code="401"))) is Rejected
    assert type(read(LITELLM, error_reply(400, marks={}, message="no", type="no_db_connection"))) is Rejected


def test_an_error_after_second_tries_is_not_proof() -> None:
    """A LiteLLM that tried again all the same, and says so."""
    marks = LITELLM_MARK | {"x-litellm-attempted-retries": "1"}
    assert type(read(LITELLM, error_reply(400, marks=marks, message="no", code="400"))) is InDoubt


@pytest.mark.parametrize(
    ("headers", "sends"),
    [
        ({}, 1),
        ({"x-litellm-attempted-retries": "0", "x-litellm-attempted-fallbacks": "0"}, 1),
        ({"x-litellm-attempted-retries": "2"}, 3),
        ({"x-litellm-attempted-retries": "1", "x-litellm-attempted-fallbacks": "1"}, 3),
        ({"x-portkey-retry-attempt-count": "3"}, 4),
        ({"ngrok-aig-attempts": "1"}, 1),
        ({"ngrok-aig-attempts": "3"}, 3),
        ({"x-litellm-attempted-retries": "-1"}, 1),
        ({"x-litellm-attempted-retries": "many"}, 1),
    ],
)
def test_sends_are_counted_as_admitted(headers: dict[str, str], sends: int) -> None:
    """What a gateway says of itself in the answer is what may have been charged."""
    assert count_sends(httpx2.Headers(headers)) == sends
    job = read(OPENAI, Reply(200, httpx2.Headers(headers), b'{"id": "video_1"}'))
    assert isinstance(job, Job)
    assert job.sends == sends


def test_ordinary_headers_are_no_marks() -> None:
    """A CDN or a load balancer does not keep anyone from ordering."""
    ordinary = {"cf-ray": "1", "via": "1.1 google", "server": "envoy", "x-envoy-attempt-count": "1"}
    assert find_gateway(ordinary) == ""


# Job ids


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_an_id_fits_the_ledger_or_is_none(dialect: Dialect) -> None:
    """Up to 512 characters; a longer one is an unknown outcome before anything is booked."""
    assert MAX_JOB_ID == MAX_IN_LEDGER == 512
    fits = "video_" + "a" * (MAX_JOB_ID - 6)
    got = read(dialect, Reply(200, httpx2.Headers(), json.dumps({"id": fits}).encode()))
    assert isinstance(got, Job)
    assert got.job_id == fits
    too_long = Reply(200, httpx2.Headers(), json.dumps({"id": fits + "a"}).encode())
    assert type(read(dialect, too_long)) is InDoubt


async def test_litellm_ids_are_told_from_the_providers(connect: Connect, fake_openai: FakeProvider) -> None:
    """An error about the provider's own id says that LiteLLM answers for its own."""
    provider = connect(LITELLM)
    job = await provider.submit(SORA_REQUEST)
    assert is_litellm_id(job.job_id)
    assert len(job.job_id) > 200
    assert not any(map(is_litellm_id, ("video_1", "", job.job_id[6:], "video_bGl0ZQ==", "video_ß")))
    provider._http._free = httpx2.AsyncClient(
        transport=httpx2.MockTransport(lambda _: httpx2.Response(400, json={"error": {"message": "no"}}))
    )
    with pytest.raises(Transient, match="its own ids"):
        await provider.state("video_123")
    with pytest.raises(Transient) as caught:
        await provider.state(job.job_id)
    assert "its own ids" not in str(caught.value)


# The free question of every adapter


async def test_a_right_key_passes(provider: Provider, fake_provider: FakeProvider) -> None:
    """Nothing is ordered by asking."""
    await provider.check()
    assert fake_provider.requests() != []
    assert fake_provider.posts() == []


async def test_a_wrong_key_is_found_without_an_order(case: Case, provider: Provider) -> None:
    """The free question carries the real key, so a wrong one is known before the first order."""
    clients = [getattr(provider, name) for name in ("_api", "_http") if hasattr(provider, name)]
    for client in clients:
        client._authorization = type(client._authorization)("Bearer wrong-key-0123456789")
    with pytest.raises(KeyRefused, match="VIDEO_API_KEY") as caught:
        await provider.check()
    assert FAKE_KEY not in str(caught.value)
    assert "wrong-key" not in str(caught.value)


async def test_a_stopped_server_is_found_without_an_order(
    provider: Provider, fake_provider: FakeProvider
) -> None:
    """No answer is Transient, and an order that is tried all the same is known as not sent."""
    await fake_provider.stop_listening()
    with pytest.raises(Transient):
        await provider.check()


async def test_litellm_is_recognised_by_its_dialect(connect: Connect, fake_openai: FakeProvider) -> None:
    """With the dialect `litellm`, anything else that answers is named: it would not keep our conditions."""
    provider = connect(LITELLM)
    await provider.check()
    fake_openai.shape = "openai"
    with pytest.raises(NotConfigured, match="LiteLLM"):
        await provider.check()


async def test_no_answer_to_the_question_is_proof(faulty: Any) -> None:
    """Without an answer to the free question the paid one is not sent: NotSent."""
    server = await faulty("503")
    provider = openai_adapter(f"{server.url}/v1", OPENAI)
    with pytest.raises(NotSent):
        await provider.submit(SORA_REQUEST)
    assert server.posts == 0
    await provider.close()
