"""What the chat remembers of a person for minutes, in Redis, so that every replica knows it.

That it asked for an idea, whose answer is the person's next message; which picture they sent, which wants
words; which message was the first part of an album or of a long text, which Telegram delivers as several; and
which messages were answered. Without Redis nothing is remembered: then a further part and a message that is
delivered again get answers of their own, and an idea is asked about once more.
"""

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from aiogram.types import Message
from redis.exceptions import RedisError

from guardrails.redis_client import RedisClient
from telemetry.logs import get_logger
from tools.text import utf16_units

log = get_logger(__name__)

_TIMEOUT_S: Final = 1.0
_IDEA_S: Final = 600
"""How long an idea that was asked for is awaited."""

_ALBUM_S: Final = 3600
_TAP_S: Final = 10
"""For how long a second tap on the same button is taken for a slip of the finger."""

_PART_S: Final = 60
"""How long the first part of an album, and of a long text, is remembered: longer than redeliveries take."""

_ANSWERED_S: Final = 3600
"""How long a message is known to be answered: longer than redeliveries take."""

EARLIER_PICTURE: Final = "request:"
"""How the place of a picture begins that an earlier request has; else it is a file id of Telegram's."""

SPLIT_UNITS: Final = 4000
"""A text of so many UTF-16 units may go on in the next message: apps split a text after at most 4,096."""

_SPLIT_WITHIN_S: Final = 2

# A message takes the question. It still has it when it is delivered again; no other message does.
_TAKE: Final = """
local mine = redis.call('GET', KEYS[1])
if mine == ARGV[1] then return 1 end
if mine ~= 'asked' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL')
return 1
"""


# The same for a picture, whose place is handed out.
_TAKE_PICTURE: Final = """
local place, taken = unpack(redis.call('HMGET', KEYS[1], 'place', 'taken'))
if not place or (taken and taken ~= ARGV[1]) then return false end
redis.call('HSET', KEYS[1], 'taken', ARGV[1])
return place
"""
_KEEP_PICTURE: Final = """
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'place', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
"""


class Conversations:
    """Remembers in Redis what was asked and what was answered lately.

    Args:
        redis: A client with short timeouts.
        prefix: Of the keys; separates installations that share a server.
        bot_id: Each bot has its own chats.
    """

    def __init__(self, redis: RedisClient, prefix: str, bot_id: int) -> None:
        self._redis: Any = redis
        self._prefix = f"{{{prefix}}}:chat:v1:{bot_id}"

    async def ask_for_idea(self, chat_id: int, user_id: int, parent_id: str | None = None) -> None:
        """Remember that a person was asked for an idea in this chat; for other words of which request."""
        await self._ask(self._redis.delete(self._picture(chat_id, user_id)))
        parent = self._parent(chat_id, user_id)
        if parent_id is None:
            await self._ask(self._redis.delete(parent))
        else:
            await self._ask(self._redis.set(parent, parent_id, ex=_IDEA_S))
        await self._ask(self._redis.set(self._asked(chat_id, user_id), "asked", ex=_IDEA_S))

    async def parent_of_idea(self, message: Message) -> str | None:
        """Return the request that the idea in this message says in other words, if it was asked for that."""
        found = await self._ask(self._redis.get(self._parent(message.chat.id, _sender_id(message))))
        return None if found is None else _text(found)

    async def is_first_tap(self, what: str, query_id: str, seconds: int = _TAP_S) -> bool:
        """Return whether no tap has asked for this within so many seconds; without Redis it is taken for one.

        A tap that is delivered again is no second one, and is not answered by the same thing twice.
        """
        key = f"{self._prefix}:tap:{what}"
        return await self._ask(self._redis.set(key, query_id, nx=True, get=True, ex=seconds)) is None

    async def forget(self, user_id: int, chat_ids: Iterable[int]) -> None:
        """Forget all that is remembered of a person in these chats."""
        for chat_id in chat_ids:
            keys = (
                self._asked(chat_id, user_id),
                self._parent(chat_id, user_id),
                self._picture(chat_id, user_id),
                f"{self._prefix}:long:{chat_id}:{user_id}",
            )
            for key in keys:
                await self._ask(self._redis.delete(key))

    async def takes_idea(self, message: Message) -> bool:
        """Return whether this message is the idea that its sender was asked for, the first one after that."""
        key = self._asked(message.chat.id, _sender_id(message))
        return bool(await self._ask(self._redis.eval(_TAKE, 1, key, _name_of(message))))

    async def keep_picture(self, chat_id: int, user_id: int, place: str) -> None:
        """Remember the picture that the person's next words are for; an idea is not awaited any more."""
        keys = (self._picture(chat_id, user_id), self._asked(chat_id, user_id))
        await self._ask(self._redis.eval(_KEEP_PICTURE, 2, *keys, place, _IDEA_S))

    async def takes_picture(self, message: Message) -> str | None:
        """Return the place of the picture that this message's words are for, the first ones after it."""
        key = self._picture(message.chat.id, _sender_id(message))
        place = await self._ask(self._redis.eval(_TAKE_PICTURE, 1, key, message.message_id))
        return _text(place) if place else None

    async def end(self, chat_id: int, user_id: int) -> None:
        """Forget what a person was asked: they sent a command, or tapped a button, instead."""
        keys = (self._asked(chat_id, user_id), self._picture(chat_id, user_id))
        await self._ask(self._redis.delete(*keys))

    async def is_answered(self, message: Message) -> bool:
        """Return whether this message was handled to the end before: Telegram may deliver it again."""
        return await self._ask(self._redis.get(self._answered(message))) is not None

    async def set_answered(self, message: Message) -> None:
        """Remember that a message was handled to the end."""
        await self._ask(self._redis.set(self._answered(message), 1, ex=_ANSWERED_S))

    async def is_further_part(self, message: Message) -> bool:
        """Return whether the message belongs to an album or a long text whose first part was answered."""
        if message.media_group_id is not None:
            return not await self._is_first_of_album(message)
        if message.text is None:
            return False
        further = not message.text.startswith("/") and await self._continues(message)
        if utf16_units(message.text) >= SPLIT_UNITS and message.message_id:
            value = f"{message.message_id} {int(message.date.timestamp())}"
            await self._ask(self._redis.set(self._long(message), value, ex=_PART_S))
        return further

    async def _is_first_of_album(self, message: Message) -> bool:
        """Claim the answer of an album; a caption has one of its own, because it may hold the command."""
        key = f"{self._prefix}:album:{message.chat.id}:{message.media_group_id}"
        first = await self._claim(key, message)
        return await self._claim(f"{key}:caption", message) if message.caption else first

    async def _claim(self, key: str, message: Message) -> bool:
        held = await self._ask(self._redis.set(key, _name_of(message), nx=True, get=True, ex=_ALBUM_S))
        return held is None or _text(held) == _name_of(message)

    async def _continues(self, message: Message) -> bool:
        held = await self._ask(self._redis.get(self._long(message)))
        if held is None:
            return False
        number, date = map(int, _text(held).split())
        in_time = message.date.timestamp() - date <= _SPLIT_WITHIN_S
        return message.message_id > number and in_time

    def _asked(self, chat_id: int, user_id: int) -> str:
        return f"{self._prefix}:asked:{chat_id}:{user_id}"

    def _answered(self, message: Message) -> str:
        return f"{self._prefix}:answered:{message.chat.id}:{message.message_id}"

    def _parent(self, chat_id: int, user_id: int) -> str:
        return f"{self._prefix}:parent:{chat_id}:{user_id}"

    def _picture(self, chat_id: int, user_id: int) -> str:
        return f"{self._prefix}:picture:{chat_id}:{user_id}"

    def _long(self, message: Message) -> str:
        return f"{self._prefix}:long:{message.chat.id}:{_sender_id(message)}"

    async def _ask(self, command: Any) -> Any:
        """Return Redis' answer; None if there is none in time."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await command
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("conversation not remembered", error=type(error).__name__)
            return None


def _sender_id(message: Message) -> int:
    return message.from_user.id if message.from_user else 0


def _name_of(message: Message) -> str:
    """Return what tells a message from the next: 0 is no id, ephemeral ones have one of their own."""
    return str(message.message_id or f"ephemeral-{message.ephemeral_message_id}")


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
