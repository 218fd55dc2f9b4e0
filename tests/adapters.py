"""Every adapter that speaks to a company over HTTP, in every dialect, for one contract.

A new adapter joins with one line in `ADAPTERS`; nothing in the laws knows whose protocol it speaks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
import stamina

from providers.base import InDoubt, Job, NotSent, Provider, ProviderError, Rejected, Throttled, VideoRequest
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS
from providers.pricing import PriceList, capabilities_of
from sandbox.video_api.server import FAKE_KEY, ApiShape

PRICES = PriceList.model_validate(
    {
        "priced_on": "2026-11-22",
        "source": "the peer",
        "models": {"m-1": {"seconds": [4, 8], "per_second": {"720x1280": "$0.10"}}},
    }
)
TAKE = VideoRequest(
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


@pytest.fixture(params=ADAPTERS.values(), ids=ADAPTERS, name="case")
def each_case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=3, cap=True):
        yield


def unclaimed(_: str) -> bool:
    return False


async def outcome(provider: Provider, video_request: VideoRequest = TAKE) -> Job | ProviderError:
    """Submit once; whatever is not one of the declared answers breaks the test."""
    try:
        return await provider.submit(video_request)
    except (NotSent, Throttled, Rejected, InDoubt) as error:
        return error
