"""When an order was sent stands in its row: no later configuration changes what is concluded from it."""

from dataclasses import replace

from alembic import command
from backstage import Backstage
from lives import NO_RATES, Opener, begun, video_of
from sqlalchemy import Connection, text

from ledger import database, transitions
from ledger.database import Ledger
from ledger.models import VideoState
from providers.base import Unsure
from worker.sweeper import reconcile_all

V = VideoState


async def test_it_is_the_latest_send(ledger: Ledger, opened: Opener):
    """The first send counts as a start, the latest as the one that a doubt is about."""
    request = await begun(ledger, opened)
    first = await video_of(ledger, request)
    assert first.sent_at == first.submitted_at
    await transitions.transition(ledger, request, V.SUBMITTING, V.QUEUED, "law", "not sent", fence="f1")
    ledger.shift += 500
    await transitions.begin_submit(ledger, request, "f2", 30, NO_RATES)
    second = await video_of(ledger, request)
    assert second.submitted_at == first.submitted_at
    assert second.sent_at is not None
    assert second.sent_at - second.submitted_at >= 500_000
    assert second.deadline_at == second.sent_at + 30_000


async def test_changed_times_change_no_past(pipeline_env, monkeypatch):
    """The provider's timeout and our slack are set to ten minutes while an order is in doubt: it is asked
    about as one that was sent when it was sent.
    """
    env: Backstage = await pipeline_env(shape="openai")
    request = await doubt_of_second_send(env)
    provider = env.worker.providers["openai_compat"]
    seen: list[float] = []

    async def lookup(take, sent_at, claimed, now, *, until=None):
        seen.append(sent_at)
        return Unsure("nothing to see")

    monkeypatch.setattr(provider, "lookup", lookup)
    longer = replace(provider.capabilities, submit_timeout_s=600.0)
    monkeypatch.setattr(provider, "capabilities", longer)
    await reconcile_all(env.worker)
    assert seen == [(await env.video(request)).sent_at / 1000]


async def doubt_of_second_send(env: Backstage) -> str:
    """The first send was throttled; the second, 400 s later, lost its answer."""
    env.fake_provider.script("throttle_429", "charge_drop")
    request = await env.ordered()
    await env.submit(request)
    env.ledger.shift += 400
    await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.submits) == (V.IN_DOUBT, 2)
    return request


async def test_older_rows_are_given_one(tmp_path):
    """Rows from before say by their deadline when they were sent, never earlier than their first send; what
    was never sent has none.
    """
    ledger = Ledger(f"sqlite:///{tmp_path}/old.db")
    rows = [("sent", 1, 1_000_000, 900_000), ("late", 1, 1_000_000, 990_000), ("never", 0, 0, None)]

    def fill(conn: Connection) -> None:
        command.upgrade(database._alembic_config(conn), "0003")
        for name, submits, deadline, submitted in rows:
            conn.execute(text(
                "INSERT INTO requests (request_id, bot_id, chat_id, message_id, user_id, language, idea,"
                " state, created_at, updated_at) VALUES (:name, 1, 1, 1, 1, 'en', '', 'ORDERED', 1, 1)"
            ), {"name": name})  # fmt: skip
            conn.execute(text(
                "INSERT INTO videos (request_id, user_id, state, provider, model, prompt, seconds, size,"
                " quote_micros, expires_at, ordered_at, updated_at, submits, deadline_at, submitted_at)"
                " VALUES (:name, 1, 'IN_DOUBT', 'p', 'm', '', 8, '', 1, 1, 1, 1, :submits, :deadline, :first)"
            ), {"name": name, "submits": submits, "deadline": deadline, "first": submitted})  # fmt: skip

    async with ledger.write() as conn:
        await conn.run_sync(fill)
    await database.migrate(ledger)
    sent = {name: (await video_of(ledger, name)).sent_at for name, *_ in rows}
    await ledger.close()
    assert sent == {"sent": 925_000, "late": 990_000, "never": None}
