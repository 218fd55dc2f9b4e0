"""Performs the events of a case on the app environment."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import singledispatchmethod
from typing import Any, Final

from redis.asyncio import Redis

from evals import events
from evals.case import Case
from evals.environment import AppEnvironment, is_settled, prices
from evals.events import EvalError
from evals.faults import fault_injector, raise_fault
from evals.waiting import comes_true
from guardrails.money import Money
from guardrails.policy import parse_duration
from ledger import requests
from ledger.models import Request, Video
from sandbox.proxy import Proxy
from sandbox.telegram.bubbles import Bubble
from sandbox.telegram.faults import Fault
from sandbox.telegram.server import BotApiServer
from sandbox.telegram.updates import Update
from sandbox.telegram.user import Person

FIRST_GROUP: Final = -1_001_000_000_001
_COMPLETE: Final = b":everyone"
_DAY_S: Final = 86_400
_LONGEST_MESSAGE: Final = 4000
_POLL_S: Final = 0.05
"""A check reads the ledger, and its CPU is missed by what it waits for."""

_RUN_TAIL_S: Final = 5.0


class RedisActions:
    """What events do to the Redis of one environment."""

    def __init__(self, env: AppEnvironment) -> None:
        self._env = env
        self._snapshot: dict[bytes, tuple[int, bytes]] = {}

    async def forget(self) -> None:
        """Delete the guard's keys, as if they had expired; the one that is renewed, with the epoch, stays."""
        client = self._client()
        try:
            tag = f"{{{self._env.app.settings.key_prefix}}}:".encode()
            names = [name async for name in client.scan_iter() if name.startswith(tag)]
            for name in names:
                if not name.endswith(_COMPLETE):
                    await client.delete(name)
        finally:
            await client.aclose()

    async def snapshot(self) -> None:
        """Save all keys, as a replica that gets no further updates."""
        client = self._client()
        try:
            found = {}
            async for name in client.scan_iter():
                dump = await client.dump(name)
                if dump is not None:
                    found[name] = (max(0, await client.pttl(name)), dump)
            self._snapshot = found
        finally:
            await client.aclose()

    async def fail_over(self, proxy: Proxy) -> None:
        """Restore the snapshot: every later write is lost, and every connection is cut."""
        client = self._client()
        try:
            await client.flushall()
            for name, (ttl, dump) in self._snapshot.items():
                await client.restore(name, ttl, dump, replace=True)
        finally:
            await client.aclose()
        proxy.cut()

    def _client(self) -> Any:
        return Redis.from_url(self._env.config.redis_url)


def skip_message_ids(number: int | None, api: BotApiServer, chat: int) -> None:
    """Use up the message ids before `number`.

    Raises:
        EvalError: The id is already used.
    """
    while number is not None and number > 1 and (last := api.world.messages.next_id(chat)) != number - 1:
        if last >= number:
            raise EvalError(f"message {number} is used already")


async def deliver_again(api: BotApiServer, update: Update, event: events.Redeliver) -> None:
    """Deliver an update again, as the event says."""
    if not event.renumbered:
        await api.redeliver(update.id, event.times)
        return
    for _ in range(event.times):
        api.world.updates.push(update.kind, update.body, update.lane, _DAY_S)


def button_of(bubble: Bubble, prefix: str) -> str | None:
    """Return the text of a message's first button that begins with `prefix`."""
    return next((text for text in bubble.button_texts if text.startswith(prefix)), None)


class EventMissed(Exception):
    """What an event waits for did not happen; the case stops there and is scored as it is."""


@dataclass
class SentMessage:
    """A sent message that later events may refer to."""

    bubble: Bubble
    update: Update | None
    api: BotApiServer
    chat: int | None


@dataclass
class EventPerformer:
    """Performs events, and keeps what later events refer to.

    Attributes:
        settle_timeout_s: How long events that wait do so at most.
    """

    case: Case
    env: AppEnvironment
    proxy: Proxy | None
    settle_timeout_s: float = 30
    sent: dict[str, SentMessage] = field(default_factory=dict)
    latest: SentMessage | None = None

    def __post_init__(self) -> None:
        self.redis_actions = RedisActions(self.env)
        self.ids = self.case.ids
        self.groups: Mapping[str, int] = {name: FIRST_GROUP - n for n, name in enumerate(self.case.groups)}
        for name, number in self.groups.items():
            for api in self.env.apis:
                api.group(number, name)

    def api(self, who: str) -> BotApiServer:
        return self.env.apis[self.case.people[who].bot - 1]

    def person(self, who: str) -> Person:
        one = self.case.people[who]
        return self.api(who).user(self.ids[who], one.name, language_code=one.language)

    async def perform(self, event: events.CaseEvent) -> None:
        """Perform one event."""
        await self._do(event)

    @singledispatchmethod
    async def _do(self, event: Any) -> None:
        raise EvalError(f"{type(event).__name__} is not an event that can be performed")

    @_do.register
    async def _(self, event: events.Send) -> None:
        person, chat = self.person(event.by), self.groups[event.chat] if event.chat else None
        text = event.send if event.padded is None else _padded(event.send, event.padded)
        skip_message_ids(event.number, self.api(event.by), chat or person.id)
        quoted = self.sent[event.quotes].bubble.id if event.quotes else None
        if len(text) > _LONGEST_MESSAGE:
            bubbles = await person.send_long(text)
        else:
            bubbles = [
                await person.send(text, chat=chat, reply_to=quoted, topic=event.topic, newer=event.newer)
            ]
        self.latest = SentMessage(bubbles[0], person.last_update, self.api(event.by), chat)
        if event.named:
            self.sent[event.named] = self.latest

    @_do.register
    async def _(self, event: events.Redeliver) -> None:
        sent = self.sent[event.redeliver] if event.redeliver else self.latest
        if sent is None or sent.update is None:
            raise EvalError("no message was sent yet that could be delivered again")
        await deliver_again(sent.api, sent.update, event)

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
        bubble = await self._bubble(
            event.by, lambda one: button_of(one, event.tap) is not None, f"the button {event.tap!r}"
        )
        button = button_of(bubble, event.tap) or event.tap
        for _ in range(event.times):
            await person.tap(bubble.id, button)
        self.latest = SentMessage(bubble, person.last_update, self.api(event.by), None)

    @_do.register
    async def _(self, event: events.Rest) -> None:
        await self.rest(event.rest)

    @_do.register
    async def _(self, event: events.Until) -> None:
        async def reached() -> bool:
            found = await requests.list_for_user(self.env.app.ledger, self.ids[event.by], 1)
            return bool(found) and event.until in (found[0][0].state, found[0][1] and found[0][1].state)

        if not await comes_true(reached, self.settle_timeout_s, _POLL_S):
            raise EventMissed(f"{event.by}'s request did not reach {event.until}")

    @_do.register
    async def _(self, event: events.Hear) -> None:
        await self._bubble(event.by, lambda one: event.hear in one.text, repr(event.hear))

    @_do.register
    async def _(self, event: events.Shift) -> None:
        for app in self.env.all_apps:
            app.ledger.shift += parse_duration(event.shift)

    @_do.register
    async def _(self, event: events.Together) -> None:
        await asyncio.gather(*map(self.perform, event.together))

    @_do.register
    async def _(self, event: events.Redis) -> None:
        if event.redis == "flush":
            await self.env.flush()
        elif event.redis == "forget":
            await self.redis_actions.forget()
        elif event.redis == "snapshot":
            await self.redis_actions.snapshot()
        elif self.proxy is None:
            raise EvalError("this case has no proxy in front of its Redis")
        else:
            await self._on_connection(event, self.proxy)

    async def _on_connection(self, event: events.Redis, proxy: Proxy) -> None:
        if event.redis == "down":
            proxy.refuse()
            if event.seconds is not None:
                asyncio.get_running_loop().call_later(event.seconds, setattr, proxy, "mode", "pass")
        elif event.redis == "failover":
            await self.redis_actions.fail_over(proxy)
        elif event.redis == "lose_reply" and event.to is not None:
            proxy.lose_reply_to(event.to.encode())
        else:
            proxy.mode = "pass" if event.redis == "up" else "swallow once"

    @_do.register
    async def _(self, event: events.ProviderChange) -> None:
        await script(self.env, event.provider)

    @_do.register
    async def _(self, event: events.PriceChange) -> None:
        per_second = Money.parse(event.price)
        for app in self.env.all_apps:
            for provider in app.worker.providers.values():
                provider._prices = prices(per_second)  # type: ignore[attr-defined]  # noqa: SLF001 - as after a restart
        for fake_provider in self.env.fake_providers:
            fake_provider.cents_per_second = per_second.micros // 10_000

    @_do.register
    async def _(self, event: events.Telegram) -> None:
        for api in self.env.apis:
            if event.how == "healed":
                api.heal()
            else:
                api.fail(event.telegram, _fault(event), event.times)

    @_do.register
    async def _(self, event: events.GroupChange) -> None:
        given = event.model_dump(exclude={"group"}, exclude_none=True)
        for api in self.env.apis:
            api.change_group(self.groups[event.group], **given)

    @_do.register
    async def _(self, event: events.Block) -> None:
        await self.person(event.block).block()

    @_do.register
    async def _(self, event: events.Worker) -> None:
        if event.worker == "start":
            await self.env.start_worker()
        elif event.at is None:
            raise EvalError(f"`worker: {event.worker}` needs `at`, a failpoint")
        else:
            fault_injector.set_at(event.at, raise_fault if event.worker == "stumble" else None)

    @_do.register
    async def _(self, event: events.When) -> None:
        fault_injector.set_at(event.when, lambda: self.perform(event.do))

    async def _bubble(self, who: str, fits: Callable[[Bubble], bool], what: str) -> Bubble:
        """Wait for a message in a person's private chat.

        Raises:
            EventMissed: There was none in time.
        """
        found: list[Bubble] = []
        person = self.person(who)

        async def seen() -> bool:
            found.extend(one for one in person.history() if fits(one))
            return bool(found)

        if not await comes_true(seen, self.settle_timeout_s, _POLL_S):
            raise EventMissed(f"{who} did not get {what}")
        return found[0]

    async def everything(self) -> list[tuple[Request, Video | None]]:
        """Return every request with its video, oldest first."""
        found: list[tuple[Request, Video | None]] = []
        for user in sorted(set(self.ids.values())):
            found += await requests.list_for_user(self.env.app.ledger, user, 1000)
        return sorted(found, key=lambda both: (both[0].created_at, both[0].request_id))

    async def rest(self, seconds: float) -> list[str]:
        """Wait until every update is confirmed and every request is settled; return those that are not."""
        left: list[str] = []

        async def settled() -> bool:
            if any(api.pending_updates for api in self.env.apis):
                left[:] = ["updates that the bot has not confirmed"]
                return False
            left[:] = [one.request_id for one, video in await self.everything() if not is_settled(one, video)]
            return not left

        await comes_true(settled, seconds, _POLL_S)
        # A video may be here before the run that ordered it has made its last call. Some cases hang a run on
        # purpose, so this wait is short and proves nothing.
        await comes_true(self.env.is_run_over, min(seconds, _RUN_TAIL_S))
        return left


def _fault(event: events.Telegram) -> Fault:
    if event.how == "lost":
        return Fault.lost_answer()
    if event.how == "refused" or event.how == "healed":  # noqa: PLR1714 - mypy narrows by `==`
        return Fault.refused(event.code, event.words)
    return Fault(event.how)


async def script(env: AppEnvironment, change: events.ProviderScript) -> None:
    """Change the provider's behavior from now on."""
    if change.away is not None:
        await (env.fake_provider.stop_listening() if change.away else env.fake_provider.start_listening())
    env.fake_provider.outcomes.extend(change.script)
    env.fake_provider.fates.extend(change.fates)
    given = {"hostile": change.hostile, "polls": change.polls, "bills_failed": change.bills_failed}
    for name, value in (
        {name: one for name, one in given.items() if one is not None} | change.options
    ).items():
        if not hasattr(env.fake_provider, name):
            raise EvalError(f"{name!r} is not an attribute of the provider; see sandbox/video_api/server.py")
        setattr(env.fake_provider, name, value)


def _padded(text: str, length: int) -> str:
    """Repeat the text after the command up to `length` characters."""
    words = text.partition(" ")[2] or text
    return f"{text} {words * (length // len(words))}"[:length]
