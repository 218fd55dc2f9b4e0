"""Every adapter that pays over HTTP, in every dialect, as one table of cases for one contract.

To test a new adapter, add one line to `CASES`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from providers.base import (
    BadAsset,
    ClaimedCheck,
    InDoubt,
    Job,
    NotSent,
    Provider,
    ProviderError,
    Rejected,
    Throttled,
    Transient,
    VideoRequest,
)
from providers.fal import Fal
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS, OPENAI, Dialect
from providers.pricing import SORA_2_PRICES, PriceList, capabilities_of
from providers.replicate import Replicate
from sandbox.video_api import fal, replicate
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY, ApiShape, Content, FakeProviderServer, PostOutcome

NOW = 1_795_000_000.0
SORA_REQUEST = VideoRequest(
    "tg:1:-:2:3", "5f0c7a52-5a0e-5b7e-9d1c-0d6f4b7f3a11", "sora-2", "a fox", 8, "720x1280", 77
)


@dataclass(frozen=True)
class Case:
    """One adapter in one dialect, and what its provider documents.

    Attributes:
        model: A model on offer at ten cents a second, in 4 or 8 seconds and 720x1280.
        build: `build(url, timeout_s=20, vouched=False)` makes the adapter for a server whose root is `url`.
        fake: Makes the fake provider, with its files in a folder.
        refusals: Documented refusals and the reason that the adapter reads in them.
        documented: Raw faults that are documented answers; every other fault is an unknown outcome.
        bad_outputs: Where a bad download means something else than at most providers.
        replays: The provider documents an idempotency key.
        recognises: Its list shows enough of a job to know which is ours.
        absent_at_once: A list without our job proves its absence as soon as the POST has failed.
    """

    model: str
    build: Callable[..., Provider]
    fake: Callable[[Path], FakeProviderServer]
    refusals: Mapping[PostOutcome, str]
    documented: Mapping[str, type[ProviderError]] = field(default_factory=dict)
    bad_outputs: Mapping[Content, type[ProviderError]] = field(default_factory=dict)
    replays: bool = False
    recognises: bool = True
    absent_at_once: bool = True

    @property
    def request(self) -> VideoRequest:
        return video_request(self.model)


def video_request(model: str) -> VideoRequest:
    """Order a prompt with everything that breaks an encoding."""
    prompt = 'a lighthouse at dusk, «olá»\r\nwith "quotes", \\ and \'; DROP TABLE'
    key = "5f0c7a52-5a0e-5b7e-9d1c-0d6f4b7f3a11"
    return VideoRequest("tg:1:-:2:3", key, model, prompt, 8, "720x1280", 1_234_567)


def prices_of(*models: str) -> PriceList:
    """Ten cents a second, as the fake providers charge."""
    offer = {"seconds": [4, 8], "per_second": {"720x1280": "$0.10"}}
    return PriceList.model_validate(
        {"priced_on": "2026-11-22", "source": "the fake provider", "models": dict.fromkeys(models, offer)}
    )


def openai_adapter(
    base_url: str,
    dialect: Dialect = OPENAI,
    timeout_s: float = 20.0,
    *,
    prices: PriceList = SORA_2_PRICES,
    vouched: bool = False,
) -> OpenAICompat:
    """Build the `/v1/videos` adapter; `vouched` means that its owner states: no gateway sends twice."""
    times = replace(capabilities_of(dialect, prices), submit_timeout_s=timeout_s)
    return OpenAICompat(base_url, FAKE_KEY, dialect, prices, capabilities=times, proxy_retries_off=vouched)


def _openai_case(shape: ApiShape, **documented: Any) -> Case:
    def build(url: str, timeout_s: float = 20.0, *, vouched: bool = False) -> Provider:
        prices = prices_of("m-1")
        return openai_adapter(f"{url}/v1", DIALECTS[shape], timeout_s, prices=prices, vouched=vouched)

    refusals: dict[PostOutcome, str] = {
        "refuse_400": "invalid",
        "refuse_policy": "policy",
        "refuse_401": "auth",
    }
    return Case(
        "m-1", build, lambda folder: FakeProvider(folder, shape=shape, polls=0), refusals, **documented
    )


def _fal(url: str, timeout_s: float = 20.0, *, vouched: bool = False, **options: Any) -> Provider:
    del vouched
    prices = prices_of(fal.MODEL)
    times = replace(Fal(FAKE_KEY, prices).capabilities, submit_timeout_s=timeout_s)
    return Fal(FAKE_KEY, prices, capabilities=times, queue_url=url, api_url=f"{url}/v1", **options)


def _replicate(url: str, timeout_s: float = 20.0, *, vouched: bool = False, **options: Any) -> Provider:
    del vouched
    prices = prices_of(replicate.MODEL)
    times = replace(Replicate(FAKE_KEY, prices).capabilities, submit_timeout_s=timeout_s)
    return Replicate(FAKE_KEY, prices, capabilities=times, base_url=f"{url}/v1", **options)


_WAITS: Mapping[Content, type[ProviderError]] = {"404": Transient}
_HOSTED: Mapping[Content, type[ProviderError]] = {"running_json": BadAsset}
HOSTS = {
    "fal": Case(
        fal.MODEL,
        _fal,
        fal.FakeFal,
        {
            "refuse_400": "invalid",
            "refuse_policy": "policy",
            "refuse_401": "auth",
            "refuse_402": "funds",
        },
        documented={"404": Rejected},
        bad_outputs=_HOSTED,
        absent_at_once=False,
    ),
    "replicate": Case(
        replicate.MODEL,
        _replicate,
        replicate.FakeReplicate,
        {"refuse_400": "invalid", "refuse_401": "auth", "refuse_402": "funds"},
        documented={"404": Rejected}
        | dict.fromkeys(("429", "429_retry_after", "429_retry_after_nonsense"), Throttled),
        bad_outputs=_HOSTED,
    ),
}
CASES = {
    "openai_compat/openai": _openai_case("openai", documented={"429_retry_after": Throttled}),
    "openai_compat/vllm_omni": _openai_case("vllm_omni", bad_outputs=_WAITS),
    "openai_compat/sglang": _openai_case("sglang", bad_outputs=_WAITS, recognises=False),
    "openai_compat/inworld": _openai_case("inworld", replays=True, recognises=False),
    "openai_compat/litellm": _openai_case("litellm", recognises=False),
} | HOSTS


async def unclaimed(_: Collection[str]) -> frozenset[str]:
    """Answer that no order has one of these jobs."""
    return frozenset()


async def all_claimed(jobs: Collection[str]) -> frozenset[str]:
    """Answer that each of these jobs belongs to some other order."""
    return frozenset(jobs)


def claiming(*taken: str) -> ClaimedCheck:
    """Return a question that knows the jobs of other orders, by the last part of their id."""

    async def claimed(jobs: Collection[str]) -> frozenset[str]:
        return frozenset(job for job in jobs if job.endswith(taken))

    return claimed


def number_of(job: Job) -> str:
    """The fake's own id of a job; fal's job ids name the model, too."""
    return job.job_id.rpartition("/")[2]


async def outcome(provider: Provider, request: VideoRequest) -> Job | ProviderError:
    """Submit once; an error that is not one of the declared answers fails the test."""
    try:
        return await provider.submit(request)
    except (NotSent, Throttled, Rejected, InDoubt) as error:
        return error


async def lost(provider: Provider, fake_provider: FakeProviderServer, request: VideoRequest) -> str:
    """Order a job and lose the answer; return the fake's id of it."""
    fake_provider.script("charge_drop")
    assert type(await outcome(provider, request)) is InDoubt
    return next(reversed(fake_provider.jobs))
