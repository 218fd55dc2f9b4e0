"""The real LiteLLM between the whole app and its provider: charged once, and booked as charged.

The oracle is the charge log of the providers behind the proxy.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.doctor import _check_provider
from app.settings import read_settings
from evals.environment import PRICE, QUICK_TIMEOUTS, AppEnvironment, EnvironmentConfig, open_environment
from ledger import reports, transitions
from ledger.models import FINAL_STATES, VideoState
from ledger.transitions import HoldNotResolved, Resolution
from providers.base import InDoubt, Rejected
from providers.gateways import is_litellm_id
from providers.openai_dialects import OPENAI
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.server import FAKE_KEY, PostOutcome
from tests.support import services
from tests.support.app_harness import wait_for_state
from tests.support.litellm import ABSENT, LITELLM, BehindLiteLLM, LiteLLMProxy, proxys_id
from tests.support.provider_cases import SORA_REQUEST, openai_adapter, outcome
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.gateway,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not LITELLM, reason=ABSENT),
]

V = VideoState
PATIENT = {"submit_timeout_s": 30.0}
UNLIMITED = {"cooldown": None}


class Behind:
    """The app behind a proxy, and the two providers behind that."""

    def __init__(self, env: AppEnvironment, second: FakeProvider) -> None:
        self.env, self.first, self.second = env, env.fake_provider, second

    @property
    def posts(self) -> int:
        return len(self.first.posts()) + len(self.second.posts())

    @property
    def charged(self) -> int:
        return sum(self.first.net().values()) + sum(self.second.net().values())

    async def booked(self) -> tuple[int, int]:
        """Return the micro-dollars that the ledger has as paid, and as held."""
        found = await reports.cost_summary(self.env.app.ledger)
        return found.paid.micros, found.held.micros


@asynccontextmanager
async def app_behind(
    proxy: LiteLLMProxy, folder: Path, redis_url: str, shape: Any = "litellm", **options: Any
) -> AsyncIterator[Behind]:
    options = {"capabilities": PATIENT, "changes": UNLIMITED} | options
    config = EnvironmentConfig(
        folder, redis_url, shape=shape, fake_provider=BehindLiteLLM,
        fake_provider_options={"port": proxy.first_port, "proxy_url": proxy.url}, **options,
    )  # fmt: skip
    async with (
        FakeProvider(folder / "second", port=proxy.second_port, polls=0) as second,
        open_environment(config) as env,
    ):
        yield Behind(env, second)


CHARGED: tuple[PostOutcome, ...] = (
    "charge_500", "charge_503", "charge_drop", "charge_cut", "charge_html", "charge_202_no_id",
)  # fmt: skip
NOT_CHARGED: tuple[PostOutcome, ...] = ("drop", "500", "429")
REFUSED: dict[PostOutcome, str] = {
    "refuse_400": "invalid", "refuse_policy": "policy", "refuse_401": "auth", "refuse_402": "funds",
}  # fmt: skip


async def test_every_order_is_one_post_and_booked_as_charged(
    proxy: LiteLLMProxy, tmp_path: Path, redis_url: str
) -> None:
    """Whatever its provider answers: one POST to one provider, and the ledger says what was charged."""
    async with app_behind(
        proxy, tmp_path, redis_url, changes={"quota": "100/day", "cooldown": None}
    ) as behind:
        env, first = behind.env, behind.first
        orders = 0
        for user_id, said in enumerate((*CHARGED, *NOT_CHARGED, *REFUSED, "throttle_429", "accept"), 1001):
            paid, held = await behind.booked()
            before = behind.charged
            first.script(said)
            _, video = await env.create(user_id=user_id)  # each user's breaker counts three
            assert video is not None
            orders += 1 + (said == "throttle_429")  # that one is documented to cost nothing
            assert behind.posts == orders, said
            now_paid, now_held = await behind.booked()
            charged = behind.charged - before
            if said in REFUSED:
                assert (video.state, video.failure) == (V.FAILED_UNPAID, REFUSED[said])
                assert (charged, now_paid - paid, now_held - held) == (0, 0, 0)
            elif said in ("accept", "throttle_429"):
                assert video.state is V.DELIVERED
                assert charged == now_paid - paid == PRICE.micros
            else:
                assert video.state is V.HOLD, (said, video.state)
                assert (now_paid - paid, now_held - held) == (0, PRICE.micros)
                assert charged == (PRICE.micros if said in CHARGED else 0)


@pytest.fixture
def postgresql() -> Iterator[str]:
    if not services.looked_up():
        pytest.skip("PostgreSQL does not answer")
    with services.database() as url:
        yield url


async def test_an_order_on_postgresql_is_delivered(
    proxy: LiteLLMProxy, tmp_path: Path, redis_url: str, postgresql: str
) -> None:
    """LiteLLM's ids are longer than 200 characters, which only PostgreSQL minds."""
    settings = {"database_url": SecretStr(postgresql)}
    async with app_behind(proxy, tmp_path, redis_url, settings=settings) as behind:
        _, video = await behind.env.create()
        assert video is not None
        assert video.state is V.DELIVERED
        assert is_litellm_id(video.job_id or "")
        assert len(video.job_id or "") > 200
        assert behind.charged == (await behind.booked())[0] == PRICE.micros


async def test_a_hold_is_resolved_by_an_id_that_was_checked(
    proxy: LiteLLMProxy, tmp_path: Path, redis_url: str
) -> None:
    """The id on the provider's own page is refused in words; the proxy's id of that job is delivered."""
    async with app_behind(proxy, tmp_path, redis_url) as behind:
        env, worker = behind.env, behind.env.app.worker
        behind.first.script("charge_500")
        await env.create()
        [job] = behind.first.jobs
        request, video = await env.latest() or (None, None)
        assert request is not None
        assert video is not None
        with pytest.raises(HoldNotResolved, match="its own ids"):
            await worker.check_job(video, Resolution("paid", job))
        with pytest.raises(HoldNotResolved, match="does not know"):
            await worker.check_job(video, Resolution("paid", proxys_id("video_of_another")))
        found = Resolution("paid", proxys_id(job))
        await worker.check_job(video, found)
        await worker.apply_effects(
            await transitions.resolve_hold(env.app.ledger, request.request_id, found, "admin:1")
        )
        await wait_for_state(env, V.DELIVERED)
        assert behind.charged == (await behind.booked())[0] == PRICE.micros
        assert behind.posts == 1


async def test_it_is_killed_during_the_order_and_started_again(
    proxy: LiteLLMProxy, tmp_path: Path, redis_url: str
) -> None:
    """The provider has charged, the proxy dies: held, never sent again. The next order is delivered."""
    async with app_behind(proxy, tmp_path, redis_url) as behind:
        env = behind.env
        behind.first.script("charge_hang")
        await env.user().send("/create a quiet market at dawn")

        async def charged() -> bool:
            return behind.charged > 0

        await wait_until(charged, 30, "the charge")
        proxy.stop()
        await wait_for_state(env, V.HOLD)
        await proxy.restart()
        _, video = await env.create("another market")
        assert video is not None
        assert video.state is V.DELIVERED
        assert behind.posts == 2
        assert behind.charged == 2 * PRICE.micros
        assert await behind.booked() == (PRICE.micros, PRICE.micros)


async def test_it_is_killed_while_a_job_is_made(proxy: LiteLLMProxy, tmp_path: Path, redis_url: str) -> None:
    """The job's id is known to a new process: it is polled on and delivered."""
    async with app_behind(proxy, tmp_path, redis_url) as behind:
        env = behind.env
        behind.first.polls = 10**6
        await env.user().send("/create a quiet market at dawn")
        await wait_for_state(env, V.ACCEPTED)
        proxy.stop()
        behind.first.polls = 1
        await proxy.restart()
        await wait_for_state(env, V.DELIVERED, seconds=60)
        assert behind.posts == 1
        assert behind.charged == (await behind.booked())[0] == PRICE.micros


async def test_an_order_waits_for_a_stopped_proxy(
    proxy: LiteLLMProxy, tmp_path: Path, redis_url: str
) -> None:
    """Nothing was sent, and that is known: the order is sent when the proxy is back, once."""
    timeouts = replace(QUICK_TIMEOUTS, resends=100)
    async with app_behind(proxy, tmp_path, redis_url, timeouts=timeouts) as behind:
        env = behind.env
        proxy.stop()
        await env.user().send("/create a quiet market at dawn")

        async def was_tried() -> bool:
            found = await env.latest()
            return found is not None and found[1] is not None and found[1].submits > 0

        await wait_until(was_tried, 20, "the first submit")
        await proxy.restart()
        await wait_for_state(env, V.DELIVERED, seconds=60)
        assert behind.posts == 1
        assert behind.charged == (await behind.booked())[0] == PRICE.micros


async def test_its_own_limit_is_known_as_not_sent(
    limited_proxy: LiteLLMProxy, tmp_path: Path, redis_url: str
) -> None:
    """A 429 of the proxy itself, which sent nothing, is waited for: not a HOLD."""
    async with app_behind(
        limited_proxy, tmp_path, redis_url, capabilities={**PATIENT, "poll_s": 3600.0}
    ) as behind:
        env = behind.env
        await env.user().send("/create a quiet market at dawn")
        await wait_for_state(env, V.ACCEPTED)
        await env.user().send("/create another market")

        async def waits() -> bool:
            found = await env.latest()
            if found is None or found[1] is None or found[0].idea != "another market":
                return False
            assert found[1].state not in FINAL_STATES | {V.HOLD, V.IN_DOUBT}
            return found[1].state is V.QUEUED and found[1].retry_at > found[1].updated_at + 30_000

        await wait_until(waits, 30, "the second order to wait")
        assert behind.posts == 1


async def test_other_dialects_order_nothing_through_it(
    proxy: LiteLLMProxy, tmp_path: Path, redis_url: str
) -> None:
    """Not one order after any start: the free question is asked before the first."""
    async with app_behind(proxy, tmp_path, redis_url, shape="openai") as behind:
        _, video = await behind.env.create()
        assert video is not None
        assert video.state is V.FAILED_UNPAID
        assert "VIDEO_DIALECT=litellm" in (video.failure_detail or "")
        for _ in range(2):
            provider = openai_adapter(f"{proxy.url}/v1", OPENAI, timeout_s=30)
            assert isinstance(await outcome(provider, SORA_REQUEST), Rejected)
            await provider.close()
        assert behind.posts == 0
        assert await behind.booked() == (0, 0)


async def test_what_it_admits_is_booked(proxy: LiteLLMProxy, tmp_path: Path, redis_url: str) -> None:
    """Vouched for in error, in another dialect: it sends twice, says so, and both are booked.

    And its error after charged sends is not taken for a refusal.
    """
    async with app_behind(proxy, tmp_path, redis_url) as behind:
        provider = openai_adapter(f"{proxy.url}/v1", OPENAI, timeout_s=90, vouched=True)
        behind.first.script("charge_500")
        job = await provider.submit(SORA_REQUEST)
        assert job.sends == behind.posts == 2
        assert behind.charged == 2 * PRICE.micros
        behind.first.script("charge_500", "charge_500", "refuse_policy", "refuse_policy")
        behind.second.script("refuse_policy")
        assert isinstance(await outcome(provider, SORA_REQUEST), InDoubt)
        assert behind.charged == 4 * PRICE.micros
        await provider.close()


async def test_doctor_asks_it_a_free_question(proxy: LiteLLMProxy, tmp_path: Path) -> None:
    """With the right key well; with a wrong key, or a stopped proxy, ill in words. Nothing is ordered."""
    prices = tmp_path / "prices.yaml"
    prices.write_text(
        "{priced_on: 2026-11-22, source: a test,"
        " models: {sora-2: {seconds: [8], per_second: {720x1280: $0.10}}}}"
    )

    async def found(key: str = FAKE_KEY) -> tuple[str, str]:
        settings = read_settings(
            _env_file=None, var_dir=tmp_path, video_provider="openai_compat", video_dialect="litellm",
            video_base_url=f"{proxy.url}/v1", video_api_key=SecretStr(key), video_prices=prices,
        )  # fmt: skip
        one = await _check_provider(settings)
        assert key not in one.words
        return one.health, one.words

    async with FakeProvider(tmp_path / "fake", port=proxy.first_port) as first:
        assert (await found())[0] == "well"
        health, words = await found("sk-a-wrong-key-0123456789")
        assert health == "ill"
        assert "VIDEO_API_KEY" in words
        await asyncio.to_thread(proxy.stop)
        health, words = await found()
        assert health == "ill"
        assert "does not answer" in words
        await proxy.restart()
        assert first.posts() == []
