"""What one /create costs the ledger: a pinned number of transactions and statements."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from sqlalchemy.sql.compiler import SQLCompiler

from chat.context import EditLimits
from evals.environment import QUICK_TIMEOUTS
from ledger import due_work
from tests.support.app_harness import sent_texts
from tests.support.statement_counts import count_statements
from tests.support.waiting import wait_until

pytestmark = pytest.mark.any_ledger

MOST_TRANSACTIONS = 20
"""The person's settings and a model's usual time are read in transactions of their own, once a minute."""
MOST_TOGETHER = 21
MOST_STATEMENTS = 45
"""Of them one only where the order was placed before its status message was sent, which makes it due. The
language of a person and a model's usual time are each read once a minute, a person's usual choices for each
order, and what the models of its run used is written once.
"""
SILENT = replace(QUICK_TIMEOUTS, refresh_s=600, alerts_s=600, lease_s=15, fetch_s=30)
"""Nothing but what is due is asked while nothing happens: what is counted belongs to the command."""

_SETTLE_S = 0.5
"""The outcome is written after the last message."""


CLAIMS = ("claim_videos", "claim_runs", "claim_notifications")


@pytest.fixture
def found_nothing(monkeypatch):
    """What each claim that found nothing asked for: how many there are depends on how busy the machine is."""
    asked = []

    def watch(name, claim):
        async def claimed(*args, **kwargs):
            if not (found := await claim(*args, **kwargs)):
                asked.append(name)
            return found

        return claimed

    for name in CLAIMS:
        monkeypatch.setattr(due_work, name, watch(name, getattr(due_work, name)))
    return asked


@pytest.fixture
async def env(ledger, app_env, ledger_url):  # `ledger` comes first: it is emptied when the app has ended
    """One process with bot and worker; its message is not edited for progress alone, as with real jobs."""
    env = await app_env(
        settings={"database_url": ledger_url},
        timeouts=SILENT,
        edit_limits=EditLimits(private_s=20, quiet_s=0.05, ping_after_s=0),
    )
    env.fake_provider.polls = 0  # done at the first question
    await created(env, 1001)  # of everyone's first order, and what runs once
    return env


async def created(env, user_id):
    """Send one /create and wait for all that follows; return what it cost."""
    with count_statements(env.app.ledger) as counts:
        await env.user(user_id).send("/create a quiet market at dawn")

        async def ready() -> bool:
            return any("ready" in text for text in sent_texts(env, user_id))

        await wait_until(ready, 60, "the last message")
        await asyncio.sleep(_SETTLE_S)
    questions = [one for one in counts.statements if "min(videos.due_at)" in one]
    return counts.transactions - len(questions), [one for one in counts.statements if one not in questions]


async def test_one_create(env, found_nothing):
    """A new user's command, to the outcome in its trace; asking what is due, in vain too, is not counted."""
    transactions, statements = await created(env, 1002)
    assert len(statements) - len(found_nothing) <= MOST_STATEMENTS, "\n\n".join(statements)
    assert transactions - len(found_nothing) <= MOST_TRANSACTIONS, "\n\n".join(statements)


async def test_no_statement_is_compiled_twice(env, monkeypatch):
    """Compiling costs more than sending: a statement is built once and kept, whatever its values."""
    compiled = Counter()
    compile_it = SQLCompiler.__init__

    def count(self, dialect, *args, **kwargs):
        compile_it(self, dialect, *args, **kwargs)
        compiled[id(dialect), str(self)] += 1

    monkeypatch.setattr(SQLCompiler, "__init__", count)
    await created(env, 1007)
    await created(env, 1008)
    again = [text for (_, text), times in compiled.items() if times > 1]
    assert not again, "\n\n".join(again)


@pytest.mark.slow
async def test_ten_at_once(env):
    """Claims are shared, so each of several commands costs less."""
    costs = await asyncio.gather(*(created(env, 2000 + number) for number in range(10)))
    assert max(transactions for transactions, _ in costs) / len(costs) <= MOST_TOGETHER


@pytest.mark.slow
async def test_waiting_costs_no_writes(env):
    """A job that is asked about ten times more is claimed as often, and its progress is written."""
    brief = writes(await created(env, 1003))
    env.fake_provider.polls = 10
    long = writes(await created(env, 1004))
    assert len(long) <= len(brief), "\n\n".join(long)


def writes(cost):
    """Return what was written, without claims and progress.

    An order that is placed before its status message stands is made due with that, by one statement more.
    """
    written = [one for one in cost[1] if one.startswith(("INSERT", "UPDATE", "DELETE"))]
    varying = ("UPDATE videos SET progress=", "UPDATE videos SET due_at=CASE WHEN (videos.retry_at")
    return [one for one in written if not one.startswith(varying)]
