"""One effect for one act, on every store: what each call of a guarded tool gets as its answer."""

import asyncio
from typing import Any

import pytest

from guardrails import Guard, NotSent, current_key
from tests.support.guarded_agents import Provider, run_agent

ORDER = {"order_id": "A", "amount": "3"}


@pytest.fixture
def refund(guard: Guard, provider: Provider) -> Any:
    @guard.tool(key=lambda a: a.order_id)
    async def refund(ctx, order_id: str, amount: str) -> str:
        """Refund an order."""
        if amount == "0":
            raise NotSent("the amount is 0")
        await asyncio.sleep(0.01)
        done = provider.take(order_id)
        if amount == "13":
            raise TimeoutError
        return done

    return refund


async def test_thirteen_calls_at_once_are_one_effect(guard, provider, refund):
    """Of thirteen equal calls in one turn one runs; all get its result."""
    assert await run_agent(guard, refund, "r1", [ORDER] * 13) == ["refunded A"] * 13
    assert provider.effects == ["A"]


async def test_two_items_in_one_act_are_two_effects(guard, provider, refund):
    """With key=, each item of an act has an effect of its own, and each gets its own result."""
    answers = await run_agent(guard, refund, "r1", [ORDER, ORDER | {"order_id": "B"}], [ORDER])
    assert answers == ["refunded A", "refunded B", "refunded A"]
    assert sorted(provider.effects) == ["A", "B"]


async def test_a_second_act_is_a_second_effect(guard, provider, refund):
    """Another act of the user may do the same again; a redelivery of the first may not."""
    for act in ("r1", "r2", "r1"):
        await run_agent(guard, refund, act, [ORDER])
    assert provider.effects == ["A", "A"]


async def test_a_duplicate_with_other_arguments_is_told_so(guard, provider, refund):
    """Other arguments for the same item change nothing, and the answer says whose result it is."""
    answers = await run_agent(guard, refund, "r1", [ORDER], [ORDER | {"amount": "4"}])
    assert answers[1].startswith("This call did nothing: an earlier call for this item was made already")
    assert answers[1].endswith("refunded A")
    assert provider.effects == ["A"]


async def test_per_key_holds_across_acts(guard, provider):
    """once="per_key": an item has one effect, whatever the act."""

    @guard.tool(once="per_key", key=lambda a: a.order_id)
    async def ship(ctx, order_id: str) -> str:
        return provider.take(order_id)

    for act in ("r1", "r2"):
        assert await run_agent(guard, ship, act, [{"order_id": "A"}]) == ["refunded A"]
    assert provider.effects == ["A"]


async def test_not_sent_gives_the_slot_back(guard, provider, refund):
    """A typed NotSent is answered with its reason, and a later call of the act may run."""
    answers = await run_agent(guard, refund, "r1", [ORDER | {"amount": "0"}], [ORDER])
    assert answers[0].startswith("Nothing was sent by this call: the amount is 0.")
    assert answers[1] == "refunded A"
    assert provider.effects == ["A"]


async def test_a_raise_is_unknown_and_stays_unknown(guard, provider, refund):
    """Without verify a raise is for a person: five repeats run nothing and say what is true."""
    answers = await run_agent(guard, refund, "r1", *[[ORDER | {"amount": "13"}]] * 6)
    assert provider.effects == ["A"]
    assert {answer.partition(": it may")[0] for answer in answers} == {
        "The call for this item was started, and its outcome is unknown"
    }
    (pending,) = await guard.pending()
    assert (pending.tool, pending.item, pending.state) == ("refund", "A", "unknown")


@pytest.mark.parametrize("given", ["per_request", "none"])
async def test_without_a_key_an_act_has_one_effect(guard, provider, given):
    """Without key= the act alone counts; a plain function without ctx runs in a thread."""
    options = {} if given == "none" else {"once": given}

    @guard.tool(**options)
    def email(to: str) -> str:
        return provider.take(to) + current_key()[:0]

    answers = await run_agent(guard, email, "r1", [{"to": "a"}], [{"to": "b"}])
    assert provider.effects == ["a"]
    assert answers[1].startswith("This call did nothing: an earlier call for this request was made already")


async def test_unusable_arguments_claim_nothing(guard, provider, refund):
    """What fails validation is refused in words before anything is claimed."""
    answers = await run_agent(guard, refund, "r1", [{"order_id": "A"}], [{"order_id": "", "amount": "1"}])
    assert answers[0].startswith("The arguments cannot be used: amount: Field required. Nothing was done")
    assert answers[1].startswith("The arguments cannot be used: they name no item. Nothing was done")
    assert await run_agent(guard, refund, "r1", [ORDER]) == ["refunded A"]


async def test_the_body_sees_its_own_context_and_a_key(guard):
    """ctx.context is the host's object, and current_key() is the same for a call that is made again."""
    seen = []

    @guard.tool
    async def pay(ctx, amount: str) -> str:
        seen.append((ctx.context, current_key()))
        raise NotSent

    for _ in range(2):
        await run_agent(guard, pay, "r1", [{"amount": "1"}], context={"mine": 1})
    assert seen[0] == seen[1]
    assert seen[0][0] == {"mine": 1}
    with pytest.raises(LookupError):
        current_key()
