"""Memory and SQL agree: one sequence of changes has the same answers and leaves the same claims in each."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guardrails import CannotSay, DidNotHappen, Happened, SqlStore
from guardrails.library.claims import (
    Claim,
    ClaimStore,
    CountScope,
    Exceeded,
    Found,
    Taken,
    begin_check,
    doubt,
    finish,
    give_back,
    lapse,
    renew,
    settle,
    take,
)
from guardrails.library.memory_store import MemoryStore
from guardrails.limits import Limits
from guardrails.money import Money

SQL_ALONE = True  # each of them is compared with memory
LIMITS = Limits(
    quota=3, quota_window_s=50, cooldown_s=4, user_budget=Money.parse("$5"), user_window_s=30,
    everyone_budget=Money.parse("$8"), everyone_window_s=20,
)  # fmt: skip
SCOPES = (LIMITS, Limits(quota=2, quota_window_s=9), Limits())

WORDS = ["take"] * 3 + ["finish", "doubt", "give_back", "renew", "check", "settle", "lapse"]

steps = st.lists(
    st.tuples(
        st.sampled_from(WORDS),
        st.integers(0, 3), st.sampled_from(["u1", "u2"]), st.integers(0, 3), st.integers(0, 12),
        st.sampled_from([Happened("x"), DidNotHappen(), CannotSay()]),
    ),
    max_size=30,
)  # fmt: skip


def ask_of(number: int, user: str, micros: int) -> Claim:
    return Claim(
        key=f"k{number}", namespace="n", tool="t", act=f"r{number}", item="", user=user,
        owner=f"o{number}{micros}", micros=micros * 1_000_000,
    )  # fmt: skip


async def play(store: ClaimStore, clock: list[int], script: list[Any], limits: Limits) -> list[Any]:
    """Run a script; return every answer, and what is stored at its end."""
    await store.setup()
    seen: list[Any] = []
    for word, number, user, micros, later, verdict in script:
        clock[0] += later
        ask, mine = ask_of(number, user, micros), await store.read(f"k{number}")
        rules: dict[str, Callable[[Claim], Any]] = {
            "finish": lambda one: finish(one, '"done"'),
            "doubt": lambda one: doubt(one, "why"),
            "give_back": lambda one: give_back(one, "why"),
            "renew": lambda one: renew(one, 3000),
            "check": begin_check,
            "settle": lambda one: settle(one.version, verdict, "eva", "seen", 2000),  # noqa: B023 - run at once
            "lapse": lambda one: lapse(),
        }
        if word == "take":
            counts = CountScope("n", "t", user, limits)
            answer = await store.change(ask.key, take(ask, limits, 5000), counts)
            if isinstance(answer, Exceeded):
                starts = await store.starts(counts, answer.since, everyone=answer.everyone)
                answer = answer if answer.until else answer.with_until(starts)
            assert isinstance(answer, Taken | Found | Exceeded)
        elif mine is not None:
            answer = await store.change(mine.key, rules[word](mine))
        else:
            continue
        seen.append((word, answer, await store.due("n", ["t"], 9), await store.pending("n", 9)))
    return [*seen, [await store.read(f"k{number}") for number in range(4)]]


async def compared(kind: str, database: str, script: list[Any], limits: Limits, folder: str) -> None:
    outcomes = []
    url = database or f"sqlite:///{folder}/{uuid4().hex}.db"
    for make in (
        MemoryStore,
        lambda clock: SqlStore(url, prefix=f"t{uuid4().hex[:10]}_", clock=clock),
    ):
        clock = [1_800_000_000]
        store = make(lambda: float(clock[0]))  # noqa: B023 - used before the next one
        outcomes.append(await play(store, clock, script, limits))
        await store.close()
    assert outcomes[0] == outcomes[1]


def examples(request: pytest.FixtureRequest, kind: str, most: int) -> None:
    database = str(request.getfixturevalue("guard_database")) if kind == "postgresql" else ""
    with TemporaryDirectory() as folder, asyncio.Runner() as runner:

        @settings(max_examples=most, deadline=None, derandomize=True)
        @given(script=steps, limits=st.sampled_from(SCOPES))
        def agree(script: list[Any], limits: Limits) -> None:
            runner.run(compared(kind, database, script, limits, folder))

        agree()
    assert not Path(folder).exists()


def test_stores_agree(request, kind):
    """Any sequence of changes: the same answers, the same doubts, the same claims."""
    examples(request, kind, 8)


@pytest.mark.slow
def test_stores_agree_on_many_sequences(request, kind):
    """The same, hundreds of times."""
    examples(request, kind, 400)
