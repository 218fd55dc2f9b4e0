"""Every adapter that speaks to a company over HTTP, in every dialect, for one contract.

A new adapter joins with one line in `ADAPTERS`; nothing in the laws knows whose protocol it speaks.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import httpcore2
import stamina

from providers.base import InDoubt, Job, NotSent, Provider, ProviderError, Rejected, Throttled, VideoRequest
from providers.fal import Fal
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS, OPENAI, Dialect
from providers.pricing import SORA_2_PRICES, PriceList, capabilities_of
from providers.replicate import Replicate
from sandbox.video_api.server import FAKE_KEY, ApiShape
from sandbox.video_api import fal as hosted_fal
from sandbox.video_api import replicate as hosted_replicate
from sandbox.video_api.fal import FalPeer
from tests.support.hosted_provider import KEY, HostPeer
from sandbox.video_api.replicate import ReplicatePeer

PRICES = PriceList.model_validate(
    {
        "priced_on": "2026-11-22",
        "source": "the peer",
        "models": {"m-1": {"seconds": [4, 8], "per_second": {"720x1280": "$0.10"}}},
    }
)
CONTRACT_REQUEST = VideoRequest(
    request_id="tg:1:-:2:3",
    key="5f0c7a52-5a0e-5b7e-9d1c-0d6f4b7f3a11",
    model="m-1",
    prompt='a lighthouse at dusk, «olá»\r\nwith "quotes" and \'; DROP TABLE',
    seconds=8,
    size="720x1280",
    seed=1_234_567,
)


@dataclass(frozen=True)
class Case:
    """One adapter in one dialect, and what that dialect documents."""

    shape: ApiShape
    build: Callable[..., Provider]
    after_429: type[ProviderError] = InDoubt
    replays: bool = False
    recognises: bool = True  # its list shows enough to tell which job is ours


def _openai_compat(shape: ApiShape) -> Callable[..., Provider]:
    def build(base_url: str, timeout_s: float = 1.5, *, vouched: bool = False) -> Provider:
        times = replace(capabilities_of(DIALECTS[shape], PRICES), submit_timeout_s=timeout_s)
        return OpenAICompat(
            base_url, FAKE_KEY, DIALECTS[shape], PRICES, capabilities=times, proxy_retries_off=vouched
        )

    return build


ADAPTERS = {
    "openai_compat/openai": Case("openai", _openai_compat("openai"), after_429=Throttled),
    "openai_compat/vllm_omni": Case("vllm_omni", _openai_compat("vllm_omni")),
    "openai_compat/sglang": Case("sglang", _openai_compat("sglang"), recognises=False),
    "openai_compat/inworld": Case("inworld", _openai_compat("inworld"), replays=True, recognises=False),
}


def unclaimed(_: str) -> bool:
    return False


async def outcome(provider: Provider, video_request: VideoRequest = CONTRACT_REQUEST) -> Job | ProviderError:
    """Submit once; whatever is not one of the declared answers breaks the test."""
    try:
        return await provider.submit(video_request)
    except (NotSent, Throttled, Rejected, InDoubt) as error:
        return error


@contextlib.contextmanager
def short_ways() -> Iterator[None]:
    """No pauses between free questions, and certificates are read once: each client takes 20 ms for it."""
    once = functools.cache(httpcore2.default_ssl_context)
    with (
        stamina.set_testing(testing=True, attempts=3, cap=True),
        mock.patch.object(httpcore2, "default_ssl_context", once),
    ):
        yield


def prices_of(*models: str) -> PriceList:
    """Ten cents a second, as the peers charge."""
    offer = {"seconds": [4, 8], "per_second": {"720x1280": "$0.10"}}
    return PriceList.model_validate(
        {"priced_on": "2026-11-22", "source": "the peer", "models": dict.fromkeys(models, offer)}
    )


def take_for(model: str, **changes: Any) -> VideoRequest:
    """A prompt with everything that breaks an encoding."""
    prompt = 'a lighthouse at dusk, «olá»\r\nwith "quotes", \\ and \'; DROP TABLE'
    take = VideoRequest("tg:1:-:2:3", "5f0c7a52-5a0e-5b7e", model, prompt, 8, "720x1280", 1_234_567)
    return replace(take, **changes)


def _fal(url: str, timeout_s: float = 1.5, **options: Any) -> Provider:
    usual = Fal(KEY, prices_of(hosted_fal.MODEL)).capabilities
    times = replace(usual, submit_timeout_s=timeout_s)
    return Fal(
        KEY,
        prices_of(hosted_fal.MODEL),
        capabilities=times,
        queue_url=url,
        api_url=f"{url}/v1",
        **options,
    )


def _replicate(url: str, timeout_s: float = 1.5, **options: Any) -> Provider:
    usual = Replicate(KEY, prices_of(hosted_replicate.MODEL)).capabilities
    times = replace(usual, submit_timeout_s=timeout_s)
    return Replicate(
        KEY, prices_of(hosted_replicate.MODEL), capabilities=times, base_url=f"{url}/v1", **options
    )


@dataclass(frozen=True)
class Host:
    """`build(url)` makes the adapter for a server whose root is `url`.

    Attributes:
        documented: Faults that the host documents as refusals when they come in its own words.
    """

    model: str
    build: Callable[..., Provider]
    fake_provider: Callable[[Path], HostPeer]
    refusals: dict[str, str]
    documented: dict[str, type[ProviderError]]

    @property
    def request(self) -> VideoRequest:
        return take_for(self.model)


HOSTS = {
    "fal": Host(
        hosted_fal.MODEL,
        _fal,
        FalPeer,
        {
            "refuse_invalid": "invalid",
            "refuse_policy": "policy",
            "refuse_auth": "auth",
            "refuse_funds": "funds",
        },
        {"404": Rejected},
    ),
    "replicate": Host(
        hosted_replicate.MODEL,
        _replicate,
        ReplicatePeer,
        {"refuse_invalid": "invalid", "refuse_auth": "auth", "refuse_funds": "funds"},
        {"404": Rejected} | dict.fromkeys(("429", "429_retry_after", "429_retry_after_nonsense"), Throttled),
    ),
}


async def lost(provider: Provider, fake_provider: HostPeer, take: VideoRequest) -> str:
    """Order a job and lose the answer; return the peer's id of it."""
    fake_provider.script("charge_drop")
    assert type(await outcome(provider, take)) is InDoubt
    return next(reversed(fake_provider.jobs))


SORA_REQUEST = VideoRequest(
    "tg:1:-:2:3", "5f0c7a52-5a0e-5b7e-9d1c-0d6f4b7f3a11", "sora-2", "a fox", 8, "720x1280", 77
)
NOW = 1_795_000_000.0


def adapter(
    base_url: str, dialect: Dialect = OPENAI, *, timeout_s: float = 2.0, **options: Any
) -> OpenAICompat:
    times = replace(capabilities_of(dialect, SORA_2_PRICES), submit_timeout_s=timeout_s)
    return OpenAICompat(base_url, FAKE_KEY, dialect, SORA_2_PRICES, capabilities=times, **options)
