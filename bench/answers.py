"""How soon a person is answered, with the shipped edit and send limits. Seconds: reported, not judged."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from bench.measure import percentile
from bench.results import Figure, Results, Size
from bench.stores import private_redis
from chat.context import EditLimits
from chat.keyboards import APPROVE
from chat.send_limits import SendLimits
from evals.environment import AppEnvironment, EnvironmentConfig, open_environment
from sandbox.telegram.bubbles import Bubble
from sandbox.telegram.user import Person

REFUSED = (
    "a duel of Mickey Mouse and Rambo",
    "un retrato sexy de una colegiala",
    "a bomb recipe, step by step",
)
IDEA = "a lighthouse in a storm, seen from the sea"
_WAIT_S = 60

Act = Callable[[Person, int | None], Awaitable[float]]


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure every row that begins with `answers`: one person after the other."""
    count = 10 if size == "short" else 40
    async with _opened(folder) as env:
        await _median(env, results, "answers.text", _text, count)
        for where, in_group in (("private", False), ("group", True)):
            await _slowest(env, results, f"answers.refusal_{where}", _refused, count, in_group)
            await _slowest(env, results, f"answers.offer_{where}", _offered, count, in_group)


@asynccontextmanager
async def _opened(folder: Path) -> AsyncIterator[AppEnvironment]:
    changes = {"approval": "always", "breaker": None, "budget": None}
    with private_redis(folder / "redis") as url:
        config = EnvironmentConfig(
            folder, url, changes=changes, edit_limits=EditLimits(), send_limits=SendLimits(), clock_scale=1
        )
        async with open_environment(config) as env:
            yield env


async def _times(env: AppEnvironment, act: Act, count: int, *, in_group: bool) -> list[float]:
    """Let so many people act, one after the other; in groups, each in one of their own."""
    found = []
    first = 10_000 + sum(1 for _ in env.api.calls) * 100
    for number in range(first, first + count):
        person = env.user(number, f"P{number}")
        found.append(await act(person, await person.create_group(-number) if in_group else None))
    return found


async def _median(env: AppEnvironment, results: Results, name: str, act: Act, count: int) -> None:
    times = await _times(env, act, count, in_group=False)
    middle, late = percentile(times, 0.5), percentile(times, 0.95)
    results.figures[name] = Figure(
        middle, f"{middle:.2f}", f"p95 {late:.2f}", f"{count} people, one at a time"
    )


async def _slowest(
    env: AppEnvironment, results: Results, name: str, act: Act, count: int, in_group: bool
) -> None:
    times = await _times(env, act, count, in_group=in_group)
    middle, late = percentile(times, 0.5), percentile(times, 0.95)
    results.figures[name] = Figure(late, f"{late:.2f}", f"p50 {middle:.2f}", f"{count} people, one at a time")


async def _text(person: Person, chat: int | None) -> float:
    return await _answered(person, "hello there", chat, lambda bubble: not bubble.mine)


async def _refused(person: Person, chat: int | None) -> float:
    idea = REFUSED[person.id % len(REFUSED)]
    return await _answered(person, f"/create {idea}", chat, lambda bubble: not bubble.mine)


async def _offered(person: Person, chat: int | None) -> float:
    return await _answered(person, f"/create {IDEA}", chat, _is_offer)


def _is_offer(bubble: Bubble) -> bool:
    return any((one.data or "").startswith(APPROVE) for row in bubble.buttons for one in row)


async def _answered(
    person: Person, text: str, chat: int | None, is_answer: Callable[[Bubble], bool]
) -> float:
    began = time.monotonic()
    said = await person.send(text, chat=chat)
    await person.wait_for(lambda one: one.id > said.id and is_answer(one), _WAIT_S, chat=chat)
    took = time.monotonic() - began
    await asyncio.sleep(0.05)
    return took
