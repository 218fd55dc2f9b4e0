"""The guard in a real agent run: validation, content check, admission, and the text of refusals."""

import asyncio
import json
import time
from dataclasses import replace

import pytest
from agents import Agent, Runner

from evals.environment import PRICE
from guardrails.admission import Decision
from guardrails.arguments import argument_names
from guardrails.content.verdict import ALLOWED, ContentVerdict
from guardrails.limits import LimitExceeded, Limits
from guardrails.refusals import explain
from ledger import history, orders
from ledger.models import RequestState, VideoState
from tests.support.factories import order_for, ordered
from tests.support.models import GOOD, Player, order, raw
from tests.support.pipeline_harness import PIPELINE_TIMEOUTS, tool_outputs
from tools.agent_factory import DIRECTOR

BAD = {
    "broken JSON": '{"prompt": "a market", "seconds": 8',
    "a list": "[1]",
    "a number": "7",
    "null": "null",
    "nothing": "",
    "no fields": "{}",
    "no prompt": json.dumps({"seconds": 8, "size": "720x1280"}),
    "an empty prompt": json.dumps(GOOD | {"prompt": ""}),
    "a blank prompt": json.dumps(GOOD | {"prompt": " \n\t "}),
    "a NUL": json.dumps(GOOD | {"prompt": "a\0b"}),
    "NaN": json.dumps(GOOD | {"seconds": float("nan")}),
    "Infinity": json.dumps(GOOD | {"seconds": float("inf")}),
    "the same key twice": '{"prompt": "a", "prompt": "b", "seconds": 8, "size": "720x1280"}',
    "seconds in words": json.dumps(GOOD | {"seconds": "eight"}),
    "seconds as text with a point": json.dumps(GOOD | {"seconds": "8.0"}),
    "seconds true": json.dumps(GOOD | {"seconds": True}),
    "seconds 8.5": json.dumps(GOOD | {"seconds": 8.5}),
    "seconds 1e400": json.dumps(GOOD).replace("8,", "1e400,"),
    "seconds -5": json.dumps(GOOD | {"seconds": -5}),
    "seconds 0": json.dumps(GOOD | {"seconds": 0}),
    "seconds 1e9": json.dumps(GOOD | {"seconds": 10**9}),
    "5000 digits": json.dumps(GOOD).replace("8,", "8" * 5000 + ","),
    "seconds 5": json.dumps(GOOD | {"seconds": 5}),
    "size 8K": json.dumps(GOOD | {"size": "7680x4320"}),
    "200 kB": json.dumps(GOOD | {"prompt": "x" * 200_000}),
    "4001 characters": json.dumps(GOOD | {"prompt": "x" * 4001}),
}


@pytest.mark.slow
async def test_malformed_arguments_reserve_nothing(pipeline_env):
    """A malformed call is refused before anything is reserved; a good call after it orders one video."""
    env = await pipeline_env(changes={"quota": None, "budget": None, "breaker": None})
    for name, arguments in BAD.items():
        before = await env.reservation_keys()
        held = []

        async def then_good(held=held):
            held.append(await env.reservation_keys())
            return [order()]

        env.model.turns = [[raw(arguments)], then_good]
        request = await env.open_request()
        await env.run_agent(request)
        assert held == [before], name
        assert await env.refused(request) == [("malformed", "arguments")], name
        assert "Nothing was made and nothing was paid" in env.model.heard[-2], name
        assert (await env.request(request)).attempts == 1, name
        await env.submit(request)
    assert len(env.fake_provider.charges()) == len(BAD)


async def test_a_malformed_call_does_not_affect_a_good_one(pipeline_env):
    """Malformed and valid calls in one turn: the valid one is ordered once."""
    env = await pipeline_env([raw("[1]"), order(), raw("{}"), order(seconds=-5)])
    request = await env.open_request()
    await env.run_agent(request)
    assert (await env.video(request)).seconds == 8
    assert sorted(await env.refused(request)) == [("malformed", "arguments")] * 3


async def test_extra_arguments_change_nothing(pipeline_env):
    """`user_id`, `admin` and `n` are no arguments: the request's user pays, and one video is made."""
    env = await pipeline_env([order(user_id=1, admin=True, n=13, request_id="other")])
    request = await env.open_request(user_id=7)
    await env.run_agent(request)
    assert (await env.video(request)).user_id == 7
    assert await env.finish_video(request) is VideoState.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


def surrogate() -> str:
    return json.dumps(GOOD, ensure_ascii=False).replace("market", "mar\ud800ket")


@pytest.mark.representative
@pytest.mark.parametrize(
    "turn",
    [
        pytest.param(lambda: [raw(json.dumps(GOOD | {"prompt": "a \ud800 b"}))], id="an escaped surrogate"),
        pytest.param(lambda: [raw(surrogate())], id="a raw surrogate"),
        pytest.param(lambda: [raw("[" * 9000)], id="a deep nest"),
        pytest.param(lambda: [order("c1"), order("c1", prompt="another")], id="one id, two calls"),
    ],
)
async def test_a_run_that_breaks_before_the_order_is_repeated(pipeline_env, turn):
    """What breaks the SDK's own loop costs an attempt, not the request: the next attempt orders once."""
    env = await pipeline_env(turn(), [order()])
    request = await env.open_request()
    await env.finish(request)
    assert (await env.request(request)).state is RequestState.ORDERED
    assert len(env.fake_provider.charges()) == 1


async def test_a_run_that_breaks_each_time_is_reported(pipeline_env):
    """Three broken attempts: no order, nothing paid, nothing reserved, and the user is notified."""
    bad = [order("c1"), order("c1", prompt="another")]
    env = await pipeline_env(bad, bad, bad, [order()])
    request = await env.open_request()
    await env.finish(request)
    found = await env.request(request)
    assert (found.state, found.reason, found.attempts) == (RequestState.NO_ORDER, "model", 3)
    assert env.fake_provider.posts() == []
    assert await env.reservation_keys() == []


async def test_a_broken_run_after_its_order_is_still_one_video(pipeline_env):
    """A call id used again with other arguments breaks the run after the order: one video is delivered."""
    env = await pipeline_env([order("c1")], [order("c1", prompt="another take")])
    request = await env.open_request()
    assert await env.finish_video(request) is VideoState.SUCCEEDED
    assert (await env.request(request)).attempts == 1
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("end", [RuntimeError("503"), [raw("{}", name="render_movie")]], ids=["503", "tool"])
async def test_what_fails_after_the_order_costs_nothing(pipeline_env, end):
    """After the order the model fails or calls an unknown tool: the video is delivered all the same."""
    env = await pipeline_env([order()], end)
    request = await env.open_request()
    assert await env.finish_video(request) is VideoState.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_an_unknown_tool_first_is_an_answer(pipeline_env):
    """A hallucinated tool gets an error text, and the next call is ordered in the same attempt."""
    env = await pipeline_env([raw("{}", name="render_movie")], [order()])
    request = await env.open_request()
    await env.run_agent(request)
    assert (await env.request(request)).attempts == 1
    assert len(env.model.heard) == 3


async def test_a_refused_idea_reserves_nothing(pipeline_env):
    """The content policy refuses a famous character: nothing reserved or paid, the category is recorded."""
    env = await pipeline_env([order(prompt="Mickey Mouse dances on a roof")])
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.reason) == (RequestState.REFUSED, "content:copyrighted_character")
    assert await env.refused(request) == [("content", "content")]
    assert await env.reservation_keys() == []
    assert "content policy" in tool_outputs(env)[0]


class ClosedJudge:
    async def judge(self, text: str) -> ContentVerdict:
        return ContentVerdict("closed", rule="moderation:timeout")


async def test_closed_moderation_reserves_nothing(pipeline_env):
    """Unreachable moderation refuses: nothing reserved, one attempt, and the reason says so."""
    env = await pipeline_env([order()], judge=ClosedJudge())
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.reason, found.attempts) == (RequestState.REFUSED, "content:closed", 1)
    assert await env.reservation_keys() == []


async def test_a_refusal_is_final_though_the_run_broke(pipeline_env):
    """Refused, then the model fails: the refusal is final, so there is no second run."""
    env = await pipeline_env([order(prompt="Mickey Mouse dances")], RuntimeError("503"))
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.attempts) == (RequestState.REFUSED, 1)


async def test_a_guard_never_raises(pipeline_env, monkeypatch):
    """An error inside a guard is a refusal: an exception would cancel the good call of the same turn."""
    env = await pipeline_env([order(prompt="breaks"), order()])
    real = env.agent_factory.content.judge

    async def judge(text: str) -> ContentVerdict:
        if text == "breaks":
            raise RuntimeError("the judge broke")
        await asyncio.sleep(0.05)
        return await real(text)

    monkeypatch.setattr(env.agent_factory.content, "judge", judge)
    request = await env.open_request()
    assert await env.finish_video(request) is VideoState.SUCCEEDED
    assert ("closed", "redis") in await env.refused(request)
    assert await env.paid_micros() == PRICE.micros


@pytest.mark.parametrize(
    ("raw_arguments", "names"),
    [
        ('{"prompt": "secret", "seconds": 8}', ["prompt", "seconds"]),
        ('{"a secret idea": 1, "n": 2}', ["?", "n"]),
        ('{"\\ud800": 1}', ["?"]),
        ("[" * 9000, []),
        ("secret", []),
        ('["secret"]', []),
    ],
)
def test_logs_get_names_and_never_values(raw_arguments, names):
    """Only identifiers are logged; a value written in a name's place becomes a question mark."""
    assert argument_names(raw_arguments) == names


@pytest.mark.slow
async def test_thirteen_parallel_calls_reach_one_body(pipeline_env):
    """Thirteen calls in one turn and thirteen in the next: one order; 25 are answered with it, none with
    "try again".
    """
    thirteen = [order(prompt=f"take {n} of a market") for n in range(13)]
    again = [order() for _ in range(13)]
    env = await pipeline_env(thirteen, again)
    request = await env.open_request()
    await env.run_agent(request)
    assert await env.refused(request) == [("replay", "redis")] * 25
    assert "try again" not in env.model.words.lower()
    assert sum("There is nothing to" in answer for answer in tool_outputs(env)) == 26
    await env.finish_video(request)
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_fifty_calls_in_sequence_are_one(pipeline_env):
    """Fifty turns with one call each, every time with another prompt: one order."""
    env = await pipeline_env(*([order(prompt=f"better take {n}")] for n in range(50)))
    request = await env.open_request()
    run = await env.run_context(request)
    agent = env.agent_factory.agent(DIRECTOR, "en")
    await Runner.run(agent, "go", context=run, max_turns=60, run_config=run.run_config)
    await env.finish_video(request)
    assert len(env.model.heard) == 51
    assert len(await env.refused(request)) == 49
    assert len(env.fake_provider.charges()) == 1


class Nested(Player):
    """Calls everything that an agent has, for three turns: the tool, the agent behind a tool, the handoff."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.asked = times, 0

    async def get_response(self, tools, handoffs, **more):
        answered = str(more["input"]).count("function_call_output")
        held = {"generate_video": json.dumps(GOOD), "helper": '{"input": "go"}'}
        if tools and answered < 3 * self.times:
            asked = [raw(held[tool.name], name=tool.name) for tool in tools if tool.name in held]
            asked = [raw(one.arguments, name=one.name) for one in asked * self.times]
            self.asked += sum(one.name == "generate_video" for one in asked)
            asked += [raw("{}", name=one.tool_name) for one in handoffs]
            self.turns.insert(0, asked)
        return await super().get_response(tools=tools, **more)


@pytest.mark.representative
@pytest.mark.parametrize(("times", "asked"), [(1, 8), (3, 60)], ids=["8 asked", "60 asked, in parallel"])
async def test_an_agent_as_a_tool_orders_for_the_same_request(pipeline_env, times, asked):
    """An agent calls an agent that calls the tool, many times and in parallel: one request, one video."""
    env = await pipeline_env(model=Nested(times))
    request = await env.open_request()
    run = await env.run_context(request)
    inner = env.agent_factory.agent(DIRECTOR, "en")
    helper = inner.as_tool("helper", "Ask the helper.", run_config=run.run_config)
    outer = Agent(name="outer", model="m", tools=[helper, *inner.tools])
    await Runner.run(outer, "go", context=run, max_turns=9, run_config=run.run_config)
    await env.finish_video(request)
    assert env.model.asked == asked
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_a_handoff_orders_for_the_same_request(pipeline_env):
    """Two agents that both have the tool, one handing off to the other in the same turn: one video."""
    env = await pipeline_env(model=Nested(1))
    request = await env.open_request()
    run = await env.run_context(request)
    second = env.agent_factory.agent(DIRECTOR, "en")
    first = env.agent_factory.agent(DIRECTOR, "en").clone(name="first", handoffs=[second])
    await Runner.run(first, "go", context=run, max_turns=9, run_config=run.run_config)
    await env.finish_video(request)
    assert env.model.asked >= 2
    assert len(env.fake_provider.charges()) == 1


class Company:
    """A remote judge that counts its questions."""

    remote = True

    def __init__(self, verdict: ContentVerdict = ALLOWED) -> None:
        self.asked, self.verdict = 0, verdict

    async def judge(self, text: str) -> ContentVerdict:
        self.asked += 1
        return self.verdict


async def test_a_duplicate_is_not_moderated(pipeline_env):
    """Seven calls in sequence: one question to moderation, one order, six replays."""
    company = Company()
    env = await pipeline_env(*([order(prompt=f"Market {n}.")] for n in range(7)), judge=company)
    request = await env.open_request()
    await env.run_agent(request)
    assert company.asked == 1
    assert await env.refused(request) == [("replay", "redis")] * 6


async def test_what_is_not_decided_is_moderated(pipeline_env):
    """A check that could not be completed reserved nothing, so the next call is judged too."""
    company = Company(ContentVerdict("closed", rule="moderation:timeout"))
    env = await pipeline_env([order()], [order(prompt="Another.")], judge=company)
    request = await env.open_request()
    await env.run_agent(request)
    assert company.asked == 2
    assert (await env.request_and_video(request))[1] is None


async def test_a_content_refusal_is_final_for_its_request(pipeline_env):
    """A repaired prompt gets the recorded refusal, and moderation is not asked about it."""
    company = Company(ContentVerdict("refused", "violence", "test"))
    env = await pipeline_env([order()], [order(prompt=one) for one in "abc"], judge=company)
    request = await env.open_request()
    await env.run_agent(request)
    assert company.asked == 1
    assert await env.refused(request) == [("content", "content")] * 4
    assert {"graphic violence" in one for one in tool_outputs(env)} == {True}
    found, video = await env.request_and_video(request)
    assert (found.state, found.reason, video) == (RequestState.REFUSED, "content:violence", None)


@pytest.mark.representative
@pytest.mark.parametrize("lost", ["Redis", "nothing"])
async def test_a_content_refusal_outlives_its_attempt(pipeline_env, lost):
    """A worker dies after the refusal: the next attempt's repaired call is refused as well, by Redis or, if
    that was emptied, by the ledger.
    """
    turns = [order(prompt="Mickey Mouse dances")], asyncio.CancelledError(), [order()]
    env = await pipeline_env(*turns, timeouts=replace(PIPELINE_TIMEOUTS, run_s=5))
    request = await env.open_request()
    with pytest.raises(asyncio.CancelledError):
        await env.run_agent(request)
    assert (await env.request(request)).state is RequestState.OPEN
    if lost == "Redis":
        await env.redis.flushall()
    ((found, video),) = await env.finish(request)
    assert (found.state, found.attempts, video) == (RequestState.REFUSED, 2, None)
    assert found.reason == ("content:other" if lost == "Redis" else "content:copyrighted_character")
    assert await env.refused(request) == [("content", "content")] * 2


async def test_a_refusal_after_the_order_is_a_replay(pipeline_env):
    """The first call was admitted and stands: a later one with refused content gets its result."""
    env = await pipeline_env([order()], [order(prompt="Mickey Mouse dances")], [order()])
    request = await env.open_request()
    await env.run_agent(request)
    assert await env.refused(request) == [("replay", "redis")] * 2
    assert (await env.request_and_video(request))[1] is not None


async def test_times_are_the_stores(pipeline_env, monkeypatch):
    """This machine's clock is an hour ahead of the stores: a cooldown of ten minutes is still ten minutes."""
    env = await pipeline_env([order()], "done", [order()], changes={"cooldown": "10m"})
    await env.run_agent(await env.open_request())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    await env.run_agent(await env.open_request())
    assert "in 10 min" in env.model.words


async def test_the_ledgers_own_count_says_when_it_was_made(ledger, opened):
    """A refusal by SQL carries SQL's time, so that its text needs no other clock."""
    await ordered(ledger, opened)
    denied = await orders.place(ledger, order_for(await opened()), Limits(cooldown_s=600))
    assert isinstance(denied, LimitExceeded)
    assert denied.until is not None
    assert 590_000 < denied.until - denied.at <= 601_000
    words = explain(Decision(denied.verdict, "ledger", denied.until, at=denied.at))
    assert "in 10 min" in words


async def test_a_refusal_without_time_is_written_after_the_run(pipeline_env, monkeypatch):
    """A guard that cannot record a refused call in time answers all the same; the run's end records it."""
    env = await pipeline_env(*([order(prompt=f"Market {n}.")] for n in range(3)))
    real, failed = history.record_refused_call, []

    async def late(*args: object) -> None:
        if len(failed) < 2:
            failed.append(args)
            raise TimeoutError
        await real(*args)

    monkeypatch.setattr(history, "record_refused_call", late)
    request = await env.open_request()
    await env.run_agent(request)
    assert len(failed) == 2
    assert await env.refused(request) == [("replay", "redis")] * 2
