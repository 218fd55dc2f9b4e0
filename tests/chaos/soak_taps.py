"""People of a soak who tap: most take an offer, some twice or late, some decline, some never answer."""

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chat.keyboards import APPROVE, DECLINE
from evals.environment import RequestAndVideo
from guardrails.money import Money
from ledger import people
from ledger.models import Request, Video, VideoState
from sandbox.telegram.base import SandboxError

if TYPE_CHECKING:
    from tests.chaos.soak import Run

NEVER_ASKS = Money.parse("$100")
"""Every second person has lifted the question, so that both ways to an order are walked."""

_PAUSE_S = 0.2
_AGAIN_S = 2.0
_MOST_TAPS = 4
"""A tap may be refused: by a store that is away, or by a limit, which stays. Then the offer is declined."""


@dataclass
class _Plan:
    """What one person does with one offer: `at` is when on the monotonic clock."""

    word: str
    at: float
    taps: int = 0


class Taps:
    """Everybody's taps on the offers of one soak."""

    def __init__(self, run: "Run", chance: random.Random) -> None:
        self._run, self._chance = run, chance
        self._plans: dict[str, _Plan] = {}
        self.hurry = False
        """The traffic has ended: who would have waited taps now."""

    async def lift_questions(self, user_ids: range) -> None:
        """Let every second person be asked nothing."""
        for user_id in user_ids[::2]:
            await people.save(self._run.env.ledger, user_id, ask_below=NEVER_ASKS)

    async def play(self) -> None:
        """Tap until cancelled."""
        while True:
            for request, video in self._run.rows:
                if is_open_offer((request, video)) and video is not None:
                    await self._act(request, video)
            await asyncio.sleep(_PAUSE_S)

    async def _act(self, request: Request, video: Video) -> None:
        plan = self._plans.setdefault(video.nonce or "", self._plan())
        late = plan.word == "never" and not self.hurry
        if late or time.monotonic() < plan.at or request.user_id in self._run.blocked:
            return
        word = DECLINE if plan.word == "declines" or plan.taps >= _MOST_TAPS else APPROVE
        person = self._run.env.api.user(request.user_id)
        with suppress(SandboxError):  # the message does not show it yet, or no longer
            for _ in range(2 if plan.word == "twice" else 1):
                await person.tap(request.status_message_id or 0, f"{word}{video.nonce}")
                self._run.faults[f"offer {plan.word}"] += not plan.taps
            plan.taps += 1
        plan.at = time.monotonic() + _AGAIN_S
        update = person.last_update
        if plan.word == "again" and update is not None:
            await self._run.env.api.redeliver(update.id, 2)

    def _plan(self) -> _Plan:
        words, shares = ("taken", "twice", "again", "declines", "never"), (60, 15, 10, 8, 7)
        return _Plan(self._chance.choices(words, shares)[0], time.monotonic() + self._chance.random())


def is_open_offer(found: RequestAndVideo) -> bool:
    """Return whether a request waits for its person's tap."""
    video = found[1]
    return video is not None and video.state is VideoState.AWAITING_APPROVAL
