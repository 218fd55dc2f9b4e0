"""Performs the events of a case on a stage."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any, Final

from chat.rehearsal.bubbles import Bubble
from chat.rehearsal.faults import Fault
from chat.rehearsal.people import Person
from chat.rehearsal.server import BotApi
from chat.rehearsal.updates import Update
from evals import events
from evals.base import EvalError
from evals.case import Case
from evals.killing import doomed
from evals.proxy import Proxy
from evals.resting import rests
from evals.stage import Stage
from guardrails.policy import parse_span
from ledger import requests
from ledger.rows import Request, Video

FIRST_USER: Final = 1001
FIRST_GROUP: Final = -1_001_000_000_001
_LOOK_S: Final = 0.03


@dataclass
class Sent:
    """A message that a case may name again."""

    bubble: Bubble
    update: Update | None
    api: BotApi
    chat: int | None


@dataclass
class Actors:
    """Everybody and everything that an event may touch.

    Attributes:
        patience_s: How long `rest` and `until` wait at most, if the case does not say.
    """

    case: Case
    stage: Stage
    proxy: Proxy | None
    patience_s: float = 30
    sent: dict[str, Sent] = field(default_factory=dict)
    latest: Sent | None = None

    def __post_init__(self) -> None:
        names = [name for name, one in self.case.people.items() if one.same_as is None]
        self.ids: dict[str, int] = {name: FIRST_USER + n for n, name in enumerate(names)}
        for name, one in self.case.people.items():
            if one.same_as is not None:
                self.ids[name] = self.ids[one.same_as]
        self.groups: Mapping[str, int] = {name: FIRST_GROUP - n for n, name in enumerate(self.case.groups)}
        for name, number in self.groups.items():
            for api in self.stage.apis:
                api.group(number, name)

    def api(self, who: str) -> BotApi:
        return self.stage.apis[self.case.people[who].bot - 1]

    def person(self, who: str) -> Person:
        one = self.case.people[who]
        return self.api(who).user(self.ids[who], one.name, language_code=one.language)

    async def perform(self, event: events.Event) -> None:
        """Let one event happen."""
        await self._do(event)

    @singledispatchmethod
    async def _do(self, event: Any) -> None:
        raise EvalError(f"nobody performs {type(event).__name__}")

    @_do.register
    async def _(self, event: events.Send) -> None:
        person, chat = self.person(event.by), self.groups[event.chat] if event.chat else None
        bubbles = (
            [await person.send(event.send, chat=chat)]
            if len(event.send) <= 4000
            else await person.send_long(event.send)
        )
        self.latest = Sent(bubbles[0], person.last_update, self.api(event.by), chat)
        if event.named:
            self.sent[event.named] = self.latest

    @_do.register
    async def _(self, event: events.Redeliver) -> None:
        sent = self.sent[event.redeliver] if event.redeliver else self.latest
        if sent is None or sent.update is None:
            raise EvalError("nothing was sent yet that could be delivered again")
        await sent.api.redeliver(sent.update.id, event.times)

    @_do.register
    async def _(self, event: events.Edit) -> None:
        sent = self.sent[event.of]
        await self.person(event.by).edit(sent.bubble.id, event.edit, chat=sent.chat)

    @_do.register
    async def _(self, event: events.Forward) -> None:
        await self.person(event.by).forward(self.sent[event.forward].bubble)

    @_do.register
    async def _(self, event: events.Tap) -> None:
        person = self.person(event.by)
        bubble = await person.wait_for(lambda one: _button(one, event.tap) is not None, self.patience_s)
        button = _button(bubble, event.tap) or event.tap
        for _ in range(event.times):
            await person.tap(bubble.id, button)

    @_do.register
    async def _(self, event: events.Rest) -> None:
        await self.rest(event.rest)

    @_do.register
    async def _(self, event: events.Until) -> None:
        async def there() -> bool:
            found = await requests.of_user(self.stage.house.ledger, self.ids[event.by], 1)
            return bool(found) and event.until in (found[0][0].state, found[0][1] and found[0][1].state)

        if not await _wait(there, self.patience_s):
            raise EvalError(f"{event.by}'s request did not come to {event.until}")

    @_do.register
    async def _(self, event: events.Shift) -> None:
        for house in self.stage.everyone:
            house.ledger.shift += parse_span(event.shift)

    @_do.register
    async def _(self, event: events.Together) -> None:
        await asyncio.gather(*map(self.perform, event.together))

    @_do.register
    async def _(self, event: events.Redis) -> None:
        if event.redis == "flush":
            await self.stage.flush()
            return
        if self.proxy is None:
            raise EvalError("this case has no proxy before its Redis")
        if event.redis == "down":
            self.proxy.refuse()
        else:
            self.proxy.mode = "pass" if event.redis == "up" else "swallow once"

    @_do.register
    async def _(self, event: events.Provider) -> None:
        script(self.stage, event.provider)

    @_do.register
    async def _(self, event: events.Telegram) -> None:
        fault = Fault.lost_answer() if event.how == "lost" else Fault(event.how)
        for api in self.stage.apis:
            api.fail(event.telegram, fault, event.times)

    @_do.register
    async def _(self, event: events.Worker) -> None:
        if event.worker == "start":
            await self.stage.employ()
        elif event.at is None:
            raise EvalError("a worker is killed at a point: say `at`")
        else:
            doomed.set_at(event.at)

    async def everything(self) -> list[tuple[Request, Video | None]]:
        """Every request of the stage with its video, oldest first."""
        found: list[tuple[Request, Video | None]] = []
        for user in sorted(set(self.ids.values())):
            found += await requests.of_user(self.stage.house.ledger, user, 1000)
        return sorted(found, key=lambda both: (both[0].created_at, both[0].request_id))

    async def rest(self, seconds: float) -> list[str]:
        """Wait until every update is confirmed and every request rests; return those that do not."""
        left: list[str] = []

        async def quiet() -> bool:
            if any(api.pending_updates for api in self.stage.apis):
                left[:] = ["updates that the bot has not confirmed"]
                return False
            left[:] = [one.request_id for one, video in await self.everything() if not rests(one, video)]
            return not left

        await _wait(quiet, seconds)
        return left


def script(stage: Stage, said: events.Script) -> None:
    """Tell the provider what it does from now on."""
    stage.peer.outcomes.extend(said.script)
    stage.peer.fates.extend(said.fates)
    given = {"hostile": said.hostile, "polls": said.polls, "bills_failed": said.bills_failed}
    for name, value in ({name: one for name, one in given.items() if one is not None} | said.options).items():
        if not hasattr(stage.peer, name):
            raise EvalError(f"{name!r} is not an attribute of the provider; see evals/provider/desk.py")
        setattr(stage.peer, name, value)


def _button(bubble: Bubble, words: str) -> str | None:
    return next((text for text in bubble.button_texts if text.startswith(words)), None)


async def _wait(check: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not await check():
        if time.monotonic() > end:
            return False
        await asyncio.sleep(_LOOK_S)
    return True
