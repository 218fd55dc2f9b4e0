"""Questions that run on a clock, or that a person waits for: do they grow with the number of requests ever?

Two ledgers have the same thousand requests a day and the same orders under way (bench/history.py); one is a
day old, the other has a long history. Each question is asked of both in turns.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench import instant_provider
from bench.history import fill
from bench.measure import ratio
from bench.results import Figure, Results, Size
from bench.stores import has_postgres, postgres_database
from evals.environment import set_status_message
from guardrails.limits import BreakerRates, Limits
from guardrails.money import Money
from ledger import due_work, history, notifications, orders, pending_work, reports, requests, transitions
from ledger.database import Ledger
from ledger.models import VideoState
from ledger.orders import Order
from ledger.requests import NewRequest

Question = Callable[[Ledger], Awaitable[object]]
MANY: Final[dict[Size, int]] = {"short": 20_000, "usual": 100_000, "whole": 1_000_000}
_STEPS: Final = (VideoState.QUEUED, VideoState.SUBMITTING, VideoState.ACCEPTED, VideoState.IN_DOUBT)


async def run(folder: Path, results: Results, size: Size) -> None:
    """Measure both rows that begin with `questions`."""
    short = size == "short"
    few, many = 1_000, MANY[size]
    await _measure(folder, results, "sqlite", few, many, turns=3 if short else 7)
    if short:
        return
    if has_postgres():
        await _measure(folder, results, "postgresql", few, many, turns=7)
    else:
        results.figures["questions.postgresql"] = Figure(note="no server: ONETAKE_TEST_POSTGRES is not set")


async def _measure(folder: Path, results: Results, dialect: str, few: int, many: int, turns: int) -> None:
    lines: list[dict[str, Any]] = []
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        small = await enter(_ledger(folder, dialect, few))
        began = time.perf_counter()
        large = await enter(_ledger(folder, dialect, many))
        filled_s = time.perf_counter() - began
        for name, question in questions().items():
            lines.append({"question": name} | await _grow(question, small, large, turns))
        size = await _bytes_of(large)
    results.series[f"questions_{dialect}"] = {
        "few": few, "many": many, "questions": lines, "bytes_per_request": size / many, "filled_s": filled_s,
    }  # fmt: skip
    worst = max(lines, key=lambda line: float(line["growth"]))
    bad = [line["question"] for line in lines if line["growth"] > 1.5]
    note = f"{few:,} against {many:,} requests; slowest growth: {worst['question']}"
    if bad:
        note += f"; above 1.5: {', '.join(bad)}"
    shown = f"{worst['growth']:.2f} at {many:,}"
    results.figures[f"questions.{dialect}"] = Figure(
        worst["growth"], shown, f"medians {worst.get('spread', '–')}", note
    )


async def _grow(question: Question, small: Ledger, large: Ledger, turns: int) -> dict[str, Any]:
    """Return the growth of one question, by its shortest answers; one that fails grows without a limit."""
    try:
        began = time.perf_counter()
        await question(large)
        first_s = time.perf_counter() - began
        calls = max(1, min(20, int(0.1 / first_s)))
        found = await ratio(
            lambda _: question(large),
            lambda _: question(small),
            turns=turns if first_s < 1 else 2,
            calls=calls,
        )
    except Exception as error:  # noqa: BLE001 - a question that fails is a figure
        return {"growth": 1e9, "failed": f"{type(error).__name__}: {str(error)[:100]}", "ms": 0.0}
    return {
        "growth": found.least,
        "spread": found.spread,
        "ms": found.ours_us / 1e3,
        "few_ms": found.theirs_us / 1e3,
    }


@asynccontextmanager
async def _ledger(folder: Path, dialect: str, count: int) -> AsyncIterator[Ledger]:
    async with AsyncExitStack() as stack:
        if dialect == "sqlite":
            folder.mkdir(parents=True, exist_ok=True)
            url = f"sqlite:///{folder / f'{count}.db'}"
        else:
            url = await stack.enter_async_context(postgres_database())
        ledger = Ledger(url)
        stack.push_async_callback(ledger.close)
        await fill(ledger, count)
        yield ledger


async def _bytes_of(ledger: Ledger) -> int:
    if ledger.dialect == "sqlite":
        return Path(str(ledger.url.database)).stat().st_size
    async with ledger.engine.connect() as conn:
        found = await conn.exec_driver_sql("SELECT pg_database_size(current_database())")
        return int(found.scalar_one())


def questions() -> dict[str, Question]:
    """Return every question that runs on a clock, that a person waits for, or that books a job."""
    return {
        "due: what is next": lambda ledger: due_work.next_due(ledger, 1),
        "due: orders to claim": lambda ledger: due_work.claim_videos(ledger, _STEPS, 50, 30),
        "due: runs to claim": lambda ledger: due_work.claim_runs(ledger, 50, 30, bot_id=1),
        "due: notifications to claim": lambda ledger: due_work.claim_notifications(
            ledger, 1, 50, 30, delivery=False
        ),
        "due: outcomes to report": history.unreported,
        "due: operator alerts": lambda ledger: notifications.videos_needing_attention(
            ledger, ["auth"], [1], 86_400, 20
        ),
        "metrics": reports.update_gauges,
        "costs: today": lambda ledger: reports.read_report(ledger, "today"),
        "costs: 30 days": lambda ledger: reports.read_report(ledger, "30d"),
        "costs: one user": lambda ledger: reports.read_report(ledger, "30d", 2),
        "costs: total": reports.cost_summary,
        "duplicates": history.prevented_duplicates,
        "adoption: open, order, submit, adopt": _one_order,
        "doubt: claimed jobs": lambda ledger: transitions.claimed_jobs(
            ledger, ["openai_compat"], [f"job-{n}" for n in range(100)]
        ),
        "doubt: similar orders": _similar,
    }


_SHIPPED: Final = Limits(
    quota=5, cooldown_s=600, user_budget=Money.parse("$15"), everyone_budget=Money.parse("$1000000")
)
_state = {"number": 0}


async def _one_order(ledger: Ledger) -> object:
    """Open, order, submit and adopt by a new user: the writes that book a paid job."""
    _state["number"] += 1
    number = _state["number"]
    request, user = f"tg:2:-:{number}:{number}", 50_000_000 + number
    await requests.open_request(ledger, NewRequest(request, 2, user, number, user, "en", "a market"))
    await set_status_message(ledger, request)
    wanted = Order(request, "bench", "instant", "a market", 8, "720x1280", instant_provider.PRICE)
    placed = await orders.place(ledger, wanted, _SHIPPED)
    assert isinstance(placed, orders.Placed), placed
    await transitions.begin_submit(ledger, request, "fence", 3600, BreakerRates())
    adopted = await transitions.adopt_job(ledger, request, f"new-{number}-{ledger.dialect}", "bench", None)
    assert adopted is not None
    return adopted


async def _similar(ledger: Ledger) -> object:
    """Ask to how many other orders a job that was found by its prompt could belong."""
    (newest,) = await history.latest_orders(ledger, most=1)
    found = await requests.find_with_video(ledger, newest.request_id)
    assert found is not None
    assert found[1] is not None
    return await pending_work.similar_orders(ledger, found[1], (VideoState.SUBMITTING, VideoState.IN_DOUBT))
