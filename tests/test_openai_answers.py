"""How the `/v1/videos` adapter reads answers: what proves, what is asked again, what is gone or cancelled."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from adapters import (
    no_pauses,  # noqa: F401  # a fixture of every law here
)
from faults import Faults
from hypothesis import given
from hypothesis import strategies as st
from video_api import TAKE, adapter

from providers.base import Gone, InDoubt, JobFailed, NotSent, ProviderError, Rejected, Throttled, Transient
from providers.http import Reply
from providers.openai_compat import OpenAIReader
from providers.openai_dialects import DIALECTS, INWORLD, OPENAI, SGLANG, VLLM_OMNI, Dialect
from sandbox.video_api.openai import FakeProvider

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
    provider._http._once = httpx2.AsyncClient(transport=httpx2.MockTransport(fail))
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
    async with FakeProvider(tmp_path) as fake_provider:
        provider = adapter(fake_provider.base_url)
        with pytest.raises(ProviderError):
            await provider.state("../../../health/readiness?x=1#y")
        await provider.close()
    assert fake_provider.requests()[-1]["path"].startswith("/v1/videos/")


@pytest.mark.parametrize(("dialect", "error"), [(OPENAI, Gone), (VLLM_OMNI, Transient), (SGLANG, Transient)])
async def test_a_missing_output_is_gone_only_where_404_says_so(
    dialect: Dialect, error: type[ProviderError], tmp_path: Path
) -> None:
    """Self-hosted servers answer 404 for an output that is still being made: ask again."""
    async with FakeProvider(tmp_path, shape=dialect.name, polls=9) as fake_provider:
        provider = adapter(fake_provider.base_url, dialect)
        job = await provider.submit(TAKE)
        with pytest.raises(error):
            await provider.fetch(job.job_id, tmp_path / "v.mp4")
        await provider.close()


# Cancelling


async def test_only_a_confirmed_stop_is_a_cancel(tmp_path: Path) -> None:
    """Inworld stops a queued job and refunds it; a running one goes on and the answer is no."""
    async with FakeProvider(tmp_path, shape="inworld", polls=5) as fake_provider:
        provider = adapter(fake_provider.base_url, INWORLD)
        job, late = await provider.submit(TAKE), await provider.submit(replace(TAKE, key="late"))
        assert await provider.cancel(job.job_id)
        for _ in range(2):
            await provider.state(late.job_id)
        assert not await provider.cancel(late.job_id)
        with pytest.raises(JobFailed) as caught:
            await provider.state(job.job_id)
        await provider.close()
    assert caught.value.billing == "unbilled"
    assert fake_provider.net() == {late.job_id: 800_000}


async def test_a_finished_video_is_never_deleted_by_a_cancel(tmp_path: Path) -> None:
    """vLLM-Omni's DELETE would throw the finished video away: it is sent for a running job alone."""
    async with FakeProvider(tmp_path, shape="vllm_omni", polls=2) as fake_provider:
        provider = adapter(fake_provider.base_url, VLLM_OMNI)
        done, running_job = await provider.submit(TAKE), await provider.submit(replace(TAKE, key="k"))
        while (await provider.state(done.job_id)).phase != "succeeded":
            pass
        assert not await provider.cancel(done.job_id)
        assert await provider.cancel(running_job.job_id)
        await provider.close()
    assert set(fake_provider.jobs) == {done.job_id}


@pytest.mark.parametrize("dialect", [OPENAI, SGLANG], ids=["openai", "sglang"])
async def test_where_nothing_stops_a_job_nothing_is_sent(dialect: Dialect, tmp_path: Path) -> None:
    """SGLang's DELETE forgets the job and goes on computing: not a cancel."""
    async with FakeProvider(tmp_path, shape=dialect.name) as fake_provider:
        provider = adapter(fake_provider.base_url, dialect)
        job = await provider.submit(TAKE)
        asked = len(fake_provider.requests())
        assert not await provider.cancel(job.job_id)
        assert len(fake_provider.requests()) == asked
        await provider.close()
