"""A doubt ends: by verify, by a person, or by the result that comes late after all."""

import asyncio
import contextlib
import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from agents.tool_context import ToolContext

from guardrails import CannotSay, DidNotHappen, Happened, StaleVersion, UnknownClaim
from guardrails.library.claims import take
from guardrails.limits import Limits
from tests.support.guarded_agents import run_agent
from tests.support.waiting import Stopwatch, wait_until

ORDER = {"order_id": "A"}
QUICK: dict[str, Any] = {"settle": 0, "lease": "0.4s"}


def call(guard, tool, act="r1", arguments=ORDER):
    """Call a tool as the SDK does, without a run: a task that a test can cancel."""
    raw = json.dumps(arguments)
    context = ToolContext(
        guard.request(id=act, user="u1"), tool_name=tool.name, tool_call_id="c", tool_arguments=raw
    )
    return asyncio.ensure_future(tool.on_invoke_tool(context, raw))


async def test_an_effect_before_a_raise_is_found_by_verify(guard, provider):
    """The effect exists and the call raised: the model gets verify's result, without a second effect."""

    @guard.tool(verify=provider.ask, **QUICK)
    async def refund(ctx, order_id: str) -> str:
        provider.take(order_id)
        raise TimeoutError

    answers = await run_agent(guard, refund, "r1", *[[ORDER]] * 6)
    assert answers == ["refunded A"] * 6
    assert provider.effects == ["A"]
    assert await guard.pending() == []


async def test_what_did_not_happen_is_free_again(guard, provider):
    """verify says that there is no effect: the call is answered with that, and the next one may run."""
    fails = [True, False]

    @guard.tool(verify=provider.ask, quota="1/day", **QUICK)
    async def refund(ctx, order_id: str) -> str:
        if fails.pop(0):
            raise ConnectionResetError
        return provider.take(order_id)

    answers = await run_agent(guard, refund, "r1", [ORDER], [ORDER])
    assert answers[0].startswith("This call did not take effect; that was checked.")
    assert answers[1] == "refunded A"


async def test_did_not_happen_is_not_believed_at_once(guard, provider):
    """What was sent may arrive late: within the settle time an absence proves nothing."""

    @guard.tool(verify=provider.ask, settle="30s", wait="0.3s")
    async def refund(ctx, order_id: str) -> str:
        raise TimeoutError

    (answer,) = await run_agent(guard, refund, "r1", [ORDER])
    assert (
        "its outcome is unknown: it may have taken effect. It is not sent again; it is being checked"
        in answer
    )
    assert len(provider.asked) >= 1
    assert [one.state for one in await guard.pending()] == ["unknown"]


async def test_verify_that_cannot_say_is_asked_again_by_itself(guard, provider):
    """Without any further call the doubt ends soon after the provider can be asked again."""
    down, verdicts = [True], []

    def ask(key, arguments):
        verdicts.append(arguments.order_id)
        if down[0]:
            raise ConnectionError
        return Happened("refunded late")

    @guard.tool(verify=ask, wait="0.1s", settle=0)
    async def refund(ctx, order_id: str) -> str:
        raise TimeoutError

    await run_agent(guard, refund, "r1", [ORDER])
    down[0] = False
    async with Stopwatch() as watch:
        await wait_until(lambda: _none_pending(guard), 30)
    assert watch.seconds <= 5
    assert set(verdicts) == {"A"}
    assert await run_agent(guard, refund, "r1", [ORDER]) == ["refunded late"]


async def _none_pending(guard) -> bool:
    return not await guard.pending()


@pytest.mark.parametrize("found", ["yes", None, DidNotHappen])
async def test_an_answer_that_is_no_verdict_frees_nothing(guard, found):
    """verify that returns anything but a verdict could not say."""

    @guard.tool(verify=lambda key, arguments: found, wait="0.1s", settle=0)
    async def refund(ctx, order_id: str) -> str:
        raise TimeoutError

    answers = await run_agent(guard, refund, "r1", [ORDER], [ORDER])
    assert all("its outcome is unknown" in answer for answer in answers)


async def test_a_cancelled_call_is_unknown_then_checked(guard, provider):
    """Cancelled after the effect: recorded as unknown before the task ends, then verify ends it."""
    begun = asyncio.Event()

    @guard.tool(verify=provider.ask, **QUICK)
    async def refund(ctx, order_id: str) -> str:
        provider.take(order_id)
        begun.set()
        await asyncio.sleep(60)
        return "never"

    task = call(guard, refund)
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await run_agent(guard, refund, "r1", [ORDER]) == ["refunded A"]
    assert provider.effects == ["A"]


async def test_a_cancelled_plain_function_ends_with_its_result(guard, provider):
    """A thread cannot be stopped: its result is recorded when it ends, and the next call gets it."""
    begun, leave = threading.Event(), threading.Event()

    @guard.tool(**QUICK)
    def refund(order_id: str) -> str:
        begun.set()
        leave.wait(10)
        return provider.take(order_id)

    task = call(guard, refund)
    await asyncio.to_thread(begun.wait, 10)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.5)  # longer than the lease: the thread is alive, so nothing is in doubt
    assert await guard.pending() == []
    leave.set()
    assert await run_agent(guard, refund, "r1", [ORDER]) == ["refunded A"]
    assert provider.effects == ["A"]


async def test_a_call_longer_than_its_lease_runs_once(guard, make_guard, provider):
    """A slow call renews its lease; another process that waits gets its result, and nothing runs twice."""

    def armed(one):
        @one.tool(once="per_key", key=lambda a: a.order_id, **QUICK)
        async def refund(ctx, order_id: str) -> str:
            await asyncio.sleep(1)
            return provider.take(order_id)

        return refund

    other = await make_guard()
    tools = [(guard, armed(guard)), (other, armed(other))]
    await asyncio.gather(*(call(*one) for one in tools))
    # A machine without time to renew a lease of 0.4 s puts the call in doubt, which ends with its result.
    assert [await call(*one, "r2") for one in tools] == ["refunded A"] * 2
    assert provider.effects == ["A"]


async def test_a_silent_owner_is_waited_for_one_more_lease(make_guard, make_store, provider, clock):
    """Its lease ended and verify finds nothing: it is free only after one more lease of silence."""
    store = make_store(clock=clock)
    guard = await make_guard(store=store)

    @guard.tool(verify=provider.ask, lease="60s", settle=0, wait=0)
    async def refund(ctx, order_id: str) -> str:
        return provider.take(order_id)

    key = guard._layers.key_of(guard._tools["refund"][0], "r1", None)
    await store.change(key, take(_claim(key, guard), Limits(), 1))
    clock.at += 1
    (answer,) = await run_agent(guard, refund, "r1", [ORDER])
    assert "its outcome is unknown" in answer
    clock.at += 58
    await run_agent(guard, refund, "r1", [ORDER])
    assert provider.effects == []
    clock.at += 3
    await guard._doubts.check_due()
    assert await run_agent(guard, refund, "r1", [ORDER]) == ["refunded A"]


async def test_a_duplicate_waits_a_bounded_time(guard, provider):
    """Past its wait, a duplicate says that the first call still runs."""
    begun, leave = asyncio.Event(), asyncio.Event()

    @guard.tool(wait="0.1s")
    async def refund(ctx, order_id: str) -> str:
        begun.set()
        await leave.wait()
        return provider.take(order_id)

    first = call(guard, refund)
    await begun.wait()
    answer = await call(guard, refund)
    assert answer.startswith("An earlier call for this request is still running and its outcome is not known")
    leave.set()
    assert await first == "refunded A"


async def test_a_claim_whose_owner_died_is_checked_at_start(guard, make_store, make_guard, provider):
    """A claim in flight past its lease, as a killed process leaves it, ends by verify without any call."""
    store = make_store()

    @guard.tool(verify=provider.ask, **QUICK)
    async def refund(ctx, order_id: str) -> str:
        raise AssertionError("it was started by the process that died")

    key = guard._layers.key_of(guard._tools["refund"][0], "r1", None)
    provider.by_key[key] = "refunded A"
    await store.change(key, take(_claim(key, guard), Limits(), 1))
    await wait_until(lambda: _is_done(store, key), 8)
    assert "refunded A" in (await run_agent(guard, refund, "r1", [ORDER]))[0]


def _claim(key, guard):
    from guardrails.library.claims import Claim

    return Claim(
        key=key, namespace=guard._layers.namespace, tool="refund", act="r1", item="", user="u1",
        owner="dead", arguments='{"order_id": "A"}', digest="",
    )  # fmt: skip


async def _is_done(store, key) -> bool:
    found = await store.read(key)
    return found.state == "done"


async def test_a_person_ends_a_doubt(guard, provider):
    """resolve needs the version that was seen; Happened gives its result to every later call."""

    @guard.tool
    async def refund(ctx, order_id: str) -> str:
        raise TimeoutError

    await run_agent(guard, refund, "r1", [ORDER])
    (doubt,) = await guard.pending()
    with pytest.raises(StaleVersion):
        await guard.resolve(doubt.key, doubt.version + 1, Happened("paid"), by="eva", why="seen in the panel")
    done = await guard.resolve(doubt.key, doubt.version, Happened("paid"), by="eva", why="seen in the panel")
    assert (done.state, done.by, done.why) == ("done", "eva", "seen in the panel")
    assert await run_agent(guard, refund, "r1", [ORDER]) == ["paid"]
    with pytest.raises(StaleVersion):
        await guard.resolve(doubt.key, doubt.version, DidNotHappen(), by="eva")
    with pytest.raises(UnknownClaim):
        await guard.resolve("0" * 40, 1, DidNotHappen(), by="eva")


async def test_a_call_in_flight_cannot_be_resolved(guard, provider):
    """A person cannot end what still runs."""
    begun, leave = asyncio.Event(), asyncio.Event()

    @guard.tool
    async def refund(ctx, order_id: str) -> str:
        begun.set()
        await leave.wait()
        return provider.take(order_id)

    running = call(guard, refund)
    await begun.wait()
    assert await guard.pending() == []
    key = guard._layers.key_of(guard._tools["refund"][0], "r1", None)
    with pytest.raises(StaleVersion):
        await guard.resolve(key, 1, DidNotHappen(), by="eva")
    leave.set()
    assert await running == "refunded A"


async def test_a_result_that_comes_late_is_recorded(guard, make_store, provider):
    """The owner was held up beyond its lease and its call is unknown: its result ends the doubt."""
    begun, held = asyncio.Event(), asyncio.Event()

    @guard.tool(lease="1s")
    async def refund(ctx, order_id: str) -> str:
        begun.set()
        await held.wait()
        return provider.take(order_id)

    running = call(guard, refund)
    await begun.wait()
    key = guard._layers.key_of(guard._tools["refund"][0], "r1", None)
    store = make_store()
    found = await store.read(key)
    await store.change(key, lambda claim, now, usage: (replace(claim, state="unknown", version=9), None))
    held.set()
    assert await running == "refunded A"
    assert (await store.read(key)).state == "done"
    assert found.state == "in_flight"


async def test_a_wrong_word_is_reported(make_guard, make_store, provider):
    """What was freed while it ran, and took effect after all, is recorded and reported as a contradiction."""
    events = []
    guard = await make_guard(on_event=events.append)
    begun, held = asyncio.Event(), asyncio.Event()

    @guard.tool
    async def refund(ctx, order_id: str) -> str:
        begun.set()
        await held.wait()
        return provider.take(order_id)

    running = call(guard, refund)
    await begun.wait()
    key = guard._layers.key_of(guard._tools["refund"][0], "r1", None)
    store = make_store()
    await store.change(key, lambda claim, now, usage: (replace(claim, state="free", version=9), None))
    held.set()
    assert await running == "refunded A"
    assert (await store.read(key)).state == "done"
    assert [(one.word, one.why) for one in events][-1] == ("contradiction", "freed while it ran")


async def test_cannot_say_is_for_a_person(guard):
    """CannotSay ends nothing."""

    @guard.tool(verify=lambda key, arguments: CannotSay("no access"), wait="0.1s", settle=0)
    async def refund(ctx, order_id: str) -> str:
        raise TimeoutError

    await run_agent(guard, refund, "r1", [ORDER])
    assert [one.tool for one in await guard.pending()] == ["refund"]
