"""The guard: validate, judge the content, admit; and what is refused hears the truth."""

import asyncio
import json

import pytest
from backstage import messages
from player import GOOD, order, raw

from evals.environment import PRICE
from guardrails.arguments import argument_names
from guardrails.content.verdict import ContentVerdict
from ledger.models import RequestState, VideoState

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
    "seconds as text": json.dumps(GOOD | {"seconds": "8"}),
    "seconds true": json.dumps(GOOD | {"seconds": True}),
    "seconds 8.0": json.dumps(GOOD | {"seconds": 8.0}),
    "seconds -5": json.dumps(GOOD | {"seconds": -5}),
    "seconds 0": json.dumps(GOOD | {"seconds": 0}),
    "seconds 1e9": json.dumps(GOOD | {"seconds": 10**9}),
    "5000 digits": json.dumps(GOOD).replace("8,", "8" * 5000 + ","),
    "seconds 5": json.dumps(GOOD | {"seconds": 5}),
    "size 8K": json.dumps(GOOD | {"size": "7680x4320"}),
    "200 kB": json.dumps(GOOD | {"prompt": "x" * 200_000}),
    "4001 characters": json.dumps(GOOD | {"prompt": "x" * 4001}),
}


async def test_malformed_arguments_reserve_nothing(pipeline_env):
    """A call that cannot be ordered is refused before anything is reserved; a good one after it makes one."""
    env = await pipeline_env(changes={"quota": None, "budget": None, "breaker": None})
    for name, arguments in BAD.items():
        before = await env.reserved()
        held = []

        async def then_good(held=held):
            held.append(await env.reserved())
            return [order()]

        env.model.turns = [[raw(arguments)], then_good]
        request = await env.opened()
        await env.run_agent(request)
        assert held == [before], name
        assert await env.refused(request) == [("malformed", "arguments")], name
        assert "Nothing was made and nothing was paid" in env.model.heard[-2], name
        assert (await env.request(request)).attempts == 1, name
        await env.submit(request)
    assert len(env.fake_provider.charges()) == len(BAD)


async def test_a_malformed_call_beside_a_good_one_takes_nothing_from_it(pipeline_env):
    """Malformed and valid calls in one turn: the valid one is ordered, once."""
    env = await pipeline_env([raw("[1]"), order(), raw("{}"), order(seconds=-5)])
    request = await env.opened()
    await env.run_agent(request)
    assert (await env.video(request)).seconds == 8
    assert sorted(await env.refused(request)) == [("malformed", "arguments")] * 3


async def test_extra_arguments_change_nothing(pipeline_env):
    """`user_id`, `admin` and `n` are not arguments: the payer is the request's user, and one video
    is made.
    """
    env = await pipeline_env([order(user_id=1, admin=True, n=13, request_id="other")])
    request = await env.opened(user_id=7)
    await env.run_agent(request)
    assert (await env.video(request)).user_id == 7
    assert await env.deliver(request) is VideoState.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


def surrogate() -> str:
    return json.dumps(GOOD, ensure_ascii=False).replace("market", "mar\ud800ket")


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
    """What breaks the SDK's own loop costs an attempt, and never the request: the next attempt
    orders once.
    """
    env = await pipeline_env(turn(), [order()])
    request = await env.opened()
    await env.finish(request)
    assert (await env.request(request)).state is RequestState.ORDERED
    assert len(env.fake_provider.charges()) == 1


async def test_a_run_that_breaks_each_time_ends_in_words(pipeline_env):
    """Three broken attempts: no order, nothing paid, nothing reserved, and the user is told."""
    bad = [order("c1"), order("c1", prompt="another")]
    env = await pipeline_env(bad, bad, bad, [order()])
    request = await env.opened()
    await env.finish(request)
    found = await env.request(request)
    assert (found.state, found.reason, found.attempts) == (RequestState.NO_ORDER, "model", 3)
    assert env.fake_provider.posts() == []
    assert await env.reserved() == []


async def test_a_broken_run_after_its_order_is_still_one_video(pipeline_env):
    """A call id that is used again with other arguments ends the run after the order: one is delivered."""
    env = await pipeline_env([order("c1")], [order("c1", prompt="another take")])
    request = await env.opened()
    assert await env.deliver(request) is VideoState.SUCCEEDED
    assert (await env.request(request)).attempts == 1
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("end", [RuntimeError("503"), [raw("{}", name="render_movie")]], ids=["503", "tool"])
async def test_what_fails_after_the_order_costs_nothing(pipeline_env, end):
    """A model that answers 503, or calls a tool that does not exist, after the order: delivered all the
    same.
    """
    env = await pipeline_env([order()], end)
    request = await env.opened()
    assert await env.deliver(request) is VideoState.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_an_unknown_tool_first_is_an_answer(pipeline_env):
    """A hallucinated tool is answered with words, and the call after it is ordered in the same attempt."""
    env = await pipeline_env([raw("{}", name="render_movie")], [order()])
    request = await env.opened()
    await env.run_agent(request)
    assert (await env.request(request)).attempts == 1
    assert len(env.model.heard) == 3


async def test_a_refused_idea_reserves_nothing(pipeline_env):
    """A famous character is refused by the content policy: nothing reserved, nothing paid, the category
    kept.
    """
    env = await pipeline_env([order(prompt="Mickey Mouse dances on a roof")])
    request = await env.opened()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.reason) == (RequestState.REFUSED, "content:copyrighted_character")
    assert await env.refused(request) == [("closed", "content")]
    assert await env.reserved() == []
    assert "content policy" in messages(env)[0]


class ClosedJudge:
    async def judge(self, text: str) -> ContentVerdict:
        return ContentVerdict("closed", rule="moderation:timeout")


async def test_closed_moderation_reserves_nothing(pipeline_env):
    """Moderation that cannot be reached refuses: nothing reserved, one attempt, and the reason says so."""
    env = await pipeline_env([order()], judge=ClosedJudge())
    request = await env.opened()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.reason, found.attempts) == (RequestState.REFUSED, "content:closed", 1)
    assert await env.reserved() == []


async def test_a_firm_refusal_stands_though_the_run_broke(pipeline_env):
    """Refused, then the endpoint fails: the decision is final, so no second run asks the same again."""
    env = await pipeline_env([order(prompt="Mickey Mouse dances")], RuntimeError("503"))
    request = await env.opened()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.attempts) == (RequestState.REFUSED, 1)


async def test_a_guard_never_raises(pipeline_env, monkeypatch):
    """Whatever breaks inside a guard is a refusal: a raise would cancel the good call beside it."""
    env = await pipeline_env([order(prompt="breaks"), order()])
    real = env.agent_factory.content.judge

    async def judge(text: str) -> ContentVerdict:
        if text == "breaks":
            raise RuntimeError("the judge broke")
        await asyncio.sleep(0.05)
        return await real(text)

    monkeypatch.setattr(env.agent_factory.content, "judge", judge)
    request = await env.opened()
    assert await env.deliver(request) is VideoState.SUCCEEDED
    assert ("closed", "redis") in await env.refused(request)
    assert await env.paid() == PRICE.micros


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
    """Only what has the form of a name is logged; a value written in a name's place is a question mark."""
    assert argument_names(raw_arguments) == names
