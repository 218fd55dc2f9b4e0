"""Telegram's sending limits, shared by all workers: priorities, waiting, 429.

Telegram's FAQ for bots ("My bot is hitting limits", https://core.telegram.org/bots/faq) names about 30
messages a second in all, one a second to a chat where short bursts may pass, and 20 a minute to a group.
Edits count like messages.
"""

import asyncio
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final, Literal
from weakref import WeakValueDictionary

from aiogram import Bot
from aiogram.client.session.middlewares.base import BaseRequestMiddleware, NextRequestMiddlewareType
from aiogram.exceptions import TelegramRetryAfter
from aiogram.methods import Response, TelegramMethod
from aiogram.methods.base import TelegramType

from telemetry.logs import get_logger
from telemetry.metrics import SENDS, SENDS_WAITING, THROTTLED
from worker.rate_limits import Rate, RateLimiter

log = get_logger(__name__)

Priority = Literal["final", "offer", "progress"]
"""final: results, refusals, deliveries, alerts, replies. offer: a status message that is new or awaits a tap.
progress: an edit that a later one replaces.
"""

_KEPT_SHARES: Final[Mapping[Priority, int]] = {"final": 0, "offer": 6, "progress": 2}
"""Which part of a burst a priority leaves free: of six units, an offer leaves one and progress three."""

_LIMITED_PREFIXES: Final = ("send", "editMessage", "copyMessage", "forwardMessage")
_FREE_CALLS: Final = frozenset({"sendChatAction"})
"""An action ("is typing") is no message."""

_priority: ContextVar[Priority] = ContextVar("priority", default="final")


@contextmanager
def send_priority(priority: Priority) -> Iterator[None]:
    """Give Bot API calls within the block this priority; without it they are `final`.

    A context variable, because aiogram's methods carry only what Telegram is sent.
    """
    token = _priority.set(priority)
    try:
        yield
    finally:
        _priority.reset(token)


class HeldBack(TelegramRetryAfter):
    """Not sent: our own limit is used up for longer than this call may wait. `retry_after` in seconds.

    It is handled as Telegram's own 429, which it prevents.
    """

    def __init__(self, method: TelegramMethod[Any], wait_s: float) -> None:
        super().__init__(method, "held back before Telegram refuses it", max(1, math.ceil(wait_s)))


# In no second more than 30, in no minute more than 20: see `Rate.most_in`.
_TOTAL: Final = Rate("total", burst=6, every_s=0.04)
_CHAT: Final = Rate("chat", burst=3, every_s=1)
_GROUP: Final = Rate("group", burst=6, every_s=4)


@dataclass(frozen=True, slots=True)
class SendLimits:
    """What one bot may send, over all its processes.

    Attributes:
        total: Of one bot, over all chats.
        chat: Of one chat.
        group: Of one group, in addition to `chat`.
        longest_wait_s: A call that is not a progress edit waits so long in all; then it is held back. A
            handler waits too, and must end within the time that Telegram gives its webhook.
    """

    total: Rate = _TOTAL
    chat: Rate = _CHAT
    group: Rate = _GROUP
    longest_wait_s: float = 10

    def rates(self, bot_id: int, chat_id: int | str | None, priority: Priority) -> list[Rate]:
        """Return the rates that a call takes a unit of: the bot's, then the chat's, then the group's."""
        wanted = [(self.total, f"telegram:{bot_id}:total")]
        if chat_id is not None:
            wanted.append((self.chat, f"telegram:{bot_id}:chat:{chat_id}"))
        if _is_group(chat_id):
            wanted.append((self.group, f"telegram:{bot_id}:group:{chat_id}"))
        share = _KEPT_SHARES[priority]
        return [replace(rate, name=name, keep=rate.burst // share if share else 0) for rate, name in wanted]


def is_limited(api_method: str) -> bool:
    """Return whether calls of this method count toward Telegram's limits."""
    return api_method.startswith(_LIMITED_PREFIXES) and api_method not in _FREE_CALLS


def _is_group(chat_id: int | str | None) -> bool:
    """Return whether 20 a minute apply: groups have negative ids, channels may be named by `@username`."""
    return str(chat_id).startswith(("-", "@"))


class SendLimiter(BaseRequestMiddleware):
    """Lets a call pass when Telegram's limits allow it.

    A progress edit that cannot go now is held back at once. Other calls wait, first come, first served
    within their priority and process; a wait for one chat delays no other. A call of lower priority passes
    only where it leaves units free, so it never delays a more urgent one, in any process.

    Args:
        limiter: Shared by all processes of this bot.
        limits: Telegram's limits.
    """

    def __init__(self, limiter: RateLimiter, limits: SendLimits) -> None:
        self._limiter = limiter
        self._limits = limits
        self._bot_turns: dict[Priority, asyncio.Lock] = {"final": asyncio.Lock(), "offer": asyncio.Lock()}
        self._chat_turns: WeakValueDictionary[tuple[Any, Priority], asyncio.Lock] = WeakValueDictionary()
        self._waiting: dict[Priority, int] = {"final": 0, "offer": 0}

    async def __call__(
        self,
        make_request: NextRequestMiddlewareType[TelegramType],
        bot: Bot,
        method: TelegramMethod[TelegramType],
    ) -> Response[TelegramType]:
        if not is_limited(method.__api_method__):
            return await make_request(bot, method)
        priority, chat_id = _priority.get(), getattr(method, "chat_id", None)
        rates = self._limits.rates(bot.id, chat_id, priority)
        try:
            waited = await self._pass(method, rates, priority)
        except HeldBack:
            SENDS.add(priority=priority, outcome="held_back")
            raise
        SENDS.add(priority=priority, outcome="waited" if waited else "at_once")
        try:
            return await make_request(bot, method)
        except TelegramRetryAfter as error:
            await self._hold(rates, error.retry_after)
            raise

    async def _pass(self, method: TelegramMethod[Any], rates: list[Rate], priority: Priority) -> bool:
        """Return once a unit of every rate is taken; True if that took a wait.

        Raises:
            HeldBack: The call may not wait, or not for so long.
        """
        if priority == "progress":
            grant = await self._limiter.ask(rates)
            if not grant.units:
                raise HeldBack(method, grant.wait_s)
            return False
        self._count_waiting(priority, 1)
        try:
            async with asyncio.timeout(self._limits.longest_wait_s):
                return await self._wait_turn(method, rates, priority)
        except TimeoutError:
            raise HeldBack(method, rates[-1].every_s) from None
        finally:
            self._count_waiting(priority, -1)

    async def _wait_turn(self, method: TelegramMethod[Any], rates: list[Rate], priority: Priority) -> bool:
        """Wait behind earlier calls of this chat, then of this bot: only the first of each asks Redis."""
        deadline = asyncio.get_running_loop().time() + self._limits.longest_wait_s
        chat, total = rates[-1].name, rates[0].name
        turn = self._chat_turns.setdefault((chat, priority), asyncio.Lock())
        waited = turn.locked()
        async with turn:
            while True:
                async with self._bot_turns[priority]:
                    while not (grant := await self._limiter.ask(rates)).units and grant.limit == total:
                        await _sleep_until(method, grant.wait_s, deadline)
                        waited = True
                if grant.units:
                    return waited
                await _sleep_until(method, grant.wait_s, deadline)  # for this chat alone
                waited = True

    def _count_waiting(self, priority: Priority, more: int) -> None:
        self._waiting[priority] += more
        SENDS_WAITING.set(self._waiting[priority], priority=priority)

    async def _hold(self, rates: list[Rate], seconds: float) -> None:
        """Pause what Telegram has refused, in every process.

        Telegram does not say which limit was exceeded. It is taken for the chat's, and for the bot's if
        another chat's call was refused within seconds.
        """
        total, chat = replace(rates[0], keep=0), replace(rates[min(1, len(rates) - 1)], keep=0)
        everything = await self._limiter.hold(chat, seconds, wider=total)
        THROTTLED.add(scope="bot" if everything else "chat")
        log.warning("telegram throttles", all_chats=everything, retry_after=seconds)


async def _sleep_until(method: TelegramMethod[Any], wait_s: float, deadline: float) -> None:
    """Sleep, or give up at once if the wait would end after the deadline.

    Raises:
        HeldBack: It would.
    """
    if asyncio.get_running_loop().time() + wait_s > deadline:
        raise HeldBack(method, wait_s)
    await asyncio.sleep(wait_s)
