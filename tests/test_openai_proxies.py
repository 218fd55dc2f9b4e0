"""A proxy that repeats the paid POST by itself is refused, unless its owner vouches for it."""

from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from adapters import (
    no_pauses,  # noqa: F401  # a fixture of every law here
)
from faults import Faults
from video_api import TAKE, adapter

from providers.base import NotConfigured, NotSent, Rejected
from providers.openai_compat import LITELLM
from sandbox.video_api.openai import FakeProvider

# LiteLLM


async def test_a_litellm_proxy_is_refused_with_the_reason(tmp_path: Path) -> None:
    """It would send the POST again by itself, so nothing is sent; the key is not shown to find out."""
    async with FakeProvider(tmp_path, litellm=True) as fake_provider:
        provider = adapter(fake_provider.base_url)
        with pytest.raises(Rejected) as caught:
            await provider.submit(TAKE)
        assert str(caught.value) == LITELLM
        with pytest.raises(NotConfigured):
            await provider.check()
        await provider.close()
    assert fake_provider.posts() == []
    assert [(r["path"], "authorization" in r["headers"]) for r in fake_provider.requests()] == [
        ("/health/readiness", False)
    ]


async def test_a_litellm_proxy_below_a_path_is_found_too(tmp_path: Path) -> None:
    """The question goes to the place where the API hangs, not to the root of the host."""
    seen = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        seen.append(str(request.url))
        return httpx2.Response(200, json={"litellm_version": "1.99.0"})

    provider = adapter("http://127.0.0.1:9/proxy/v1/")
    provider._http._free = httpx2.AsyncClient(transport=httpx2.MockTransport(answer))
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
    async with FakeProvider(tmp_path, litellm=True) as fake_provider:
        provider = adapter(fake_provider.base_url, proxy_retries_off=True)
        await provider.submit(TAKE)
        await provider.close()
    assert [request["path"] for request in fake_provider.requests()] == ["/v1/videos"]


async def test_a_proxy_that_appears_later_is_noticed(tmp_path: Path) -> None:
    """Any answer with a LiteLLM header stops the next payment."""
    async with FakeProvider(tmp_path) as fake_provider:
        provider = adapter(fake_provider.base_url)
        job = await provider.submit(TAKE)
        fake_provider.litellm = True
        await provider.state(job.job_id)
        with pytest.raises(Rejected):
            await provider.submit(replace(TAKE, key="other"))
        await provider.close()
    assert len(fake_provider.posts()) == 1


async def test_no_answer_to_the_look_is_proof_that_nothing_was_ordered() -> None:
    """If nobody answers the free question, the paid one is not asked: NotSent."""
    async with Faults("hang") as stub:
        provider = adapter(stub.base_url, timeout_s=0.4)
        with pytest.raises(NotSent):
            await provider.submit(TAKE)
        assert stub.posts == 0
        await provider.close()
