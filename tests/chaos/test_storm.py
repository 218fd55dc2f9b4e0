"""Two hundred people at once, five acts each: every message is answered once, and nothing is paid twice."""

import asyncio
import logging
import random
from collections import Counter

import pytest

from chat.context import EditLimits
from chat.keyboards import APPROVE, DECLINE, DECLINE_IDEA, TAKE_IDEA
from evals.environment import AppEnvironment, RequestAndVideo, is_settled
from evals.waiting import Deadline
from ledger.models import VideoState
from sandbox.telegram import Fault
from sandbox.telegram.base import SandboxError
from sandbox.telegram.user import Person
from tests.support import checks
from tests.support.worker_process import all_requests

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(1800)]

PEOPLE, ACTS, SEED = 200, 5, 13
IDEAS = ("a quiet market at dawn", "un faro en la tormenta", "uma praia ao amanhecer", "Mickey Mouse dances")
WORDS = ("hello", "/statsu", "/status", "/quota", "/history", "/help", "/cancel", "how much does it cost?")
LIMITED = ("sendMessage", "editMessageText", "editMessageMedia", "answerCallbackQuery")
# No second message announces a film: each message of a person has exactly one of the bot's.
EDIT_LIMITS = EditLimits(private_s=0.2, quiet_s=0.05, progress_s=0.2, ping_after_s=3600, retry_s=0.3)


class Visitor:
    """One person and what they do; `said` counts their messages, each of which wants one answer."""

    def __init__(self, env: AppEnvironment, number: int) -> None:
        self.env, self.chance = env, random.Random(SEED * 1000 + number)
        self.person: Person = env.user(5000 + number, f"P{number}", ("en", "es", "pt")[number % 3])
        self.said, self.taps = 0, Counter[str]()

    async def play(self) -> None:
        """Do five things, each a moment after the one before."""
        acts = (self.create, self.create, self.words, self.idea, self.picture, self.edit, self.redeliver,
                self.block, self.tap, self.tap)  # fmt: skip
        await self.create()
        for act in self.chance.choices(acts, k=ACTS - 1):
            await asyncio.sleep(self.chance.random())
            await act()

    async def create(self) -> None:
        await self.send(f"/create {self.chance.choice(IDEAS)} number {self.said}")

    async def words(self) -> None:
        await self.send(self.chance.choice(WORDS))

    async def idea(self) -> None:
        """Write an idea without a command, and tap what is asked about it."""
        await self.send(f"{self.chance.choice(IDEAS)} number {self.said}")
        await asyncio.sleep(1)
        await self.tap_one(self.chance.choice((TAKE_IDEA, TAKE_IDEA, DECLINE_IDEA)))

    async def picture(self) -> None:
        await (self.person.photo("a picture") if self.chance.random() < 0.5 else self.person.sticker())
        self.said += 1

    async def edit(self) -> None:
        """Edit a command: that is no request."""
        mine = [one.id for one in self.person.history() if one.mine and one.media is None and one.text]
        await self.person.edit(self.chance.choice(mine), "/create something else")

    async def redeliver(self) -> None:
        update = self.person.last_update
        if update is not None:
            await self.env.api.redeliver(update.id, self.chance.randint(1, 3))

    async def block(self) -> None:
        """Ask, block the bot, and come back with another message."""
        await self.create()
        await self.person.block()
        await asyncio.sleep(self.chance.random())
        await self.send("/status")

    async def tap(self) -> None:
        """Tap a button of the newest offer, once or several times."""
        for _ in range(self.chance.randint(1, 3)):
            await self.tap_one(APPROVE if self.chance.random() < 0.8 else DECLINE)

    async def tap_one(self, data: str) -> None:
        """Tap the newest button that begins like this, where one is shown."""
        for bubble in reversed(self.person.history()):
            for button in (one for row in bubble.buttons for one in row):
                if (button.data or "").startswith(data):
                    try:
                        self.taps[await self.person.tap(bubble.id, button.data or "")] += 1
                    except SandboxError:  # it went away meanwhile
                        return
                    return

    async def send(self, text: str) -> None:
        await self.person.send(text)
        self.said += 1

    @property
    def answers(self) -> int:
        return sum(not one.mine for one in self.person.history())


async def test_a_storm_of_two_hundred_people(app_env, caplog):
    """With taps, edits, redeliveries, 429s and blocks: answered once, no exception, no second charge."""
    caplog.set_level(logging.ERROR)
    policy = {"approval": "always", "quota": "3/day", "cooldown": None, "breaker": "{everyone: 10000/5m}",
              "budget": None}  # fmt: skip
    env = await app_env(changes=policy, edit_limits=EDIT_LIMITS)
    visitors = [Visitor(env, number) for number in range(PEOPLE)]
    throttling = asyncio.create_task(_throttle(env))
    await asyncio.gather(*(visitor.play() for visitor in visitors))
    throttling.cancel()
    await asyncio.gather(throttling, return_exceptions=True)
    rows = await _wait_quiet(env, visitors)
    states = Counter(str(video.state if video else request.state) for request, video in rows)
    assert list(checks.paid_once(env.fake_providers, rows)) == []
    assert states[VideoState.DELIVERED] == len(env.fake_provider.charges()) >= PEOPLE // 4, states
    assert [row for row in rows if not is_settled(*row)] == []
    wrong = {one.person.id: (one.said, one.answers) for one in visitors if one.said != one.answers}
    assert wrong == {}, [
        [("> " if b.mine else "") + b.text for b in env.user(user).history()] for user in list(wrong)[:3]
    ]
    answered = {call.params["callback_query_id"] for call in env.api.calls.of("answerCallbackQuery")}
    assert {tap for one in visitors for tap in one.taps} - answered == set()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def _throttle(env: AppEnvironment) -> None:
    """Let Telegram refuse a call with 429 now and then."""
    chance = random.Random(SEED)
    while True:
        await asyncio.sleep(chance.random())
        env.api.fail(chance.choice(LIMITED), Fault.throttled(1), times=chance.randint(1, 3))


async def _wait_quiet(env: AppEnvironment, visitors: list[Visitor]) -> list[RequestAndVideo]:
    """Wait until every update is handled and every request has ended; return the requests.

    People tap what waits for them when the backlog is empty: taps every second would only make it longer.
    """
    deadline, people = Deadline(900), {visitor.person.id: visitor for visitor in visitors}
    for visitor in visitors:
        await visitor.person.unblock()
    for data in (APPROVE, APPROVE, DECLINE, DECLINE):
        while env.api.pending_updates or not all(
            is_settled(*row) for row in await all_requests(env.app.ledger)
        ):
            assert not deadline.is_over, f"{len(env.api.pending_updates)} updates wait"
            await deadline.pause(1)
        rows = await all_requests(env.app.ledger)
        waiting = [one for one, video in rows if video and video.state is VideoState.AWAITING_APPROVAL]
        if not waiting:
            return rows
        for request in waiting:
            await people[request.user_id].tap_one(data)
    raise AssertionError(f"offers that nobody can end: {[one.request_id for one in waiting]}")
