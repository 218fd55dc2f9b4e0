"""Telegram's limits over all workers: rates, priorities, waiting, 429; real HTTP, aiogram and Redis."""

import asyncio
import json
import sys
from contextlib import AsyncExitStack

import pytest
from aiogram import methods
from aiogram.exceptions import TelegramRetryAfter
from aiogram.types import InlineKeyboardMarkup

from chat.send_limits import HeldBack, SendLimits, is_limited, send_priority
from chat.status_message import View
from ledger.models import VideoState
from sandbox.telegram import Fault
from sandbox.telegram.server import BotApiServer
from telemetry.metrics import SENDS, SENDS_WAITING, THROTTLED, exposition
from tests.support.app_harness import GROUP
from tests.support.metric_values import value
from tests.support.paced_bots import LIMITS, assert_within, paced_bot, send_to_all
from tests.support.services import ROOT
from tests.support.waiting import wait_until
from worker.rate_limits import Rate

ANA, BEN, EVA = 1001, 1002, 1003
CHATS = [ANA, BEN, GROUP]
HOUR = 3600.0


@pytest.fixture
async def api():
    """A local Bot API with three people and a group."""
    async with BotApiServer() as server:
        for person in (ANA, BEN, EVA):
            await server.user(person).send("/start")
        server.group(GROUP)
        yield server


@pytest.fixture
async def worker(api, redis, redis_url, prefix):
    """Open the bot of one more worker."""
    async with AsyncExitStack() as stack:

        async def opened(limits: SendLimits = LIMITS, url: str = redis_url):
            return await stack.enter_async_context(paced_bot(api, url, prefix, limits))

        yield opened


def limits(total=(100, 0.001), chat=(100, 0.001), group=(100, 0.001), longest_wait_s=60.0) -> SendLimits:
    """Return limits of which only those that are given matter."""
    named = {"total": total, "chat": chat, "group": group}
    return SendLimits(
        **{name: Rate(name, *pace) for name, pace in named.items()}, longest_wait_s=longest_wait_s
    )


def sends(priority: str, outcome: str) -> float:
    return value(exposition(), SENDS.name, priority=priority, outcome=outcome)


def arrived(api, chat: int | None = None, method: str = "sendMessage"):
    return [call for call in api.calls.of(method) if chat in (None, int(call.params["chat_id"]))]


def assert_limits_kept(api) -> None:
    assert_within(arrived(api), LIMITS.total)
    for chat in CHATS:
        assert_within(arrived(api, chat), LIMITS.chat)
    assert_within(arrived(api, GROUP), LIMITS.group)


def test_telegrams_figures():
    """The defaults grant at most 30 sends a second, 20 a minute to a group, 12 in ten seconds to a chat."""
    default = SendLimits()
    assert (default.total.most_in(1), default.group.most_in(60), default.chat.most_in(10)) == (30, 20, 12)


@pytest.mark.slow
async def test_two_workers_share_the_limits(api, worker):
    """Two workers send to the same chats at once: every message arrives, and no rate is exceeded."""
    bots = [await worker(), await worker()]
    await asyncio.gather(*(send_to_all(bot, CHATS, 6, f"w{n}") for n, bot in enumerate(bots)))
    assert len({call.params["text"].partition("|")[0] for call in arrived(api)}) == 2 * 6 * len(CHATS)
    assert_limits_kept(api)


@pytest.mark.slow
async def test_two_processes_share_the_limits(api, redis, redis_url, prefix):
    """The same with two operating-system processes."""
    given = [api.base_url, api.token, redis_url, prefix, json.dumps(CHATS), "8"]
    spawned = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.support.paced_bots", *given,
            cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]  # fmt: skip
    for process in spawned:
        assert await process.stdout.readline() == b"ready\n"
    done = await asyncio.gather(*(process.communicate(b"go\n") for process in spawned))
    assert [process.returncode for process in spawned] == [0, 0], done
    assert len(arrived(api)) == 2 * 8 * len(CHATS)
    assert_limits_kept(api)


async def flood(bot, message_id: int, edits: list[int]) -> None:
    """Edit a group's message until cancelled, as progress; a refused edit is tried again a moment later."""
    number, task = 0, asyncio.current_task()
    with send_priority("progress"):
        # redis-py 8.1 loses a cancellation that comes with the end of its command: the task knows of it.
        while not task.cancelling():
            number += 1
            try:
                await bot.edit_message_text(f"{bot.id} {number}", chat_id=GROUP, message_id=message_id)
                edits.append(number)
            except HeldBack:
                await asyncio.sleep(0.005)


async def end(tasks) -> None:
    for one in tasks:
        one.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_progress_does_not_delay_a_final_word(api, worker):
    """Two workers flood a group with progress edits: a final word of either goes at once."""
    slow = limits(total=(8, 0.05), group=(6, 0.4))
    bots = [await worker(slow), await worker(slow)]
    shown = [(await bot.send_message(GROUP, f"status {n}")).message_id for n, bot in enumerate(bots)]
    edits: list[int] = []
    floods = [asyncio.create_task(flood(*one, edits)) for one in zip(bots, shown, strict=True)]
    before = sends("progress", "held_back"), sends("final", "at_once"), sends("final", "waited")

    async def held_back() -> bool:
        return sends("progress", "held_back") > before[0] + 5 and len(edits) > 3

    await wait_until(held_back, 60, "the flood to be held back")
    for bot in bots:
        await bot.send_message(GROUP, "ready")
    assert (sends("final", "at_once"), sends("final", "waited")) == (before[1] + 2, before[2])
    await end(floods)


@pytest.mark.slow
async def test_progress_does_not_overtake_a_waiting_final_word(api, worker):
    """While a final word waits for its group, no progress edit of that group is sent, by any worker."""
    slow = limits(group=(4, 1.5))
    bots = [await worker(slow), await worker(slow)]
    shown = [(await bot.send_message(GROUP, f"status {n}")).message_id for n, bot in enumerate(bots)]
    for _ in range(2):
        await bots[0].send_message(GROUP, "the rest of the burst")
    last = asyncio.create_task(bots[0].send_message(GROUP, "ready"))

    async def waits() -> bool:
        return value(exposition(), SENDS_WAITING.name, priority="final") == 1

    await wait_until(waits, 10, "the final word to wait")
    floods = [asyncio.create_task(flood(*one, [])) for one in zip(bots, shown, strict=True)]
    await last
    await end(floods)
    order = [call.params["text"].partition("|")[0] for call in api.calls if "text" in call.params]
    assert order[-1] == "ready" or order.index("ready") < min(
        n for n, text in enumerate(order) if text.startswith(str(bots[0].id))
    )
    assert sends("progress", "held_back") > 0


async def test_an_offer_leaves_a_unit_for_final_words(api, worker):
    """Offers use a burst up to one unit and then wait; the last unit goes to a final word at once."""
    bot = await worker(limits(total=(6, HOUR), longest_wait_s=0.2))
    with send_priority("offer"):
        for n in range(5):
            await bot.send_message(ANA, f"offer {n}")
        with pytest.raises(HeldBack) as held:
            await bot.send_message(ANA, "offer 5")
    assert HOUR - 60 < held.value.retry_after <= HOUR
    await bot.send_message(ANA, "ready")
    with pytest.raises(HeldBack):
        await bot.send_message(BEN, "one too many")
    assert len(arrived(api)) == 6


async def test_a_wait_for_one_chat_delays_no_other(api, worker):
    """Many sends wait for a full chat; another chat's goes at once."""
    bot = await worker(limits(chat=(2, HOUR), longest_wait_s=2 * HOUR))
    waiting = [asyncio.create_task(bot.send_message(ANA, f"to Ana {n}")) for n in range(8)]

    async def two_are_there() -> bool:
        return len(arrived(api, ANA)) == 2

    await wait_until(two_are_there, 10, "the burst")
    await bot.send_message(BEN, "to Ben")
    with send_priority("progress"):
        await bot.send_message(EVA, "to Eva")
    assert [len(arrived(api, chat)) for chat in (ANA, BEN, EVA)] == [2, 1, 1]
    await end(waiting)
    assert value(exposition(), SENDS_WAITING.name, priority="final") == 0


async def test_sends_of_one_chat_keep_their_order(api, worker):
    """What waits for a chat goes first come, first served."""
    bot = await worker(limits(chat=(1, 0.03)))
    await asyncio.gather(*(bot.send_message(ANA, f"{n}") for n in range(8)))
    assert [call.params["text"].partition("|")[0] for call in arrived(api)] == [str(n) for n in range(8)]


async def test_a_wait_has_an_end(api, worker):
    """A send that would wait too long is not sent; the error says when to try again, as Telegram's does."""
    bot = await worker(limits(chat=(1, HOUR), longest_wait_s=5))
    await bot.send_message(ANA, "first")
    before = sends("final", "held_back")
    with pytest.raises(TelegramRetryAfter) as held:
        await bot.send_message(ANA, "second")
    assert isinstance(held.value, HeldBack)
    assert isinstance(held.value.retry_after, int)
    assert HOUR - 60 < held.value.retry_after <= HOUR
    assert (len(arrived(api)), sends("final", "held_back")) == (1, before + 1)


async def test_every_worker_obeys_a_429(api, worker):
    """One worker gets a 429: no worker sends to that chat until it is over; other chats are not held."""
    quick = limits(longest_wait_s=5)
    first, second = await worker(quick), await worker(quick)
    api.fail("sendMessage", Fault.throttled(30))
    before = value(exposition(), THROTTLED.name, scope="chat")
    with pytest.raises(TelegramRetryAfter) as throttled:
        await first.send_message(ANA, "too much")
    assert not isinstance(throttled.value, HeldBack)
    assert value(exposition(), THROTTLED.name, scope="chat") == before + 1
    with pytest.raises(HeldBack) as held:
        await second.send_message(ANA, "from another worker")
    assert 25 <= held.value.retry_after <= 30
    await second.send_message(BEN, "to another chat")
    assert [call.status for call in arrived(api)] == [429, 200]


async def test_429_in_two_chats_holds_the_whole_bot(api, worker):
    """Two chats refused within seconds: it is the bot's limit, and no worker sends to any chat."""
    quick = limits(longest_wait_s=5)
    first, second = await worker(quick), await worker(quick)
    api.fail("sendMessage", Fault.throttled(30), times=2)
    for bot, chat in ((first, ANA), (second, BEN)):
        with pytest.raises(TelegramRetryAfter):
            await bot.send_message(chat, "too much")
    for bot in (first, second):
        with pytest.raises(HeldBack):
            await bot.send_message(EVA, "to a third chat")
    assert len(arrived(api)) == 2


@pytest.mark.slow
async def test_after_a_429_the_rest_is_sent(api, worker):
    """What was held back by a short 429 waits for its end and arrives."""
    first, second = await worker(limits()), await worker(limits())
    api.fail("sendMessage", Fault.throttled(1))
    with pytest.raises(TelegramRetryAfter):
        await first.send_message(ANA, "too much")
    await second.send_message(ANA, "later")
    refused, sent = arrived(api)
    assert (refused.status, sent.status) == (429, 200)
    assert sent.at - refused.at >= 1


async def test_without_redis_each_worker_keeps_the_limits(api, worker):
    """Redis is unavailable: messages still go, at the same rates within the process."""
    bot = await worker(limits(chat=(2, HOUR), longest_wait_s=5), "redis://127.0.0.1:1")
    for n in range(2):
        await bot.send_message(ANA, f"{n}")
    with pytest.raises(HeldBack):
        await bot.send_message(ANA, "2")
    await bot.send_message(BEN, "to another chat")
    assert len(arrived(api)) == 3


async def test_other_calls_are_not_limited(api, worker):
    """What is no message asks no limit."""
    bot = await worker(limits(total=(1, HOUR), longest_wait_s=10))
    sent = await bot.send_message(ANA, "the only one")
    await bot.get_me()
    await bot.send_chat_action(ANA, "typing")
    await bot.delete_message(ANA, sent.message_id)
    with pytest.raises(HeldBack):
        await bot.send_message(BEN, "one more")


@pytest.mark.parametrize(
    ("method", "limited"),
    [
        (methods.SendMessage, True),
        (methods.SendVideo, True),
        (methods.EditMessageMedia, True),
        (methods.EditMessageReplyMarkup, True),
        (methods.CopyMessage, True),
        (methods.ForwardMessage, True),
        (methods.SendChatAction, False),
        (methods.DeleteMessage, False),
        (methods.AnswerCallbackQuery, False),
        (methods.GetUpdates, False),
        (methods.GetMe, False),
        (methods.SetWebhook, False),
        (methods.EditForumTopic, False),
    ],
)
def test_which_calls_count(method, limited):
    assert is_limited(method.__api_method__) == limited


def test_what_a_status_message_is_worth():
    """Progress may be dropped, an offer waits, what stays on the screen is final."""
    buttons = InlineKeyboardMarkup(inline_keyboard=[])
    shown = [
        View("40 %"),
        View("Make it?", buttons, resting=True, offers=True),
        View("Refused.", resting=True),
    ]
    assert [view.priority for view in shown] == ["progress", "offer", "final"]


@pytest.mark.slow
async def test_a_busy_group_gets_every_video(app_env):
    """Four people order in one group, quicker than it may be sent to: what is held back is sent later."""
    busy = limits(chat=(3, 0.05), group=(2, 0.25), longest_wait_s=0.2)
    env = await app_env(send_limits=busy, changes={"cooldown": None})
    env.api.group(GROUP)
    people = range(1001, 1005)
    for person in people:
        await env.user(person, f"P{person}").send("/create a quiet market", chat=GROUP)
    for person in people:
        ((request, video),) = await env.wait_settled(person, seconds=60)
        assert (video.state, request.told) == (VideoState.DELIVERED, VideoState.DELIVERED)
    texts = [call.params["text"] for call in arrived(env.api, GROUP) if call.performed]
    assert sum("ready" in text for text in texts) == 4
