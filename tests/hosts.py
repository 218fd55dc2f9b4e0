"""The two model hosts as the tests see them: an adapter, its peer, and a take that both know."""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import httpcore2
import peer_fal
import peer_replicate
import pytest
import stamina
from adapters import outcome
from peer_fal import FalPeer
from peer_host import KEY, HostPeer
from peer_replicate import ReplicatePeer

from providers.base import InDoubt, Provider, ProviderError, Rejected, Throttled, VideoRequest
from providers.fal import Fal
from providers.pricing import PriceList
from providers.replicate import Replicate


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
    usual = Fal(KEY, prices_of(peer_fal.MODEL)).capabilities
    times = replace(usual, submit_timeout_s=timeout_s)
    return Fal(
        KEY,
        prices_of(peer_fal.MODEL),
        capabilities=times,
        queue_url=url,
        api_url=f"{url}/v1",
        **options,
    )


def _replicate(url: str, timeout_s: float = 1.5, **options: Any) -> Provider:
    usual = Replicate(KEY, prices_of(peer_replicate.MODEL)).capabilities
    times = replace(usual, submit_timeout_s=timeout_s)
    return Replicate(
        KEY, prices_of(peer_replicate.MODEL), capabilities=times, base_url=f"{url}/v1", **options
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
        peer_fal.MODEL,
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
        peer_replicate.MODEL,
        _replicate,
        ReplicatePeer,
        {"refuse_invalid": "invalid", "refuse_auth": "auth", "refuse_funds": "funds"},
        {"404": Rejected} | dict.fromkeys(("429", "429_retry_after", "429_retry_after_nonsense"), Throttled),
    ),
}


@pytest.fixture(params=HOSTS.values(), ids=HOSTS, name="host")
def each_host(request: pytest.FixtureRequest) -> Host:
    return request.param


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with short_ways():
        yield


async def lost(provider: Provider, fake_provider: HostPeer, take: VideoRequest) -> str:
    """Order a job and lose the answer; return the peer's id of it."""
    fake_provider.script("charge_drop")
    assert type(await outcome(provider, take)) is InDoubt
    return next(reversed(fake_provider.jobs))
