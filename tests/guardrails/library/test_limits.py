"""Limits of a guarded tool: they count what may have happened and refuse in true words."""

import asyncio
from typing import Any

import pytest

from guardrails import Guard, NotSent
from tests.support.guarded_agents import run_agent


@pytest.fixture
async def shop(make_guard: Any, make_store: Any, clock: Any) -> Guard:
    return await make_guard(store=make_store(clock=clock))


def sale(shop: Guard, **terms: Any) -> Any:
    """A tool that sends unless its price is 0, and counts its effects."""
    effects: list[str] = []

    @shop.tool(cost=lambda a: a.price, settle=0, **terms)
    async def sell(ctx, price: str) -> str:
        if price == "$0":
            raise NotSent("it costs nothing")
        effects.append(price)
        if price == "$13":
            raise TimeoutError
        return "sold"

    return sell, effects


async def one(shop: Guard, tool: Any, act: str, price: str = "$3", user: str = "u1") -> str:
    return (await run_agent(shop, tool, act, [{"price": price}], user=user))[0]


async def test_a_quota_of_seven_days_counts_seven_days(shop, clock):
    """Two in seven days: the third is refused with when it works again, for this user alone."""
    tool, effects = sale(shop, quota="2/7day")
    await one(shop, tool, "r1")
    clock.at += 86_400
    await one(shop, tool, "r2")
    answer = await one(shop, tool, "r3")
    assert answer.startswith(
        "Refused: all 2 calls of this tool in 7 days are used for this user. It will work"
    )
    assert "again in 6 d." in answer
    await one(shop, tool, "r4", user="u2")
    clock.at += 6 * 86_400 - 1
    assert (await one(shop, tool, "r5")).startswith("Refused")
    clock.at += 1
    assert await one(shop, tool, "r6") == "sold"
    assert len(effects) == 4


async def test_what_was_not_sent_counts_nothing(shop):
    """NotSent gives quota, cooldown and money back."""
    tool, effects = sale(shop, quota="1/day", cooldown="10m", budget="$3/day")
    for act in ("r1", "r2"):
        assert (await one(shop, tool, act, "$0")).startswith("Nothing was sent by this call")
    assert await one(shop, tool, "r3") == "sold"
    assert effects == ["$3"]


async def test_a_doubt_counts(shop):
    """What may have happened holds its slot and its money, until it is known that it did not."""
    tool, _ = sale(shop, quota="1/day")
    assert "outcome is unknown" in await one(shop, tool, "r1", "$13")
    assert (await one(shop, tool, "r2")).startswith("Refused")
    from guardrails import DidNotHappen

    (doubt,) = await shop.pending()
    await shop.resolve(doubt.key, doubt.version, DidNotHappen(), by="eva")
    assert await one(shop, tool, "r3") == "sold"


async def test_a_cooldown_ends_with_its_time(shop, clock):
    """Between two calls of a user there are ten minutes."""
    tool, _ = sale(shop, cooldown="10m")
    await one(shop, tool, "r1")
    answer = await one(shop, tool, "r2")
    assert answer.startswith(
        "Refused: the last call of this tool for this user was less than 10 minutes ago."
    )
    assert "It will work again in 10 min." in answer
    clock.at += 600
    assert await one(shop, tool, "r3") == "sold"


async def test_budgets_of_a_user_and_of_everyone(shop, clock):
    """A budget is exact to the cent; that of everyone counts all users."""
    tool, effects = sale(shop, budget={"user": "$6/day", "everyone": "$10/day"})
    assert await one(shop, tool, "r1", "$2.99") == "sold"
    clock.at += 60
    assert await one(shop, tool, "r2", "$3.01") == "sold"
    answer = await one(shop, tool, "r3", "$0.01")
    assert "the budget of $6.00 in 1 day for this user is too small for it: $6.00 is used. It will" in answer
    assert await one(shop, tool, "r4", "$4", user="u2") == "sold"
    answer = await one(shop, tool, "r5", "$1", user="u3")
    assert (
        "the budget of $10.00 in 1 day for all users together is too small for it: $10.00 is used" in answer
    )
    assert "It will work again in 23 h 59 min." in answer
    answer = await one(shop, tool, "r6", "$11", user="u3")
    assert "It will work again" not in answer  # no wait makes it fit
    assert effects == ["$2.99", "$3.01", "$4"]


async def test_a_call_at_once_with_others_never_exceeds(shop):
    """Twenty acts at once: as many run as the quota allows."""
    tool, effects = sale(shop, quota="5/day", budget="$15/day")
    answers = await asyncio.gather(*(one(shop, tool, f"r{n}") for n in range(20)))
    assert sorted(answer.partition(":")[0] for answer in answers) == ["Refused"] * 15 + ["sold"] * 5
    assert len(effects) == 5


async def test_a_redelivery_after_25_hours_is_a_duplicate(shop, clock):
    """A claim has no expiry: only `forget` deletes it, and nothing that a window still counts."""
    tool, effects = sale(shop)
    await one(shop, tool, "r1")
    clock.at += 25 * 3600
    assert await one(shop, tool, "r1") == "sold"
    assert len(effects) == 1
    clock.at += 40 * 86_400
    await one(shop, tool, "r2", "$13")
    assert await shop.forget(32) == 1
    assert await shop.forget(32) == 0
    assert len(await shop.pending()) == 1
    with pytest.raises(ValueError, match="31 days"):
        await shop.forget(31)
    await one(shop, tool, "r1")
    assert effects == ["$3", "$13", "$3"]


async def test_a_duplicate_counts_once(shop):
    """A repeat of an act uses nothing, also where the quota is used up."""
    tool, effects = sale(shop, quota="1/day")
    assert [await one(shop, tool, "r1") for _ in range(3)] == ["sold"] * 3
    assert len(effects) == 1
