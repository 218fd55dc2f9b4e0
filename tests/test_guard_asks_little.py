"""A guard asks nobody in vain, and says times as the store counts them."""

import time

from lives import order_for, ordered
from player import order

from guardrails import guard
from guardrails.admission import Decision
from guardrails.content.verdict import ALLOWED, ContentVerdict
from guardrails.refusals import explain
from ledger import orders
from ledger.limits import LimitExceeded, Limits


class Company:
    """A judge that costs a question each time."""

    remote = True

    def __init__(self, verdict: ContentVerdict = ALLOWED) -> None:
        self.asked, self.verdict = 0, verdict

    async def judge(self, text: str) -> ContentVerdict:
        self.asked += 1
        return self.verdict


async def test_a_duplicate_is_not_moderated(pipeline_env):
    """Seven calls, one after the other: one question to moderation, one order, six replays."""
    company = Company()
    env = await pipeline_env(*([order(prompt=f"Market {n}.")] for n in range(7)), judge=company)
    request = await env.opened()
    await env.run_agent(request)
    assert company.asked == 1
    assert await env.refused(request) == [("replay", "redis")] * 6


async def test_what_is_not_decided_is_moderated(pipeline_env):
    """A refused call took nothing, so the next one is judged as well: no look lets it pass unread."""
    company = Company(ContentVerdict("refused", "violence", "law"))
    env = await pipeline_env([order()], [order(prompt="Another.")], judge=company)
    request = await env.opened()
    await env.run_agent(request)
    assert company.asked == 2
    assert (await env.both(request))[1] is None


async def test_times_are_the_stores(pipeline_env, monkeypatch):
    """This machine runs an hour ahead of the stores: a cooldown of ten minutes is still ten minutes."""
    env = await pipeline_env([order()], "done", [order()], changes={"cooldown": "10m"})
    await env.run_agent(await env.opened())
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    await env.run_agent(await env.opened())
    assert "in 10 min" in env.model.words


async def test_the_ledgers_own_count_says_when_it_was_made(ledger, opened):
    """A refusal by SQL carries SQL's time, so that its words need no other clock."""
    await ordered(ledger, opened)
    denied = await orders.place(ledger, order_for(await opened()), Limits(cooldown_s=600))
    assert isinstance(denied, LimitExceeded)
    assert denied.until is not None
    assert 590_000 < denied.until - denied.at <= 600_000
    words = explain(Decision(denied.verdict, "ledger", denied.until, at=denied.at))
    assert "in 10 min" in words


async def test_a_refusal_without_time_is_written_after_the_run(pipeline_env, monkeypatch):
    """A guard that cannot write a refused call down in time answers all the same; the run's end writes it."""
    env = await pipeline_env(*([order(prompt=f"Market {n}.")] for n in range(3)))
    real, failed = guard.history.record_refused_call, []

    async def late(*args: object) -> None:
        if len(failed) < 2:
            failed.append(args)
            raise TimeoutError
        await real(*args)

    monkeypatch.setattr(guard.history, "record_refused_call", late)
    request = await env.opened()
    await env.run_agent(request)
    assert len(failed) == 2
    assert await env.refused(request) == [("replay", "redis")] * 2
