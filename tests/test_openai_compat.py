"""What only the `/v1/videos` adapter promises: its bytes, dialects, prices; and the peer it is tried on."""

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
from adapters import (
    no_pauses,  # noqa: F401  # a fixture of every law here
    unclaimed,
)
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from video_api import TAKE, adapter

from ledger.money import Money
from providers.base import OPENAI_CLOSED, Found, InDoubt, JobFailed, NotConfigured
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS, INWORLD, OPENAI, SGLANG, VLLM_OMNI, Dialect, encode
from providers.pricing import SORA_2_PRICES, ModelPrice, PriceList, capabilities_of, read_prices
from sandbox.video_api.charge_log import running_fake_provider
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY

# Setting it up


@pytest.mark.parametrize("base_url", ["", "  ", "https://api.openai.com/v1"])
def test_without_a_server_it_says_what_became_of_sora(base_url: str) -> None:
    """No base URL, or OpenAI's own: one sentence says that it closed, when, and what to set."""
    with pytest.raises(NotConfigured, match="2026-09-24") as caught:
        adapter(base_url)
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
    right = {"priced_on": "2026-11-22", "source": "s", "models": SORA_2_PRICES.models}
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
        "from providers.openai_dialects import *; from providers.base import Take;"
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


# The instrument itself


async def test_the_peer_keeps_its_books_in_its_own_process(tmp_path: Path) -> None:
    """The charge log of a peer in another process is read from its file, and the script reaches it."""
    with running_fake_provider(tmp_path, shape="inworld", polls=0) as fake_provider:
        fake_provider.script("charge_drop", fates=["moderate"])
        provider = adapter(fake_provider.base_url, INWORLD)
        with pytest.raises(InDoubt):
            await provider.submit(TAKE)
        found = await provider.reconcile(TAKE, time.time(), unclaimed)
        assert isinstance(found, Found)
        assert fake_provider.net() == {found.job.job_id: 800_000}
        with pytest.raises(JobFailed):
            await provider.state(found.job.job_id)
        assert fake_provider.net() == {}
        assert [refund["micros"] for refund in fake_provider.refunds()] == [-800_000]
        await provider.close()


async def test_the_peer_serves_a_thumbnail(tmp_path: Path) -> None:
    """`?variant=thumbnail` is a JPEG, as in OpenAI's protocol."""
    async with (
        FakeProvider(tmp_path, polls=0) as fake_provider,
        httpx2.AsyncClient(trust_env=False) as client,
    ):
        provider = adapter(fake_provider.base_url)
        job = await provider.submit(TAKE)
        await provider.state(job.job_id)
        address = f"{fake_provider.base_url}/videos/{job.job_id}/content?variant=thumbnail"
        answer = await client.get(address, headers={"Authorization": f"Bearer {FAKE_KEY}"})
        await provider.close()
    assert answer.content.startswith(b"\xff\xd8")
