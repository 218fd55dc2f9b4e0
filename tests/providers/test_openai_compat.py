"""What only the `/v1/videos` adapter promises: its bytes, dialects and prices; and its fake provider."""

import contextlib
import json
import re
import subprocess
import sys
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from guardrails.money import Money
from providers.base import (
    OPENAI_CLOSED,
    Found,
    Gone,
    InDoubt,
    JobFailed,
    NotConfigured,
    NotSent,
    ProviderError,
    Rejected,
    Throttled,
    Transient,
)
from providers.http import Reply
from providers.openai_compat import OpenAICompat, OpenAIReader
from providers.openai_dialects import DIALECTS, INWORLD, LITELLM, OPENAI, SGLANG, VLLM_OMNI, Dialect, encode
from providers.pricing import SORA_2_PRICES, ModelPrice, PriceList, capabilities_of, read_prices
from sandbox.video_api.charge_log import running_fake_provider
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY
from tests.support.provider_cases import SORA_REQUEST, openai_adapter, unclaimed
from tests.support.services import ROOT

# Setting it up


@pytest.mark.parametrize("base_url", ["", "  ", "https://api.openai.com/v1"])
def test_without_a_server_it_says_that_sora_closed(base_url: str) -> None:
    """No base URL, or OpenAI's own: one sentence says that it closed, when, and what to set."""
    with pytest.raises(NotConfigured, match="2026-09-24") as caught:
        openai_adapter(base_url)
    assert str(caught.value) == OPENAI_CLOSED
    assert all(name in OPENAI_CLOSED for name in DIALECTS)


@pytest.mark.parametrize(
    ("base_url", "key"),
    [
        ("ftp://host/v1", FAKE_KEY),
        ("host:8000/v1", FAKE_KEY),
        ("https://user:pass@host/v1", FAKE_KEY),
        ("https://host/v1?token=1", FAKE_KEY),
        ("https://[::1/v1", FAKE_KEY),
        ("https://host/v1", "two\nlines"),
        ("https://host/v1", "schlüssel"),
        ("https://host/v1", " blank "),
    ],
)
def test_what_no_request_could_carry_is_refused_at_once(base_url: str, key: str) -> None:
    """A bad address or key fails when the adapter is built, never at the paid step, and is not repeated."""
    with pytest.raises(NotConfigured) as caught:
        OpenAICompat(base_url, key, OPENAI, SORA_2_PRICES)
    assert "pass" not in str(caught.value).replace("password", "")
    assert key not in str(caught.value)


def test_capabilities_follow_from_the_dialect_and_the_price_list() -> None:
    """Nothing is promised that the dialect does not document or the list does not offer."""
    found = {name: capabilities_of(dialect, SORA_2_PRICES) for name, dialect in DIALECTS.items()}
    assert {name for name, c in found.items() if c.replay} == {"inworld"}
    assert {name for name, c in found.items() if c.listing} == {"openai", "vllm_omni", "sglang"}
    assert found["openai"].models == ("sora-2", "sora-2-pro")
    assert (found["openai"].priced_on, found["openai"].seconds) == ("2026-11-22", (4, 8, 12))


@pytest.mark.parametrize(
    "wrong",
    [
        {"priced_on": "lately"},
        {"models": {}},
        {"models": {"m": {"seconds": [], "per_second": {"64x64": "$1"}}}},
        {"models": {"m": {"seconds": [4], "per_second": {"64x64": 0.1}}}},
        {"models": {"m": {"seconds": [4], "per_second": {"big": "$1"}}}},
        {"models": {"m": {"seconds": [True], "per_second": {"64x64": "$1"}}}},
        {"models": {"m": {"seconds": [4], "per_second": {"64x64": "$1"}, "currency": "EUR"}}},
    ],
)
def test_a_price_list_is_exact_and_dated_or_refused(wrong: dict[str, Any]) -> None:
    """No float, no undated price, no unknown field."""
    right = {"priced_on": "2026-11-22", "source": "s", "models": SORA_2_PRICES.models}
    assert PriceList.model_validate(right).priced_on == date(2026, 11, 22)
    with pytest.raises(ValidationError):
        PriceList.model_validate(right | wrong)


def test_the_price_list_in_the_manual_is_read() -> None:
    """What docs/providers.md shows is what the code takes; what is not YAML is refused in words."""
    manual = (ROOT / "docs/providers.md").read_text("utf-8")
    prices = read_prices(manual.partition("```yaml")[2].partition("```")[0])
    assert prices.quote("wan-2.2", 8, "720x1280") == Money.parse("$0.40")
    for wrong in ("{", "42", "models: {}"):
        with pytest.raises(ValueError, match=r"price list|PriceList"):
            read_prices(wrong)


@given(seconds=st.integers(1, 60), micros=st.integers(0, 10_000_000))
def test_a_quote_is_seconds_times_the_price(seconds: int, micros: int) -> None:
    """The price of a video is exact to the micro-dollar."""
    model = ModelPrice(seconds=(seconds,), per_second={"64x64": Money(micros)})
    prices = PriceList(priced_on=date(2026, 11, 22), source="s", models={"m": model})
    assert prices.quote("m", seconds, "64x64") == Money(seconds * micros)


# The bytes


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_the_same_request_makes_the_same_bytes_in_every_process(dialect: Dialect) -> None:
    """A replay from another process, with another hash seed, is the same to the byte."""
    code = (
        "from providers.openai_dialects import *; from providers.base import VideoRequest;"
        f"print(encode({SORA_REQUEST!r}, DIALECTS[{dialect.name!r}]))"
    )
    there = subprocess.check_output(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, cwd=ROOT, text=True
    )
    assert there.strip() == repr(encode(SORA_REQUEST, dialect))


@given(prompt=st.text(), key=st.uuids().map(str))
def test_a_prompt_never_escapes_from_its_field(prompt: str, key: str) -> None:
    """With any prompt, the form has its fields, once each, and the boundary nowhere else."""
    body, kind = encode(replace(SORA_REQUEST, prompt=prompt, key=key), VLLM_OMNI)
    boundary = kind.partition("boundary=")[2].encode()
    names = ["model", "prompt", "seconds", "size", "seed"]
    assert re.findall(rb"--" + boundary + rb'\r\nContent-Disposition: form-data; name="(\w+)"', body) == [
        name.encode() for name in names
    ]
    assert body.count(boundary) == len(names) + 1


def test_a_predicted_boundary_adds_no_field() -> None:
    """An author who predicts the key of a request cannot order a longer video through the prompt."""
    _, kind = encode(SORA_REQUEST, VLLM_OMNI)
    boundary = kind.partition("boundary=")[2]
    evil = f'x\r\n--{boundary}\r\nContent-Disposition: form-data; name="seconds"\r\n\r\n60'
    body, kind = encode(replace(SORA_REQUEST, prompt=evil), VLLM_OMNI)
    assert kind.partition("boundary=")[2] != boundary
    assert body.count(b"--" + kind.partition("boundary=")[2].encode()) == 6


def test_each_dialect_sends_the_fields_that_it_documents() -> None:
    """No seed where the server would refuse it; resolution and aspect ratio where it wants those."""
    assert json.loads(encode(SORA_REQUEST, SGLANG)[0]) == {
        "model": "sora-2", "prompt": "a fox", "seconds": 8, "size": "720x1280", "seed": 77
    }  # fmt: skip
    assert json.loads(encode(SORA_REQUEST, INWORLD)[0]) == {
        "model": "sora-2", "prompt": "a fox", "seconds": 8, "resolution": "720p", "aspect_ratio": "9:16"
    }  # fmt: skip
    assert json.loads(encode(SORA_REQUEST, LITELLM)[0]) == {
        "model": "sora-2", "prompt": "a fox", "seconds": 8, "size": "720x1280", "num_retries": 0,
        "disable_fallbacks": True, "extra_headers": {"Idempotency-Key": SORA_REQUEST.key},
    }  # fmt: skip
    assert b"seed" not in encode(SORA_REQUEST, OPENAI)[0]


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=DIALECTS)
def test_a_negative_prompt_goes_where_it_is_documented(dialect: Dialect) -> None:
    """As one more field, at vLLM-Omni and SGLang; elsewhere the bytes are those without one."""
    avoid = 'people\r\n--"; text'
    body, plain = encode(replace(SORA_REQUEST, avoid=avoid), dialect)[0], encode(SORA_REQUEST, dialect)[0]
    assert capabilities_of(dialect, SORA_2_PRICES).avoids == (dialect in (VLLM_OMNI, SGLANG))
    if dialect is SGLANG:
        assert json.loads(body) == json.loads(plain) | {"negative_prompt": avoid}
    elif dialect is VLLM_OMNI:
        assert f'name="negative_prompt"\r\n\r\n{avoid}\r\n'.encode() in body
    else:
        assert body == plain


async def test_a_negative_prompt_reaches_the_server(connect, fake_openai: FakeProvider) -> None:
    """What is on the wire, on real sockets."""
    await connect(VLLM_OMNI).submit(replace(SORA_REQUEST, avoid="people"))
    (post,) = fake_openai.posts()
    assert 'name="negative_prompt"\r\n\r\npeople\r\n' in post["body"]


# The fake provider


async def test_the_fake_provider_runs_in_its_own_process(connect, tmp_path: Path) -> None:
    """The charge log of a fake in another process is read from its file, and the script reaches it."""
    with running_fake_provider(tmp_path, shape="inworld", polls=0) as fake_provider:
        fake_provider.script("charge_drop", fates=["moderate"])
        provider = connect(INWORLD, url=fake_provider.base_url.removesuffix("/v1"))
        with pytest.raises(InDoubt):
            await provider.submit(SORA_REQUEST)
        found = await provider.reconcile(SORA_REQUEST, time.time(), unclaimed)
        assert isinstance(found, Found)
        assert fake_provider.net() == {found.job.job_id: 800_000}
        with pytest.raises(JobFailed):
            await provider.state(found.job.job_id)
        assert fake_provider.net() == {}
        assert [refund["micros"] for refund in fake_provider.refunds()] == [-800_000]


async def test_the_fake_provider_serves_a_thumbnail(connect, fake_openai: FakeProvider) -> None:
    """`?variant=thumbnail` is a JPEG, as in OpenAI's protocol."""
    provider = connect(polls=0)
    job = await provider.submit(SORA_REQUEST)
    await provider.state(job.job_id)
    address = f"{fake_openai.base_url}/videos/{job.job_id}/content?variant=thumbnail"
    async with httpx2.AsyncClient(trust_env=False) as client:
        answer = await client.get(address, headers={"Authorization": f"Bearer {FAKE_KEY}"})
    assert answer.content.startswith(b"\xff\xd8")


# What comes back


def _reader(dialect: Dialect) -> OpenAIReader:
    return OpenAIReader(dialect, lambda text: text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["id", "status", "error", "code", "message", "detail", "progress"]), inner, max_size=4
    ),
)  # fmt: skip


@given(
    status=st.integers(200, 599),
    body=json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=20),
    name=st.sampled_from(sorted(DIALECTS)),
    pause=st.sampled_from(["", "3", "-1", "nan", "1e9", "Wed, 21 Oct 2026 07:28:00 GMT"]),
)
def test_no_answer_crashes_the_reader(status: int, body: bytes, name: str, pause: str) -> None:
    """Any answer is a job, a documented refusal or InDoubt; a 2xx, 3xx or 5xx is never a refusal."""
    reply = Reply(status, httpx2.Headers({"Retry-After": pause}), body)
    try:
        job = _reader(DIALECTS[name]).accepted(reply)
    except Rejected:
        assert 400 <= status < 500
        assert status not in (408, 409, 425)
    except Throttled:
        assert (status, pause, name) == (429, "3", "openai")
    except InDoubt:
        pass
    else:
        assert status < 300
        assert job.job_id
    with contextlib.suppress(JobFailed):
        _reader(DIALECTS[name]).status(reply.json() or {})


def test_no_funds_and_policy_are_different_refusals() -> None:
    """No funds and a forbidden prompt are different refusals, also where they share a status."""

    def refusal(dialect: Dialect, status: int, code: str) -> str:
        body = json.dumps({"error": {"code": code, "message": "no"}}).encode()
        with pytest.raises(Rejected) as caught:
            _reader(dialect).accepted(Reply(status, httpx2.Headers(), body))
        return caught.value.reason

    assert refusal(OPENAI, 429, "insufficient_quota") == "funds"
    assert refusal(OPENAI, 400, "moderation_blocked") == "policy"
    assert refusal(OPENAI, 400, "invalid_value") == "invalid"
    assert refusal(INWORLD, 402, "payment_required") == "funds"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (httpx2.ConnectError, NotSent),
        (httpx2.ConnectTimeout, NotSent),
        (httpx2.PoolTimeout, NotSent),
        (httpx2.LocalProtocolError, InDoubt),
        (httpx2.WriteError, InDoubt),
        (httpx2.WriteTimeout, InDoubt),
        (httpx2.ReadError, InDoubt),
        (httpx2.ReadTimeout, InDoubt),
        (httpx2.RemoteProtocolError, InDoubt),
        (httpx2.DecodingError, InDoubt),
        (OSError, InDoubt),
        (RuntimeError, InDoubt),
    ],
)
async def test_only_what_happens_before_the_first_byte_is_proof(
    connect, raised: type[Exception], expected: type
) -> None:
    """An error of the connection is NotSent; any other, known or not, is InDoubt."""

    def fail(_: httpx2.Request) -> httpx2.Response:
        raise raised("https://host/v1?key=secret")

    provider = connect(url="http://127.0.0.1:9", vouched=True)
    provider._http._once = httpx2.AsyncClient(transport=httpx2.MockTransport(fail))
    with pytest.raises(ProviderError) as caught:
        await provider.submit(SORA_REQUEST)
    assert type(caught.value) is expected
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


async def test_free_requests_are_retried_twice(connect, faulty) -> None:
    """A GET is tried three times and then Transient; the third answer counts as much as the first."""
    server = await faulty("503")
    provider = connect(url=server.url)
    with pytest.raises(Transient):
        await provider.state("video_1")
    assert len(server.heads) == 3


async def test_a_job_id_stays_in_its_place(connect, fake_openai: FakeProvider) -> None:
    """An odd id is one segment of the path, never a way out of it."""
    provider = connect()
    with pytest.raises(ProviderError):
        await provider.state("../../../health/readiness?x=1#y")
    assert fake_openai.requests()[-1]["path"].startswith("/v1/videos/")


@pytest.mark.parametrize(("dialect", "error"), [(OPENAI, Gone), (VLLM_OMNI, Transient), (SGLANG, Transient)])
async def test_a_missing_output_is_gone_only_where_404_says_so(
    connect, fake_openai: FakeProvider, dialect: Dialect, error: type[ProviderError], tmp_path: Path
) -> None:
    """Self-hosted servers answer 404 for an output that is still being made: ask again."""
    provider = connect(dialect, polls=9)
    job = await provider.submit(SORA_REQUEST)
    with pytest.raises(error):
        await provider.fetch(job.job_id, tmp_path / "v.mp4")


async def test_a_job_that_was_cancelled_there_is_not_billed(connect, fake_openai: FakeProvider) -> None:
    """Inworld documents the word: a job that was stopped from its console ends unbilled."""
    provider = connect(INWORLD)
    job = await provider.submit(SORA_REQUEST)
    fake_openai.jobs[job.job_id].word = "cancelled"
    with pytest.raises(JobFailed) as caught:
        await provider.state(job.job_id)
    assert caught.value.billing == "unbilled"


async def test_a_post_whose_time_is_over_is_not_sent(connect, faulty) -> None:
    """A worker that slept past its own deadline sends nothing, and that is proof."""
    server = await faulty("200_no_id")
    provider = connect(url=server.url, timeout_s=-1.0, vouched=True)
    with pytest.raises(NotSent):
        await provider.submit(SORA_REQUEST)
    assert server.connections == 0


async def test_no_answer_to_the_free_question_is_proof_that_nothing_was_ordered(connect, faulty) -> None:
    """Without an answer to the free question the paid one is not sent: NotSent."""
    server = await faulty("hang")
    provider = connect(url=server.url, timeout_s=0.4)
    with pytest.raises(NotSent):
        await provider.submit(SORA_REQUEST)
    assert server.posts == 0
