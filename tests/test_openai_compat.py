"""What only the `/v1/videos` adapter promises: its bytes, its dialects, its list, its proxies, its prices."""

import contextlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import httpx2
import pytest
import stamina
from faults import Faults
from hypothesis import given
from hypothesis import strategies as st
from peer import KEY, Peer, running
from pydantic import ValidationError

from ledger.money import Money
from tools.studio.providers import openai_compat
from tools.studio.providers.answers import Reader, reaches_back
from tools.studio.providers.catalogue import SORA_2, ModelPrice, PriceList, capabilities_of, read_prices
from tools.studio.providers.dialects import DIALECTS, INWORLD, OPENAI, SGLANG, VLLM_OMNI, Dialect, encode
from tools.studio.providers.matching import Window, compare, settle
from tools.studio.providers.openai_compat import CLOSED, LITELLM, NotConfigured, OpenAICompat
from tools.studio.providers.protocol import (
    Absent,
    Found,
    Gone,
    InDoubt,
    Job,
    JobFailed,
    NotSent,
    ProviderError,
    Rejected,
    Take,
    Throttled,
    Transient,
    Unsure,
)
from tools.studio.providers.wire import Reply

TAKE = Take("tg:1:-:2:3", "5f0c7a52-5a0e-5b7e-9d1c-0d6f4b7f3a11", "sora-2", "a fox", 8, "720x1280", 77)
NOW = 1_795_000_000.0
WINDOW = Window.around(NOW, 60)


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=3, cap=True):
        yield


def adapter(
    base_url: str, dialect: Dialect = OPENAI, *, timeout_s: float = 2.0, **options: Any
) -> OpenAICompat:
    times = replace(capabilities_of(dialect, SORA_2), submit_timeout_s=timeout_s)
    return OpenAICompat(base_url, KEY, dialect, SORA_2, capabilities=times, **options)


def unclaimed(_: str) -> bool:
    return False


# Setting it up


@pytest.mark.parametrize("base_url", ["", "  ", "https://api.openai.com/v1"])
def test_without_a_server_it_says_what_became_of_sora(base_url: str) -> None:
    """No base URL, or OpenAI's own: one sentence says that it closed, when, and what to set."""
    with pytest.raises(NotConfigured, match="2026-09-24") as caught:
        adapter(base_url)
    assert str(caught.value) == CLOSED
    assert all(name in CLOSED for name in DIALECTS)


@pytest.mark.parametrize(
    ("base_url", "key"),
    [
        ("ftp://host/v1", KEY),
        ("host:8000/v1", KEY),
        ("https://user:pass@host/v1", KEY),
        ("https://host/v1?token=1", KEY),
        ("https://[::1/v1", KEY),
        ("https://host/v1", "two\nlines"),
        ("https://host/v1", "schlüssel"),
        ("https://host/v1", " blank "),
    ],
)
def test_what_no_request_could_carry_is_refused_at_once(base_url: str, key: str) -> None:
    """A bad address or key fails when the adapter is built, never at the paid step, and is not repeated."""
    with pytest.raises(NotConfigured) as caught:
        OpenAICompat(base_url, key, OPENAI, SORA_2)
    assert "pass" not in str(caught.value).replace("password", "")
    assert key not in str(caught.value)


def test_capabilities_follow_from_the_dialect_and_the_price_list() -> None:
    """Nothing is promised that the dialect does not document or the list does not offer."""
    found = {name: capabilities_of(dialect, SORA_2) for name, dialect in DIALECTS.items()}
    assert {name for name, c in found.items() if c.replay} == {"inworld"}
    assert {name for name, c in found.items() if c.listing} == {"openai", "vllm_omni", "sglang"}
    assert {name for name, c in found.items() if c.cancel} == {"vllm_omni", "inworld"}
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
    right = {"priced_on": "2026-11-22", "source": "s", "models": SORA_2.models}
    assert PriceList.model_validate(right).priced_on == date(2026, 11, 22)
    with pytest.raises(ValidationError):
        PriceList.model_validate(right | wrong)


def test_the_price_list_in_the_manual_is_read() -> None:
    """What docs/providers.md shows is what the code takes; what is not YAML is refused in words."""
    manual = (Path(__file__).parent.parent / "docs/providers.md").read_text("utf-8")
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
def test_the_same_take_makes_the_same_bytes_in_every_process(dialect: Dialect) -> None:
    """A replay from another process, with another hash seed, is the same to the byte."""
    code = (
        "from tools.studio.providers.dialects import *; from tools.studio.providers.protocol import Take;"
        f"print(encode({TAKE!r}, DIALECTS[{dialect.name!r}]))"
    )
    there = subprocess.check_output(
        [sys.executable, "-c", code], env={"PYTHONHASHSEED": "7"}, cwd=Path(__file__).parent.parent, text=True
    )
    assert there.strip() == repr(encode(TAKE, dialect))


@given(prompt=st.text(), key=st.uuids().map(str))
def test_a_prompt_never_escapes_from_its_field(prompt: str, key: str) -> None:
    """Whatever the prompt holds, the form has its fields, once each, and the boundary nowhere else."""
    body, kind = encode(replace(TAKE, prompt=prompt, key=key), VLLM_OMNI)
    boundary = kind.partition("boundary=")[2].encode()
    names = ["model", "prompt", "seconds", "size", "seed"]
    assert re.findall(rb"--" + boundary + rb'\r\nContent-Disposition: form-data; name="(\w+)"', body) == [
        name.encode() for name in names
    ]
    assert body.count(boundary) == len(names) + 1


def test_a_foretold_boundary_adds_no_field() -> None:
    """An author who foretells the key of a request cannot order a longer video through the prompt."""
    _, kind = encode(TAKE, VLLM_OMNI)
    boundary = kind.partition("boundary=")[2]
    evil = f'x\r\n--{boundary}\r\nContent-Disposition: form-data; name="seconds"\r\n\r\n60'
    body, kind = encode(replace(TAKE, prompt=evil), VLLM_OMNI)
    assert kind.partition("boundary=")[2] != boundary
    assert body.count(b"--" + kind.partition("boundary=")[2].encode()) == 6


def test_each_dialect_sends_the_fields_that_it_documents() -> None:
    """No seed where the server would refuse it; resolution and aspect ratio where it wants those."""
    assert json.loads(encode(TAKE, SGLANG)[0]) == {
        "model": "sora-2", "prompt": "a fox", "seconds": 8, "size": "720x1280", "seed": 77
    }  # fmt: skip
    assert json.loads(encode(TAKE, INWORLD)[0]) == {
        "model": "sora-2", "prompt": "a fox", "seconds": 8, "resolution": "720p", "aspect_ratio": "9:16"
    }  # fmt: skip
    assert b"seed" not in encode(TAKE, OPENAI)[0]


# What comes back


def _reader(dialect: Dialect) -> Reader:
    return Reader(dialect, lambda text: text)


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
    """Any answer is a job, a documented refusal, or doubt; no refusal is read out of a 2xx, 3xx or 5xx."""
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


def test_funds_and_policy_are_told_apart() -> None:
    """An empty purse and a forbidden prompt are different refusals, also where they share a status."""

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
    raised: type[Exception], expected: type
) -> None:
    """An error of the connection is NotSent; any other, known or not, is InDoubt."""

    def fail(_: httpx2.Request) -> httpx2.Response:
        raise raised("https://host/v1?key=secret")

    provider = adapter("http://127.0.0.1:9/v1", proxy_retries_off=True)
    provider._wire._once = httpx2.AsyncClient(transport=httpx2.MockTransport(fail))
    with pytest.raises(ProviderError) as caught:
        await provider.submit(TAKE)
    assert type(caught.value) is expected
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    await provider.close()


async def test_free_questions_are_repeated_a_little(tmp_path: Path) -> None:
    """A GET is tried three times and then Transient; the answer of the third is as good as any."""
    async with Faults("503") as stub:
        provider = adapter(stub.base_url)
        with pytest.raises(Transient):
            await provider.state("video_1")
        assert len(stub.heads) == 3
        await provider.close()


async def test_a_job_id_stays_in_its_place(tmp_path: Path) -> None:
    """A strange id is one segment of the path, never a way out of it."""
    async with Peer(tmp_path) as peer:
        provider = adapter(peer.base_url)
        with pytest.raises(ProviderError):
            await provider.state("../../../health/readiness?x=1#y")
        await provider.close()
    assert peer.requests()[-1]["path"].startswith("/v1/videos/")


# LiteLLM


async def test_a_litellm_proxy_is_refused_with_the_reason(tmp_path: Path) -> None:
    """It would send the POST again by itself, so nothing is sent; the key is not shown to find out."""
    async with Peer(tmp_path, litellm=True) as peer:
        provider = adapter(peer.base_url)
        with pytest.raises(Rejected) as caught:
            await provider.submit(TAKE)
        assert str(caught.value) == LITELLM
        with pytest.raises(NotConfigured):
            await provider.check()
        await provider.close()
    assert peer.posts() == []
    assert [(r["path"], "authorization" in r["headers"]) for r in peer.requests()] == [
        ("/health/readiness", False)
    ]


async def test_a_litellm_proxy_below_a_path_is_found_too(tmp_path: Path) -> None:
    """The question goes to the place where the API hangs, not to the root of the host."""
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={"litellm_version": "1.99.0"})

    provider = adapter("http://127.0.0.1:9/proxy/v1/")
    provider._wire._free = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
    with pytest.raises(NotConfigured):
        await provider.check()
    assert seen == ["http://127.0.0.1:9/proxy/health/readiness"]
    await provider.close()


async def test_a_post_whose_time_is_over_is_not_sent() -> None:
    """A worker that slept through its own deadline sends nothing, and that is proof."""
    async with Faults("200_no_id") as stub:
        provider = adapter(stub.base_url, timeout_s=-1.0, proxy_retries_off=True)
        with pytest.raises(NotSent):
            await provider.submit(TAKE)
        assert stub.connections == 0
        await provider.close()


async def test_its_owner_may_vouch_for_a_litellm_proxy(tmp_path: Path) -> None:
    """Stated to repeat nothing, a proxy is used, and nobody looks for it."""
    async with Peer(tmp_path, litellm=True) as peer:
        provider = adapter(peer.base_url, proxy_retries_off=True)
        await provider.submit(TAKE)
        await provider.close()
    assert [request["path"] for request in peer.requests()] == ["/v1/videos"]


async def test_a_proxy_that_appears_later_is_noticed(tmp_path: Path) -> None:
    """Any answer with a LiteLLM header stops the next payment."""
    async with Peer(tmp_path) as peer:
        provider = adapter(peer.base_url)
        job = await provider.submit(TAKE)
        peer.litellm = True
        await provider.state(job.job_id)
        with pytest.raises(Rejected):
            await provider.submit(replace(TAKE, key="other"))
        await provider.close()
    assert len(peer.posts()) == 1


async def test_no_answer_to_the_look_is_proof_that_nothing_was_ordered() -> None:
    """If nobody answers the free question, the paid one is not asked: NotSent."""
    async with Faults("hang") as stub:
        provider = adapter(stub.base_url, timeout_s=0.4)
        with pytest.raises(NotSent):
            await provider.submit(TAKE)
        assert stub.posts == 0
        await provider.close()


# In doubt: replay


async def test_a_replay_is_the_same_bytes_under_the_same_key(tmp_path: Path) -> None:
    """Where the key is documented, sending the very same request again finds the lost job: one charge."""
    async with Peer(tmp_path, shape="inworld") as peer:
        provider = adapter(peer.base_url, INWORLD)
        peer.script("charge_drop")
        with pytest.raises(InDoubt):
            await provider.submit(TAKE)
        found = await provider.reconcile(TAKE, time.time(), unclaimed)
        await provider.close()
    first, second = peer.posts()
    assert first["digest"] == second["digest"]
    assert first["headers"] == second["headers"]
    assert first["headers"]["idempotency-key"] == TAKE.key
    assert found == Found(Job(peer.charges()[0]["job"]))
    assert len(peer.charges()) == 1


async def test_an_old_key_is_not_trusted(tmp_path: Path) -> None:
    """After `replay_for_s` nobody knows whether the key is remembered: no second POST."""
    async with Peer(tmp_path, shape="inworld") as peer:
        provider = adapter(peer.base_url, INWORLD)
        assert await provider.reconcile(TAKE, time.time() - 3601, unclaimed) == Unsure("cannot be asked")
        await provider.close()
    assert peer.posts() == []


@pytest.mark.parametrize("answer", ["refuse_400", "refuse_402", "429", "500", "drop", "charge_html"])
async def test_a_refused_replay_proves_nothing(answer: Any, tmp_path: Path) -> None:
    """What the second POST meets says nothing about the first: never Absent."""
    async with Peer(tmp_path, shape="inworld") as peer:
        provider = adapter(peer.base_url, INWORLD)
        peer.script(answer)
        assert isinstance(await provider.reconcile(TAKE, time.time(), unclaimed), Unsure)
        await provider.close()


async def test_a_replay_that_meets_a_claimed_job_is_unsure(tmp_path: Path) -> None:
    """A job that belongs to another request is never adopted."""
    async with Peer(tmp_path, shape="inworld") as peer:
        provider = adapter(peer.base_url, INWORLD)
        assert isinstance(await provider.reconcile(TAKE, time.time(), lambda _: True), Unsure)
        await provider.close()


# In doubt: the list


def _listed(**shown: Any) -> dict[str, Any]:
    return {"id": "v1", "prompt": "a fox", "size": "720x1280", "seconds": "8", "created_at": NOW} | shown


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({}, "ours"),
        ({"seconds": 8}, "ours"),
        ({"prompt": "a fox\n"}, "ours"),
        ({"created_at": NOW * 1000}, "ours"),
        ({"created_at": "2026-11-18T10:26:40Z"}, "other"),
        ({"seed": 77, "prompt": "rewritten by the model"}, "ours"),
        ({"seed": "77", "prompt": None}, "ours"),
        ({"seed": 78}, "other"),
        ({"prompt": "a wolf"}, "other"),
        ({"created_at": NOW - 601}, "other"),
        ({"created_at": NOW + 661}, "other"),
        ({"prompt": None}, "perhaps"),
        ({"created_at": None}, "perhaps"),
        ({"created_at": "yesterday"}, "perhaps"),
        ({"size": "704x1280"}, "perhaps"),
        ({"seconds": None}, "perhaps"),
        ({"seconds": True}, "perhaps"),
    ],
)
def test_a_listed_job_is_ours_only_on_proof(shown: dict[str, Any], expected: str) -> None:
    """The seed decides alone; else prompt, size, seconds and time together; what shows less may be ours."""
    assert compare(_listed(**shown), TAKE, WINDOW) == expected


@pytest.mark.parametrize(
    ("jobs", "complete", "expected"),
    [
        ([], True, Absent),
        ([], False, Unsure),
        ([_listed(prompt="a wolf")], True, Absent),
        ([_listed()], True, Found),
        ([_listed()], False, Unsure),
        ([_listed(seed=77)], False, Found),
        ([_listed(), _listed(id="v2")], True, Unsure),
        ([_listed(), _listed(id="taken")], True, Found),
        ([_listed(id="taken")], True, Absent),
        ([_listed(prompt=None)], True, Unsure),
        ([_listed(seed=77), _listed(id="v2", prompt=None)], True, Found),
    ],
)
def test_only_a_whole_list_proves_absence(jobs: list[dict[str, Any]], complete: bool, expected: type) -> None:
    """Found is exactly one unclaimed job; Absent needs the whole time window; everything else is Unsure."""
    assert type(settle(jobs, TAKE, WINDOW, lambda job: job == "taken", complete=complete)) is expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [([90, 50, 9], True), ([90, 50], False), ([9, 50, 90, 8], False), ([90, None, 9], False), ([], False)],
)
def test_only_a_list_in_order_reaches_back(times: list[Any], expected: bool) -> None:
    """A list has passed a moment if it runs from new to old, every time is shown, and the last is older."""
    assert reaches_back([{"created_at": time} for time in times], 10) is expected


async def _with_others(peer: Peer, provider: OpenAICompat, count: int) -> None:
    for number in range(count):
        await provider.submit(replace(TAKE, key=f"k{number}", prompt=f"another {number}"))


async def test_the_list_is_followed_page_by_page(tmp_path: Path, monkeypatch) -> None:
    """Our job is found behind other people's, over several pages."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    async with Peer(tmp_path) as peer:
        provider = adapter(peer.base_url)
        peer.script("charge_drop")
        with pytest.raises(InDoubt):
            await provider.submit(TAKE)
        await _with_others(peer, provider, 5)
        found = await provider.reconcile(TAKE, time.time(), unclaimed)
        await provider.close()
    assert found == Found(Job(peer.charges()[0]["job"]))
    assert [r["query"].get("after") for r in peer.requests() if r["method"] == "GET" and r["query"]] == [
        None,
        peer.charges()[4]["job"],
        peer.charges()[2]["job"],
    ]


@pytest.mark.parametrize("shape", ["openai", "sglang"])
async def test_a_server_that_ignores_the_cursor_ends_the_search(
    shape: Any, tmp_path: Path, monkeypatch
) -> None:
    """The same page twice means that the rest cannot be seen: Unsure after two questions, never Absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    async with Peer(tmp_path, shape=shape, ignores_after=True, shows=("prompt", "size", "seconds")) as peer:
        provider = adapter(peer.base_url, DIALECTS[shape])
        await _with_others(peer, provider, 5)
        assert isinstance(await provider.reconcile(TAKE, time.time(), unclaimed), Unsure)
        await provider.close()
    assert sum(r["path"] == "/v1/videos" and r["method"] == "GET" for r in peer.requests()) == 2


async def test_a_list_without_end_is_given_up(tmp_path: Path, monkeypatch) -> None:
    """At most LIST_PAGES pages are read; what lies behind them is not called absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 1)
    monkeypatch.setattr(openai_compat, "LIST_PAGES", 3)
    async with Peer(tmp_path) as peer:
        provider = adapter(peer.base_url)
        await _with_others(peer, provider, 5)
        assert isinstance(await provider.reconcile(TAKE, time.time(), unclaimed), Unsure)
        await provider.close()


async def test_the_search_stops_before_the_time_of_the_post(tmp_path: Path, monkeypatch) -> None:
    """A list, newest first, that has passed the window is whole enough for Absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    async with Peer(tmp_path, clock_s=-5000) as peer:
        provider = adapter(peer.base_url)
        await _with_others(peer, provider, 5)
        assert await provider.reconcile(TAKE, time.time(), unclaimed) == Absent()
        await provider.close()
    assert sum(r["path"] == "/v1/videos" and r["method"] == "GET" for r in peer.requests()) == 1


@pytest.mark.parametrize("clock_s", [-500, 0, 500])
async def test_a_wrong_clock_does_not_hide_our_job(clock_s: float, tmp_path: Path) -> None:
    """Eight minutes between the clocks change nothing."""
    async with Peer(tmp_path, clock_s=clock_s) as peer:
        provider = adapter(peer.base_url)
        peer.script("charge_500")
        with pytest.raises(InDoubt):
            await provider.submit(TAKE)
        assert isinstance(await provider.reconcile(TAKE, time.time(), unclaimed), Found)
        await provider.close()


async def test_two_orders_of_the_same_words_are_not_mixed_up(tmp_path: Path) -> None:
    """The claimed one is left alone and the other is found; two unclaimed ones are for a person."""
    async with Peer(tmp_path) as peer:
        provider = adapter(peer.base_url)
        first = await provider.submit(TAKE)
        peer.script("charge_drop")
        with pytest.raises(InDoubt):
            await provider.submit(replace(TAKE, key="second"))
        found = await provider.reconcile(TAKE, time.time(), lambda job: job == first.job_id)
        both = await provider.reconcile(TAKE, time.time(), unclaimed)
        await provider.close()
    assert found == Found(Job(peer.charges()[1]["job"]))
    assert both == Unsure("2 unclaimed jobs fit")


async def test_a_list_that_shows_a_seed_finds_a_job_whose_prompt_was_rewritten(tmp_path: Path) -> None:
    """The seed is the fingerprint."""
    async with Peer(tmp_path, shape="sglang", shows=("seed",)) as peer:
        provider = adapter(peer.base_url, SGLANG)
        peer.script("charge_cut")
        with pytest.raises(InDoubt):
            await provider.submit(TAKE)
        assert isinstance(await provider.reconcile(TAKE, time.time(), unclaimed), Found)
        assert await provider.reconcile(replace(TAKE, seed=5), time.time(), unclaimed) == Absent()
        await provider.close()


async def test_a_broken_list_is_unsure(tmp_path: Path) -> None:
    """A list that is not there, or not a list, proves nothing."""
    async with Peer(tmp_path, listing=False) as peer:
        provider = adapter(peer.base_url)
        assert isinstance(await provider.reconcile(TAKE, time.time(), unclaimed), Unsure)
        await provider.close()


@pytest.mark.parametrize(("dialect", "error"), [(OPENAI, Gone), (VLLM_OMNI, Transient), (SGLANG, Transient)])
async def test_a_missing_output_is_gone_only_where_404_says_so(
    dialect: Dialect, error: type[ProviderError], tmp_path: Path
) -> None:
    """Self-hosted servers answer 404 for an output that is still being made: ask again."""
    async with Peer(tmp_path, shape=dialect.name, polls=9) as peer:
        provider = adapter(peer.base_url, dialect)
        job = await provider.submit(TAKE)
        with pytest.raises(error):
            await provider.fetch(job.job_id, tmp_path / "v.mp4")
        await provider.close()


# Cancelling


async def test_only_a_confirmed_stop_is_a_cancel(tmp_path: Path) -> None:
    """Inworld stops a queued job and refunds it; a running one goes on and the answer is no."""
    async with Peer(tmp_path, shape="inworld", polls=5) as peer:
        provider = adapter(peer.base_url, INWORLD)
        job, late = await provider.submit(TAKE), await provider.submit(replace(TAKE, key="late"))
        assert await provider.cancel(job.job_id)
        for _ in range(2):
            await provider.state(late.job_id)
        assert not await provider.cancel(late.job_id)
        with pytest.raises(JobFailed) as caught:
            await provider.state(job.job_id)
        await provider.close()
    assert caught.value.billing == "unbilled"
    assert peer.net() == {late.job_id: 800_000}


async def test_a_finished_video_is_never_deleted_by_a_cancel(tmp_path: Path) -> None:
    """vLLM-Omni's DELETE would throw the finished video away: it is sent for a running job alone."""
    async with Peer(tmp_path, shape="vllm_omni", polls=2) as peer:
        provider = adapter(peer.base_url, VLLM_OMNI)
        done, running_job = await provider.submit(TAKE), await provider.submit(replace(TAKE, key="k"))
        while (await provider.state(done.job_id)).phase != "succeeded":
            pass
        assert not await provider.cancel(done.job_id)
        assert await provider.cancel(running_job.job_id)
        await provider.close()
    assert set(peer.jobs) == {done.job_id}


@pytest.mark.parametrize("dialect", [OPENAI, SGLANG], ids=["openai", "sglang"])
async def test_where_nothing_stops_a_job_nothing_is_sent(dialect: Dialect, tmp_path: Path) -> None:
    """SGLang's DELETE forgets the job and goes on computing: not a cancel."""
    async with Peer(tmp_path, shape=dialect.name) as peer:
        provider = adapter(peer.base_url, dialect)
        job = await provider.submit(TAKE)
        asked = len(peer.requests())
        assert not await provider.cancel(job.job_id)
        assert len(peer.requests()) == asked
        await provider.close()


# The instrument itself


async def test_the_peer_keeps_its_books_in_its_own_process(tmp_path: Path) -> None:
    """The charge log of a peer in another process is read from its file, and the script reaches it."""
    with running(tmp_path, shape="inworld", polls=0) as peer:
        peer.script("charge_drop", fates=["moderate"])
        provider = adapter(peer.base_url, INWORLD)
        with pytest.raises(InDoubt):
            await provider.submit(TAKE)
        found = await provider.reconcile(TAKE, time.time(), unclaimed)
        assert isinstance(found, Found)
        assert peer.net() == {found.job.job_id: 800_000}
        with pytest.raises(JobFailed):
            await provider.state(found.job.job_id)
        assert peer.net() == {}
        assert [refund["micros"] for refund in peer.refunds()] == [-800_000]
        await provider.close()


async def test_the_peer_serves_a_thumbnail(tmp_path: Path) -> None:
    """`?variant=thumbnail` is a JPEG, as in OpenAI's protocol."""
    async with Peer(tmp_path, polls=0) as peer, httpx2.AsyncClient(trust_env=False) as client:
        provider = adapter(peer.base_url)
        job = await provider.submit(TAKE)
        await provider.state(job.job_id)
        address = f"{peer.base_url}/videos/{job.job_id}/content?variant=thumbnail"
        answer = await client.get(address, headers={"Authorization": f"Bearer {KEY}"})
        await provider.close()
    assert answer.content.startswith(b"\xff\xd8")
