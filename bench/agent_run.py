"""A guarded run of the director, with ledger and traces, against the same run of a bare agent."""

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from agents import Agent, RunConfig, Runner, function_tool
from pydantic import SecretStr

from app.application import App, open_app
from app.settings import read_settings
from bench import instant_provider
from bench.measure import ratio
from bench.results import Figure, Results, Size
from bench.stores import database, private_redis
from evals.environment import SingleModelProvider, write_agent_specs
from ledger import requests
from ledger.models import Request
from ledger.requests import NewRequest
from sandbox.model import SandboxModel
from sandbox.telegram.server import TOKEN
from telemetry.logs import setup_logs
from tools.agent_factory import DIRECTOR
from worker.tracing import attempt_span

IDEA: Final = "a quiet market at dawn"
WIDE_LIMITS: Final = {
    "cooldown": None,
    "budget": "{user: $15/day, everyone: $90000000/day}",
    "breaker": "{user: 3/5m, everyone: 100000/5m}",
}
"""Lines of the policy that would refuse a benchmark: many users order at once."""

_NUMBERS: Final = itertools.count(1)


@function_tool
async def generate_video(prompt: str, seconds: int, size: str) -> str:
    """Order the one video of this request."""
    return f"The video is ordered: {seconds} s, {size}, {len(prompt)} characters."


@function_tool
async def generate_caption(about: str) -> str:
    """Write the caption of this request's video."""
    result = await Runner.run(_CAPTION_WRITER, about, run_config=_BARE_CONFIG, max_turns=2)
    return str(result.final_output)


@function_tool
async def quota_left() -> str:
    """Say how many videos are left today."""
    return "5 of 5."


_BARE_CONFIG: Final = RunConfig(
    model_provider=SingleModelProvider(SandboxModel()),
    tracing_disabled=True,
    tool_not_found_behavior="return_error_to_model",
)
_INSTRUCTIONS: Final = "{}\nLanguage of the user: English"
_CAPTION_WRITER: Final = Agent[None](
    name="caption_writer", instructions=_INSTRUCTIONS.format("Write a caption.")
)
_DIRECTOR: Final = Agent[None](
    name="director",
    instructions=_INSTRUCTIONS.format("Order one video, and its caption."),
    tools=[generate_video, generate_caption, quota_left],
)


async def bare_run() -> object:
    """Run the same agents bare: the same scripted model and calls, plain tools, no guard, store or trace.

    Two turns of the director with two tool calls, one of which runs the caption writer.
    """
    return await Runner.run(_DIRECTOR, IDEA, run_config=_BARE_CONFIG, max_turns=8)


@asynccontextmanager
async def open_worker(folder: Path, redis_url: str, database_url: str) -> AsyncIterator[App]:
    """Open the app's parts with an instant provider and the scripted model; no task runs by itself."""
    instant_provider.install()
    settings = read_settings(
        _env_file=None,
        telegram_bot_token=SecretStr(TOKEN),
        redis_url=SecretStr(redis_url),
        database_url=SecretStr(database_url),
        video_provider=instant_provider.NAME,
        var_dir=folder / "var",
        agents_dir=write_agent_specs(folder / "agents", **WIDE_LIMITS),
    )
    async with open_app(settings) as app:
        app.worker.queue.kick = _ignore  # as in every process that runs agents: it wakes its own worker
        yield app


def _ignore(_: str) -> None:
    """Start no task."""


async def opened(app: App, count: int) -> list[Request]:
    """Open so many requests, as the chat does before a worker runs anything."""
    found = []
    for number in itertools.islice(_NUMBERS, count):
        user = 20_000_000 + number
        new = NewRequest(f"tg:1:-:{user}:{number}", 1, user, number, user, "en", IDEA)
        found.append((await requests.open_request(app.ledger, new))[0])
    return found


async def guarded_run(app: App, request: Request) -> None:
    """Run the director for an open request, as the worker's step does; the order is placed."""
    with attempt_span(request, 1):
        context = app.agent_factory.run_context(request, 1)
        agent = app.agent_factory.agent(DIRECTOR, "en")
        await Runner.run(agent, IDEA, context=context, max_turns=8, run_config=context.run_config)


async def assert_ordered(app: App, ran: list[Request]) -> None:
    """Each run placed its one order: a run that was refused would cost less."""
    for request in ran:
        found = await requests.find_with_video(app.ledger, request.request_id)
        assert found is not None
        assert found[1] is not None, request.request_id


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure the row `agent_run`."""
    short = size == "short"
    folder.mkdir(parents=True, exist_ok=True)
    setup_logs("INFO", "json", folder / "log")
    with private_redis(folder / "valkey") as redis_url:
        async with database(folder) as database_url, open_worker(folder, redis_url, database_url) as app:
            turns, calls = (8, 5) if short else (25, 10)
            ready = await opened(app, turns * calls + calls)  # and as many to warm up
            left = iter(ready)
            found = await ratio(
                lambda _: guarded_run(app, next(left)), lambda _: bare_run(), turns=turns, calls=calls
            )
            ran = len(ready) - len(list(left))
            await assert_ordered(app, ready[:ran])
            dialect = app.ledger.dialect
    results.series["bare_run_cpu_ms"] = found.theirs_cpu_us / 1000
    results.figures["agent_run"] = Figure(
        found.cpu, f"{found.cpu:.2f}", f"wall {found.spread}",
        f"{found.ours_cpu_us / 1000:.1f} ms against {found.theirs_cpu_us / 1000:.1f} ms of CPU, wall "
        f"{found.wall:.2f}; ordered on {dialect}; spans end in memory",
    )  # fmt: skip
