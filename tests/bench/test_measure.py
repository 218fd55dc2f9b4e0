import asyncio

import pytest

from bench.measure import Side, compare, percentile, quartiles, ratio
from bench.polling import gaps


def side(calls, cpu):
    """A measured side of which each call is a turn."""

    async def nothing(_):
        return None

    return Side(nothing, list(calls), list(calls), list(cpu))


def test_a_ratio_compares_medians_and_names_its_spread():
    """One slow call on either side changes neither median."""
    found = compare(side([2, 4, 4, 4, 90], [2, 2, 2, 2, 2]), side([2, 2, 2, 2, 50], [1, 1, 1, 1, 4]))
    assert found.wall == 2
    assert found.cpu == 2
    assert found.least == 1
    assert (found.low, found.high) == (1.8, 2.0)
    assert found.spread == "1.80 to 2.00"
    assert found.ours_us == 4e6


async def test_both_sides_make_the_same_calls_in_alternating_turns():
    """Whatever slows the machine for a while slows both sides."""
    calls: list[tuple[str, int]] = []

    def work(name):
        async def call(number):
            calls.append((name, number))
            await asyncio.sleep(0)

        return call

    await ratio(work("ours"), work("theirs"), turns=4, calls=3)
    counted = [call for call in calls if call[1] >= 0]
    turns = [counted[start : start + 3] for start in range(0, len(counted), 3)]
    assert [turn[0][0] for turn in turns] == ["ours", "theirs", "theirs", "ours"] * 2
    for name in ("ours", "theirs"):
        assert [number for one, number in counted if one == name] == list(range(12))


async def test_a_batch_at_once_is_one_call():
    """With 50 at once, the time of the whole batch is compared."""
    running, most = 0, 0

    async def call(_):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1

    await ratio(call, call, turns=2, calls=2, at_once=50)
    assert most == 50


def test_percentiles_and_quartiles():
    values = list(range(1, 101))
    assert percentile(values, 0.95) == 95
    assert percentile(values, 0.5) == 50
    assert percentile([7.0], 0.99) == 7.0
    assert quartiles([3.0]) == (3.0, 3.0)
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [([30, 60, 90], [30, 30, 30, 10]), ([], [100]), ([40, 400], [40, 60])],
    ids=["on time", "never", "late, then not again"],
)
def test_a_job_that_is_never_asked_about_has_one_long_gap(asked, expected):
    """The start and the end of the measurement bound the first and the last gap."""
    assert list(gaps(asked, 0, 100)) == expected
