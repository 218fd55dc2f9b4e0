"""The steps `notify` and `deliver` on a ledger and a Bot API: what is shown, when, and by which process."""

import asyncio
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import pytest
from aiogram.methods import EditMessageText
from sqlalchemy import select, update

from app.processes import running
from chat import notifier
from chat.context import ChatContext
from chat.i18n import translator
from chat.notifier import BLOCKED_RETRY_S, DELIVER_SLOTS, notification_steps, notify
from chat.send_limits import HeldBack
from evals.environment import QUICK_EDIT_LIMITS, set_status_message
from guardrails.limits import EVERYONE
from ledger import (
    breaker,
    database,
    due_work,
    heartbeats,
    notifications,
    orders,
    pending_work,
    requests,
    transitions,
)
from ledger.due_work import claim_notifications
from ledger.models import PACED_STATES, RequestState, VideoState
from ledger.requests import NewRequest, open_request
from ledger.schema import requests as rows
from sandbox.preview.provider import CAPABILITIES
from sandbox.telegram import BotApiServer, Fault
from telemetry.redaction import short_id
from tests.support.bot_api import MP4, bot_of
from tests.support.factories import NO_LIMITS, NO_RATES, ORDER_PRICE, new_job, order_for, put
from tests.support.waiting import wait_until
from tools.offer import Offer
from worker.context import Timeouts
from worker.dispatcher import Dispatcher

EN = translator("en")
ANA = 1001
_QUEUED = EN("queued", seconds=8, price=ORDER_PRICE)
LIMITS = replace(QUICK_EDIT_LIMITS, private_s=60, retry_s=20, lease_s=25, upload_s=120)


OFFER = Offer("local", "preview", CAPABILITIES, lambda *_, sound=True: ORDER_PRICE, "local")


class WorkerParts:
    """What the chat asks of a worker: here every finished video is the same file."""

    timeouts, providers = Timeouts(), {}

    def __init__(self, folder):
        self._path = folder / "video.mp4"
        self._path.write_bytes(MP4)

    def asset_path(self, video):
        del video
        return self._path


class Wakes:
    """A queue that keeps what it was asked to wake."""

    def __init__(self):
        self.asked = []

    async def wake(self, task, request_id, after_s=0):
        self.asked.append(task)
        return True


class Chat:
    """A chat of one user: a ledger, a Bot API over HTTP, and a context of the steps."""

    def __init__(self, api, bot, ledger, folder, limits=LIMITS):
        self.api, self.ledger = api, ledger
        self.wakes, self.people = Wakes(), set()
        self.ctx = ChatContext(
            bot,
            ledger,
            None,
            self.wakes,
            WorkerParts(folder),
            OFFER,
            NO_LIMITS,
            None,
            None,
            edit_limits=limits,
        )
        self.notify, self.deliver = notification_steps(self.ctx)

    async def open(self, user_id=ANA, number=1):
        if user_id not in self.people:
            self.people.add(user_id)
            await self.api.user(user_id, "Ana", language_code="en").send("/start")
        request_id = f"tg:1:-:{user_id}:{number}"
        bot_id = self.ctx.bot.id
        await open_request(self.ledger, NewRequest(request_id, bot_id, user_id, 0, user_id, "en", "a market"))
        return request_id

    async def pass_a_minute(self):
        """A minute later; a worker lives, as its heartbeat says."""
        self.ledger.shift += 61
        await heartbeats.beat(self.ledger, "worker:1", "worker", self.ctx.bot.id)

    async def order(self, request_id):
        await orders.place(self.ledger, order_for(request_id), NO_LIMITS)

    async def accept(self, request_id):
        await self.order(request_id)
        shown = (await self.row(request_id)).status_message_id
        if shown is None:  # so that it may be submitted; what the chat knows stays as it is
            await set_status_message(self.ledger, request_id)
        assert await transitions.begin_submit(self.ledger, request_id, "f", 30, NO_RATES)
        assert await transitions.adopt_job(self.ledger, request_id, new_job(), "test", None)
        await set_status_message(self.ledger, request_id, shown)

    async def fail(self, request_id):
        await transitions.transition(
            self.ledger, request_id, VideoState.ACCEPTED, VideoState.FAILED_UNPAID, "test", "moderated",
            failure="moderated",
        )  # fmt: skip

    async def finish(self, request_id):
        await self.accept(request_id)
        await transitions.transition(
            self.ledger, request_id, VideoState.ACCEPTED, VideoState.SUCCEEDED, "test", "", asset_seconds=8
        )

    async def step(self):
        """Claim what is due for `notify` and run it; return how many rows that were."""
        claimed = await self.notify.claim(10)
        await asyncio.gather(*(self.notify.run(one) for one in claimed))
        return len(claimed)

    async def row(self, request_id):
        return await requests.find(self.ledger, request_id)

    def calls(self, *methods):
        return self.api.calls.of(*(methods or ("sendMessage", "editMessageText")))

    def texts(self):
        return [call.params["text"] for call in self.calls() if call.performed]


@pytest.fixture
async def chat(ledger, tmp_path):
    async with BotApiServer() as api, bot_of(api) as bot:
        yield Chat(api, bot, ledger, tmp_path)


async def due_in(chat):
    """Return in how many seconds a notification is due; None: never."""
    return (await due_work.next_due(chat.ledger, chat.ctx.bot.id)).get("notify")


@pytest.mark.any_ledger
async def test_one_step_shows_and_records(chat):
    """One claim, one call, one write: the text, its digest, its message; then nothing is due."""
    request_id = await chat.open()
    assert await chat.step() == 1
    row = await chat.row(request_id)
    assert (row.told, row.told_after, row.notify_at, row.notify_failures) == ("OPEN", 0, None, 0)
    assert row.status_message_id
    assert row.shown
    assert row.edit_after > row.created_at + 59_000
    assert EN("opened") in chat.texts()[0]
    assert await due_in(chat) is None
    assert await chat.step() == 0


@pytest.mark.any_ledger
async def test_progress_is_coalesced_and_a_final_word_is_not(chat):
    """States in progress and progress itself wait until the message may be edited, then one edit shows the
    latest; a final word does not wait.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    for progress in (10, 20, 30):
        await transitions.set_progress(chat.ledger, request_id, progress)
        assert await chat.step() == 0
    assert 50 < await due_in(chat) <= 60
    chat.ledger.shift += 61
    assert await chat.step() == 1
    assert len(chat.calls()) == 2
    assert "30 %" in chat.texts()[1]
    await transitions.set_progress(chat.ledger, request_id, 40)
    assert await chat.step() == 0
    assert 50 < await due_in(chat) <= 60
    await chat.fail(request_id)
    assert await chat.step() == 1
    assert EN("failed_moderated") in chat.texts()[2]
    assert (await chat.row(request_id)).told == VideoState.FAILED_UNPAID
    assert await due_in(chat) is None


async def test_an_unchanged_text_makes_no_call(chat):
    """A row that is due and has nothing new to show makes no Bot API call."""
    request_id = await chat.open()
    await chat.step()
    async with chat.ledger.write() as conn:
        await conn.execute(update(rows).values(notify_at=1))
    assert await chat.step() == 1
    assert len(chat.calls()) == 1
    assert (await chat.row(request_id)).notify_at is None


@pytest.mark.any_ledger
@pytest.mark.parametrize("change", ["state", "progress"])
async def test_a_change_during_the_step_is_shown(chat, monkeypatch, change):
    """A state that changes while the Bot API call is under way is due when the step ends; progress when the
    message may be edited.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    chat.ledger.shift += 61
    show = notifier.show_status

    async def show_and_change(*args):
        shown = await show(*args)
        if change == "state":
            await chat.fail(request_id)
        else:
            await transitions.set_progress(chat.ledger, request_id, 50)
        return shown

    with monkeypatch.context() as patched:
        patched.setattr(notifier, "show_status", show_and_change)
        assert await chat.step() == 1
    assert chat.wakes.asked == (["notify"] if change == "state" else [])
    assert await due_in(chat) <= (0 if change == "state" else 60)
    assert await due_in(chat) > (-5 if change == "state" else 50)
    chat.ledger.shift += 0 if change == "state" else 61
    assert await chat.step() == 1
    assert (EN("failed_moderated") if change == "state" else "50 %") in chat.texts()[-1]
    assert await due_in(chat) is None


async def test_a_kill_before_the_write_repeats_one_message(chat, monkeypatch):
    """A worker that dies after its call leaves the lease; another repeats the message after it, once."""
    request_id = await chat.open()

    async def killed(*_):
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(notifier, "_write_end", killed)
        [claimed] = await chat.notify.claim(1)
        task = asyncio.create_task(notify(chat.ctx, claimed))
        await chat.api.calls.wait_for(lambda call: call.method == "sendMessage")
        assert await chat.notify.claim(1) == []
        chat.ledger.shift += int(LIMITS.lease_s) + 1
        other = await chat.notify.claim(1)
    await chat.notify.run(other[0])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert len(chat.calls("sendMessage")) == 2
    assert (await chat.row(request_id)).told == RequestState.OPEN
    assert await chat.step() == 0


@pytest.mark.any_ledger
async def test_a_step_that_outlives_its_lease_is_mended(chat):
    """A process that was paused past its lease may have shown an old text last: the current one is shown
    again, and its write changes nothing else.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    chat.ledger.shift += 61
    [late] = await chat.notify.claim(1)
    chat.ledger.shift += int(LIMITS.lease_s) + 1
    await chat.fail(request_id)
    assert await chat.step() == 1
    await chat.notify.run(late)
    assert (await chat.row(request_id)).told == VideoState.FAILED_UNPAID
    assert EN("failed_moderated") not in chat.texts()[-1]
    assert await chat.step() == 1
    assert EN("failed_moderated") in chat.texts()[-1]
    assert await due_in(chat) is None


@pytest.mark.any_ledger
async def test_two_leases_that_overlap_end_with_the_current_text(chat, monkeypatch):
    """A process that was paused edits the message between the call and the write of the one that has its
    lease now: what that one records is not what the message shows, so it is shown again.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    chat.ledger.shift += 61
    [late] = await chat.notify.claim(1)
    chat.ledger.shift += int(LIMITS.lease_s) + 1
    await chat.fail(request_id)
    [other] = await chat.notify.claim(1)
    show = notifier.show_status

    async def show_before_the_late_one(*args):
        shown = await show(*args)
        monkeypatch.setattr(notifier, "show_status", show)
        await notify(chat.ctx, late)
        return shown

    monkeypatch.setattr(notifier, "show_status", show_before_the_late_one)
    await notify(chat.ctx, other)
    assert EN("failed_moderated") not in chat.texts()[-1]
    assert await chat.step() == 1
    assert EN("failed_moderated") in chat.texts()[-1]
    assert await chat.step() == 0
    assert await due_in(chat) is None


@pytest.mark.any_ledger
async def test_a_step_that_lost_its_lease_sends_no_second_message(chat):
    """A refused edit is followed by a new message only while the lease lasts: else an old text would come
    after the current one.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    chat.ledger.shift += 61
    [late] = await chat.notify.claim(1)
    chat.ledger.shift += int(LIMITS.lease_s) + 1
    await chat.fail(request_id)
    [other] = await chat.notify.claim(1)
    chat.api.fail("editMessageText", Fault.refused(400, "Bad Request: message can't be edited"))
    await notify(chat.ctx, late)
    await notify(chat.ctx, other)
    assert len(chat.calls("sendMessage")) == 1
    assert EN("failed_moderated") in chat.texts()[-1]
    assert await due_in(chat) is None


@pytest.mark.any_ledger
async def test_failures_back_off_and_stop_no_other_row(chat):
    """Each failure doubles the pause, up to an hour; success and a new state begin again."""
    first = await chat.open()
    chat.api.fail("sendMessage", Fault.server_error(), times=3)
    for pause_s in (20, 40, 80):
        await chat.step()
        assert pause_s - 5 < await due_in(chat) <= pause_s
        chat.ledger.shift += pause_s
    second = await chat.open(user_id=1002)
    assert await chat.step() == 2
    assert [(await chat.row(one)).notify_failures for one in (first, second)] == [0, 0]
    assert len(chat.texts()) == 2
    async with chat.ledger.write() as conn:
        failed = {"notify_at": 1, "notify_failures": 30, "shown": ""}
        await conn.execute(update(rows).where(rows.c.request_id == first).values(failed))
    chat.api.fail("editMessageText", Fault.server_error())
    chat.ledger.shift += 61
    await chat.step()
    assert 3500 < await due_in(chat) <= 3600
    await transitions.cancel(chat.ledger, first, ANA)
    assert (await chat.row(first)).notify_failures == 0
    assert await chat.step() == 1
    assert EN("cancelled") in chat.texts()[-1]


async def test_a_text_that_cannot_be_shown_is_given_up(chat):
    """A text that Telegram never takes is tried for a week; a change after that is tried again."""
    request_id = await chat.open()
    chat.api.fail("sendMessage", Fault.server_error(), times=None)
    chat.ledger.shift += 6 * 86_400
    await chat.step()
    assert await due_in(chat) is not None
    chat.ledger.shift += 2 * 86_400
    assert await chat.step() == 1
    assert await due_in(chat) is None
    chat.api.heal()
    await transitions.cancel(chat.ledger, request_id, ANA)
    assert await chat.step() == 1
    assert EN("cancelled") in chat.texts()[-1]


@pytest.mark.any_ledger
async def test_a_blocked_user_is_left_alone_until_they_are_back(chat):
    """403 holds an end for a month, after two tries of each state; the next update makes it due."""
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    await chat.api.user(ANA).block()
    chat.ledger.shift += 61
    assert await refused_twice(chat)
    await chat.fail(request_id)
    assert await refused_twice(chat)
    assert await chat.step() == 0
    assert await due_in(chat) > BLOCKED_RETRY_S - 60
    await chat.api.user(ANA).send("/start")
    assert await pending_work.postponed(chat.ledger, ANA + 1, 86_400) == []
    postponed = await pending_work.postponed(chat.ledger, ANA, 86_400)
    assert postponed == [request_id]
    await notifications.resume(chat.ledger, postponed, 86_400)
    [claimed] = await chat.notify.claim(1)
    await notifications.resume(chat.ledger, postponed, 86_400)  # by another process that read it before
    assert await chat.notify.claim(1) == []
    await chat.notify.run(claimed)
    assert EN("failed_moderated") in chat.texts()[-1]
    assert await due_in(chat) is None
    assert await pending_work.postponed(chat.ledger, ANA, 86_400) == []


@pytest.mark.any_ledger
async def test_a_user_who_is_back_reads_of_what_is_not_over(chat):
    """An order on HOLD is postponed without being held: the next update makes it due all the same."""
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    await put(chat.ledger, request_id, VideoState.HOLD, failure="in_doubt")
    await chat.api.user(ANA).block()
    chat.ledger.shift += 61
    assert await refused_twice(chat)
    await chat.api.user(ANA).send("/start")
    postponed = await pending_work.postponed(chat.ledger, ANA, 86_400)
    assert postponed == [request_id]
    await notifications.resume(chat.ledger, postponed, 86_400)
    assert await chat.step() == 1
    assert EN("hold_in_doubt") in chat.texts()[-1]
    assert await pending_work.postponed(chat.ledger, ANA, 86_400) == []


async def refused_twice(chat):
    """Run the step for the one row that is due, and again after its pause; say whether each found it."""
    first = await chat.step()
    chat.ledger.shift += 21
    return (first, await chat.step()) == (1, 1)


@pytest.mark.any_ledger
async def test_a_user_who_returns_during_the_refused_call_is_notified(chat):
    """Their update finds nothing postponed yet: the second try reaches them, not one a month later."""
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    await chat.fail(request_id)
    await chat.api.user(ANA).block()
    (claimed,) = await chat.notify.claim(1)
    send = chat.ctx.bot.session.make_request

    async def returns(*args, **kwargs):
        try:
            return await send(*args, **kwargs)
        finally:
            await chat.api.user(ANA).send("/start")
            assert await pending_work.postponed(chat.ledger, ANA, 86_400) == []

    with patch.object(chat.ctx.bot.session, "make_request", returns):
        await chat.notify.run(claimed)
    chat.ledger.shift += 21
    assert await chat.step() == 1
    assert EN("failed_moderated") in chat.texts()[-1]


async def test_telegrams_wait_holds_new_states_too(chat):
    """After 429 not even a final word is sent before the time that Telegram named."""
    request_id = await chat.open()
    chat.api.fail("sendMessage", Fault.throttled(30))
    await chat.step()
    await transitions.cancel(chat.ledger, request_id, ANA)
    assert await chat.step() == 0
    assert 25 < await due_in(chat) <= 30
    chat.ledger.shift += 31
    assert await chat.step() == 1
    assert EN("cancelled") in chat.texts()[-1]
    assert len(chat.calls("sendMessage")) == 2


async def test_progress_that_our_own_limit_holds_back_delays_no_final_word(chat, monkeypatch):
    """An edit that the shared send limits hold back is due when they allow it; a final word before that."""
    request_id = await chat.open()
    await chat.step()
    await chat.accept(request_id)
    chat.ledger.shift += 61

    async def held_back(_ctx, request, *_):
        raise HeldBack(EditMessageText(chat_id=request.chat_id, text="-"), 7)

    with monkeypatch.context() as patched:
        patched.setattr(notifier, "_edit_status", held_back)
        assert await chat.step() == 1
    assert 6 < await due_in(chat) <= 7
    assert (await chat.row(request_id)).notify_failures == 0
    await chat.fail(request_id)
    assert await chat.step() == 1
    assert EN("failed_moderated") in chat.texts()[-1]


async def test_a_waiting_order_reads_the_breaker_again(chat):
    """The text of a queued order follows a breaker that opens or closes, without further edits."""
    request_id = await chat.open()
    await chat.step()
    await chat.order(request_id)
    await chat.pass_a_minute()
    await chat.step()
    assert _QUEUED in chat.texts()[-1]
    async with chat.ledger.write() as conn:
        await breaker.open_for_everyone(chat.ledger, conn, "test", "test", 1)
    for _ in range(3):
        assert await due_in(chat) <= 60
        await chat.pass_a_minute()
        assert await chat.step() == 1
    assert EN("waiting_breaker") in chat.texts()[-1]
    assert len(chat.calls()) == 3
    assert await breaker.close(chat.ledger, EVERYONE, "test")
    await chat.pass_a_minute()
    await chat.step()
    assert _QUEUED in chat.texts()[-1]


async def test_another_attempt_is_shown(chat):
    """A second attempt of the agent's run changes the text, once the message may be edited."""
    await chat.open()
    await chat.step()
    for _ in range(2):
        await due_work.claim_runs(chat.ledger, 1, 0)
    assert await chat.step() == 0
    chat.ledger.shift += 61
    assert await chat.step() == 1
    assert EN("retrying", attempt=2) in chat.texts()[-1]


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_two_workers_show_each_state_once(ledger, tmp_path):
    """Two dispatchers on one ledger and one Bot API: one status message a request, no state shown twice."""
    quick = replace(QUICK_EDIT_LIMITS, lease_s=25)
    async with BotApiServer() as api, bot_of(api) as bot, bot_of(api) as second:
        chats = [Chat(api, one, ledger, tmp_path, quick) for one in (bot, second)]
        dispatchers = [
            Dispatcher(notification_steps(one.ctx), partial(due_work.next_due, ledger, bot.id), 0.05)
            for one in chats
        ]
        async with running(*(one.run() for one in dispatchers)):
            users = [2000 + n for n in range(8)]
            found = [await chats[0].open(user) for user in users]

            async def all_opened():
                async with ledger.read() as conn:
                    return all(await conn.scalars(select(rows.c.status_message_id)))

            await wait_until(all_opened, 20, "the status messages")
            for move in (chats[0].accept, chats[0].fail):
                for request_id in found:
                    await move(request_id)
                    for dispatcher in dispatchers:
                        dispatcher.kick("notify")

            async def all_told():
                async with ledger.read() as conn:
                    return set(await conn.scalars(select(rows.c.told))) == {"FAILED_UNPAID"}

            await wait_until(all_told, 20, "the last word")
        for user in users:
            sent = [call for call in chats[0].calls() if call.params["chat_id"] == str(user)]
            texts = [call.params["text"] for call in sent]
            assert [call.status for call in sent] == [200] * len(sent), "an edit without a change is refused"
            assert len(set(texts)) == len(texts)
            assert len([call for call in sent if call.method == "sendMessage"]) == 1
            assert EN("failed_moderated") in texts[-1]
        assert await claim_notifications(ledger, bot.id, 10, 1, delivery=False) == []


@pytest.mark.any_ledger
async def test_rows_of_the_version_before_continue(chat):
    """What the version before had not shown is due after the migration, when its lease or delay ends; what it
    had shown is not.
    """
    shown, leased, waiting = [await chat.open(number=n) for n in range(3)]
    far = 10**15
    async with chat.ledger.write() as conn:
        for request_id, values in ((shown, {"told": "OPEN"}), (leased, {"told_after": far})):
            await conn.execute(update(rows).where(rows.c.request_id == request_id).values(values))
    await database.downgrade(chat.ledger, "0007")
    await database.migrate(chat.ledger)
    due = [(await chat.row(one)).notify_at for one in (shown, leased, waiting)]
    assert due == [None, far, (await chat.row(waiting)).updated_at]
    assert await chat.step() == 1


@pytest.mark.any_ledger
async def test_only_states_in_progress_wait(chat):
    """The ledger's triggers let exactly the states of `PACED_STATES` wait until the message may be edited."""
    request_id = await chat.open()
    await chat.order(request_id)
    waited = set()
    for state in VideoState:
        other = VideoState.HOLD if state is VideoState.QUEUED else VideoState.QUEUED
        await put(chat.ledger, request_id, other)
        async with chat.ledger.write() as conn:
            await conn.execute(update(rows).values(edit_after=10**15, notify_at=None))
        await put(chat.ledger, request_id, state)
        if (await chat.row(request_id)).notify_at == 10**15:
            waited.add(state)
    assert waited == PACED_STATES & set(VideoState)


def videos_sent(chat):
    return [call for call in chat.calls("editMessageMedia", "sendVideo") if call.performed]


def pings(chat, request_id):
    return chat.texts().count(EN("ready", id=short_id(request_id)))


@pytest.mark.any_ledger
async def test_a_video_is_delivered_in_one_step(chat):
    """One claim: the video replaces the message though it was edited just now, then the phone rings; nothing
    is due any more.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.finish(request_id)
    assert await chat.step() == 0
    assert (await due_work.next_due(chat.ledger, chat.ctx.bot.id))["deliver"] <= 0
    [claimed] = await chat.deliver.claim(4)
    assert claimed.lease_until - claimed.now == (LIMITS.upload_s + LIMITS.lease_s) * 1000
    await chat.deliver.run(claimed)
    row, video = await requests.find_with_video(chat.ledger, request_id)
    assert (row.told, row.notify_at, row.told_after) == (VideoState.DELIVERED, None, 0)
    assert video.file_id
    assert len(videos_sent(chat)) == pings(chat, request_id) == 1
    assert "deliver" not in await due_work.next_due(chat.ledger, chat.ctx.bot.id)


@pytest.mark.any_ledger
async def test_a_kill_between_video_and_ping_loses_no_ping(chat, monkeypatch):
    """After a kill the short message is sent by the step `notify`, within the short lease; the video is not
    sent again.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.finish(request_id)

    async def killed(*_):
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(notifier, "_send_ready", killed)
        [claimed] = await chat.deliver.claim(1)
        task = asyncio.create_task(chat.deliver.run(claimed))

        async def delivered():
            return (await requests.find_with_video(chat.ledger, request_id))[1].state == "DELIVERED"

        await wait_until(delivered, 10, "the video")
    assert await chat.step() == 0
    chat.ledger.shift += int(LIMITS.lease_s) + 1
    assert await chat.step() == 1
    assert len(videos_sent(chat)) == pings(chat, request_id) == 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await due_in(chat) is None


@pytest.mark.any_ledger
async def test_a_cancelled_upload_is_due_at_once(chat):
    """A process that stops during an upload gives the request back: another delivers it without a wait."""
    request_id = await chat.open()
    await chat.step()
    await chat.finish(request_id)
    chat.api.fail("editMessageMedia", Fault.hang())
    [claimed] = await chat.deliver.claim(1)
    task = asyncio.create_task(chat.deliver.run(claimed))
    await chat.api.calls.wait_for(lambda call: call.method == "editMessageMedia")
    assert await chat.deliver.claim(1) == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    chat.api.heal()
    [again] = await chat.deliver.claim(1)
    await chat.deliver.run(again)
    assert len(videos_sent(chat)) == pings(chat, request_id) == 1


@pytest.mark.any_ledger
async def test_an_upload_that_outlived_its_lease_sends_nothing_more(chat):
    """A process whose lease has passed to another sends no second message in place of a refused edit."""
    request_id = await chat.open()
    await chat.step()
    await chat.finish(request_id)
    [late] = await chat.deliver.claim(1)
    chat.ledger.shift += int(LIMITS.upload_lease_s) + 1
    [other] = await chat.deliver.claim(1)
    chat.api.fail("editMessageMedia", Fault.refused(400, "Bad Request: message can't be edited"))
    await chat.deliver.run(late)
    assert videos_sent(chat) == []
    await chat.deliver.run(other)
    assert len(videos_sent(chat)) == pings(chat, request_id) == 1


@pytest.mark.any_ledger
async def test_an_upload_that_outlived_its_lease_takes_no_lease_back(chat):
    """What Telegram confirmed is recorded by whichever process has it; the lease stays the other's, which
    makes the phone ring once.
    """
    request_id = await chat.open()
    await chat.step()
    await chat.finish(request_id)
    [late] = await chat.deliver.claim(1)
    chat.ledger.shift += int(LIMITS.upload_lease_s) + 1
    [other] = await chat.deliver.claim(1)
    await chat.deliver.run(late)
    row, video = await requests.find_with_video(chat.ledger, request_id)
    assert (video.state, row.told_after) == (VideoState.DELIVERED, other.lease_until)
    assert video.file_id
    assert pings(chat, request_id) == 0
    await chat.deliver.run(other)
    await chat.step()
    row = await chat.row(request_id)
    assert (row.told, row.notify_at, row.told_after) == (VideoState.DELIVERED, None, 0)
    assert {call.method for call in videos_sent(chat)} == {"editMessageMedia"}  # the same message, twice
    assert pings(chat, request_id) == 1


async def test_uploads_hold_up_no_short_messages(chat):
    """With every slot for uploads taken by a Telegram that does not answer, other users are notified."""
    for number in range(DELIVER_SLOTS + 1):
        request_id = await chat.open(number=number)
        await chat.step()
        await chat.finish(request_id)
    chat.api.fail("editMessageMedia", Fault.hang(), times=None)
    next_due = partial(due_work.next_due, chat.ledger, chat.ctx.bot.id)
    dispatcher = Dispatcher(notification_steps(chat.ctx), next_due, 0.05)

    async def uploading():
        return len(chat.calls("editMessageMedia")) == DELIVER_SLOTS

    async with running(dispatcher.run()):
        await wait_until(uploading, 10, "the uploads")
        other = await chat.open(user_id=1002)
        dispatcher.kick("notify")

        async def told():
            return (await chat.row(other)).told == RequestState.OPEN

        await wait_until(told, 10, "the short message")
    assert len(chat.calls("editMessageMedia")) == DELIVER_SLOTS
    await dispatcher.stop(1)
    chat.api.heal()


@pytest.mark.any_ledger
async def test_a_video_that_is_ready_within_the_claim_is_delivered(chat):
    """PostgreSQL may claim for `notify` what becomes ready in that moment: it stays due and is delivered."""
    request = await chat.open()
    await chat.finish(request)
    async with chat.ledger.write() as conn:
        await conn.execute(update(rows).values(told_after=0, notify_at=5))
    (claimed,) = await claim_notifications(chat.ledger, chat.ctx.bot.id, 1, 25, delivery=True)
    await chat.notify.run(claimed)
    row = await chat.row(request)
    assert (row.told, row.notify_at is None) == ("", False)
    assert await chat.deliver.claim(1)
