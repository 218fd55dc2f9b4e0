"""The pipeline over a test's own stores and a real provider, and helpers for tests that drive it.

`evals.pipeline` has the pipeline itself. Charge log and ledger are compared at the end.
"""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import Model
from redis.asyncio import Redis

from evals.environment import assert_ledger_matches, quick_provider, write_agent_specs
from evals.pipeline import PipelineEnvironment, build_pipeline, call_tool
from guardrails.admission import RedisKeys
from guardrails.content.verdict import Judge
from ledger.database import Ledger
from ledger.models import RequestState, VideoState
from providers.base import Capabilities, Provider
from sandbox.video_api.openai import FakeProvider
from tests.support import services
from tests.support.models import Player, Turn
from tools.agent_factory import load_declarations
from worker.context import Timeouts

__all__ = ["PipelineEnvironment", "call_tool"]

PIPELINE_TIMEOUTS = Timeouts(
    run_s=60, retry_s=0, slack_s=20, backoff_s=0, lease_s=0, fetch_s=0, failed_most_s=0.02, poll_most_s=0.02,
    ask_s=0,
)  # fmt: skip
# A POST that nothing disturbs must end well on a busy machine too: a test of its time limit sets one.
QUICK = {"submit_timeout_s": 10.0, "poll_s": 0.01, "grace_s": 0.0, "settle_s": 0.5, "absent_gap_s": 0.1}
SLOW = {"settle_s": 600.0, "absent_gap_s": 120.0}
"""The real times of a provider with a list; tests move the store's clock."""


def capabilities(shape: str, **changes: Any) -> Capabilities:
    """Return what the adapter for this shape declares, with quick times."""
    return quick_provider("http://127.0.0.1:1/v1", shape, QUICK | changes).capabilities


@asynccontextmanager
async def open_pipeline(
    folder: Path,
    ledger: Ledger,
    redis: Redis,
    *turns: Turn,
    model: Model | None = None,
    shape: str = "inworld",
    changes: Mapping[str, str | None] | None = None,
    judge: Judge | None = None,
    provider: Callable[[FakeProvider], Provider] | None = None,
    timeouts: Timeouts = PIPELINE_TIMEOUTS,
    quick: Mapping[str, Any] | None = None,
    compare: bool = True,
    images: Provider | None = None,
    specs: Path | None = None,
    **fake_provider_options: Any,
) -> AsyncIterator[PipelineEnvironment]:
    """Open a pipeline over the given stores; the model plays `turns`.

    Args:
        changes: Lines of the guard policy; the cooldown is off unless set here.
        provider: Builds another adapter for the fake provider.
        quick: Changed capabilities.
        compare: Compare ledger and charge log at the end.
        images: Takes the orders of stills.
        specs: A folder of declarations in place of the shipped ones with `changes`.
        fake_provider_options: Of the fake provider.
    """
    async with FakeProvider(folder / "provider", shape=shape, **fake_provider_options) as fake_provider:
        if provider is not None:
            adapter: Any = provider(fake_provider)
        else:
            adapter = quick_provider(fake_provider.base_url, shape, QUICK | dict(quick or {}))
        specs = specs or write_agent_specs(folder / "agents", **({"cooldown": None} | dict(changes or {})))
        try:
            yield await build_pipeline(
                ledger, redis, model or Player(*turns), adapter, load_declarations(specs),
                keys=RedisKeys(), timeouts=timeouts, media=folder / "media",
                fake_provider=fake_provider, judge=judge, images=images,
            )  # fmt: skip
        finally:
            await adapter.close()
        if compare:
            await assert_ledger_matches(ledger, fake_provider)


def tool_outputs(env: PipelineEnvironment) -> Sequence[str]:
    """Return the tool outputs that the director heard last."""
    items = json.loads(env.model.heard[-1])
    return [item["output"] for item in items if item.get("type") == "function_call_output"]


on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)
on_postgres = [
    pytest.mark.parametrize("dialect", ["postgresql"], indirect=True),
    pytest.mark.skipif(not services.looked_up(), reason="PostgreSQL does not answer"),
]


def marked(*marks: pytest.MarkDecorator):
    def apply(test):
        for mark in marks:
            test = mark(test)
        return test

    return apply


async def assert_resumed(env: PipelineEnvironment, request: str) -> None:
    """Assert that nothing was paid while SQL failed, and that the request is finished now that it answers."""
    assert env.fake_provider.charges() == []
    assert (await env.request_and_video(request))[1] is None
    assert (await env.request(request)).state is RequestState.OPEN
    assert await env.finish_video(request) is VideoState.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def in_doubt(env: PipelineEnvironment, outcome: str = "drop", user_id: int = 7, **changes: Any) -> str:
    """Order a video whose POST ends in `outcome`; its outcome is unknown."""
    env.fake_provider.script(outcome)
    request = await env.ordered(user_id, **changes)
    await env.submit(request)
    assert (await env.video(request)).state is VideoState.IN_DOUBT
    return request


async def reconcile_after(env: PipelineEnvironment, seconds: int, *requests: str) -> list[VideoState]:
    """Move the store's clock and reconcile; return the states."""
    env.ledger.shift += seconds
    await env.run_due("reconcile")
    return [(await env.video(one)).state for one in requests]


async def charged_and_absent(env: PipelineEnvironment, user_id: int = 7, **changes: Any) -> str:
    """Order a video that was charged and whose job no list showed in time: it ended unpaid."""
    request = await in_doubt(env, "charge_drop", user_id, **changes)
    hidden = dict(env.fake_provider.jobs)
    env.fake_provider.jobs.clear()
    for seconds in (601, 121):
        await reconcile_after(env, seconds)
    assert (await env.video(request)).state is VideoState.FAILED_UNPAID
    env.fake_provider.jobs.update(hidden)
    return request


async def check_late_charges_after(env: PipelineEnvironment, seconds: int = 61) -> None:
    env.ledger.shift += seconds
    await env.run_due("late_check")
