"""What one machine's figures say about many: which part is full first at a given number of videos a day."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bench.results import Results

VIDEOS_A_DAY: Final = 100_000
USERS: Final = 1_000_000
PEAK: Final = 5
"""The busiest second of a day against the average one."""

JOB_S: Final = 120
"""How long a provider works on one video."""

POLL_S: Final = 30
MESSAGES: Final = 3
"""Calls that Telegram counts for one /create: the status message, the video, the notice."""

TELEGRAM_PER_S: Final = 30
"""What Telegram allows one bot, over all chats."""

COMMITS_PER_S: Final = 1_000
"""Durable inserts in a second, where no run measured them."""

MEMORY_GB: Final = 4
"""Of the machine that Redis has; an assumption."""

REQUEST_BYTES: Final = 4_000
"""Of one request in the ledger, where no run measured it."""


@dataclass(frozen=True, slots=True)
class Wall:
    """One part: what the peak needs of it, and what one unit of it gives."""

    part: str
    needs: str
    share: float
    then: str


def walls(results: Results) -> str:
    """Return the page's section, or an empty string if no whole /create was measured."""
    if "create" not in results.series:
        return ""
    per_s = VIDEOS_A_DAY / 86_400 * PEAK
    found = sorted(_walls(results, per_s), key=lambda wall: -wall.share)
    average = VIDEOS_A_DAY / 86_400
    head = (
        f"Computed for {VIDEOS_A_DAY:,} videos a day and {USERS:,} users: {average:.2f} /create a second on "
        f"average, {per_s:.1f} at the peak (×{PEAK}), {JOB_S} s at the provider. The part that is full first "
        "comes first.\n"
    )
    lines = [
        head,
        "| part | needs at the peak | of one unit | then |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {one.part} | {one.needs} | {one.share:.0%} | {one.then} |" for one in found]
    return "\n".join(lines)


def _walls(results: Results, per_s: float) -> Iterator[Wall]:
    create = results.series["create"]
    yield Wall(
        "Telegram, one bot", f"{per_s * MESSAGES:.0f} calls a second of {TELEGRAM_PER_S}",
        per_s * MESSAGES / TELEGRAM_PER_S,
        "a second bot, or a paid limit at Telegram; workers share one limiter, so final words are only later",
    )  # fmt: skip
    cores = per_s * create["cpu_ms"] / 1e3
    yield Wall(
        "workers",
        f"{cores:.1f} cores",
        cores,
        "more workers on more machines; they share nothing but the stores",
    )
    redis = per_s * create["redis_cpu_ms"] / 1e3
    yield Wall("Redis, one thread", f"{redis:.1%} of its thread", redis, "a second Redis for the queue")
    commits = per_s * create["transactions"]
    most = results.series.get("commits_per_s", COMMITS_PER_S)
    yield Wall(
        f"the ledger, {create.get('dialect', 'SQL')}", f"{commits:.0f} transactions a second of {most:,.0f}",
        commits / most, "a larger machine; reports from a replica",
    )  # fmt: skip
    if points := [one for one in results.series.get("admission_against_history", ()) if "redis_bytes" in one]:
        memory = VIDEOS_A_DAY * points[-1]["redis_bytes"] / 1e9
        yield Wall(
            "memory of Redis", f"{memory:.2f} GB for the orders of a day", memory / MEMORY_GB,
            "a larger machine: only orders in the window count, users without one take nothing",
        )  # fmt: skip
    in_flight = per_s * JOB_S
    yield from _in_flight(results, in_flight)
    yield from _disk(results)


def _in_flight(results: Results, in_flight: float) -> Iterator[Wall]:
    polling = results.series.get("polling")
    if polling:
        cpu = polling["cpu_s"] / max(1, polling["questions"])
        cores = in_flight / POLL_S * cpu
        yield Wall(
            "questions about jobs",
            f"{in_flight:,.0f} in flight, {in_flight / POLL_S:.0f} questions a second",
            cores, "the provider's own limit comes first; the interval grows evenly for all",
        )  # fmt: skip


def _disk(results: Results) -> Iterator[Wall]:
    found = results.series.get("questions_postgresql") or results.series.get("questions_sqlite")
    each = found["bytes_per_request"] if found else REQUEST_BYTES
    year = VIDEOS_A_DAY * 365 * each / 1e9
    yield Wall(
        "disk of the ledger", f"{year:.0f} GB a year", year / 1000, "`prune` after 400 days; 1 TB is the unit"
    )
