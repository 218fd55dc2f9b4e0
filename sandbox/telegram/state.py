"""The state of the local Telegram: messages, callback queries, and all parts of one server."""

import random
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.telegram.base import Clock, bad_request
from sandbox.telegram.business import BusinessStore
from sandbox.telegram.chats import ChatRegistry, ChatUser
from sandbox.telegram.faults import CallLog, FaultStore
from sandbox.telegram.files import FileStore
from sandbox.telegram.flood import FloodControl
from sandbox.telegram.inline import InlineStore
from sandbox.telegram.stars import StarStore
from sandbox.telegram.storage import Archive, Counters, Feed
from sandbox.telegram.updates import UpdateQueue, WebhookSender

Message = dict[str, Any]
CALLBACK_LIFETIME = 150.0
FEATURES = {
    "can_join_groups": True,
    "can_read_all_group_messages": False,  # privacy mode, which is on unless a bot's owner turns it off
    "supports_inline_queries": True,
    "can_connect_to_business": True,
    "has_main_web_app": False,
    "has_topics_enabled": False,
    "allows_users_to_create_topics": False,
}
"""What a bot's owner chose; getMe says it."""
MAX_ANSWER = 200


@dataclass(frozen=True)
class Record:
    """A message and the number of its last change; readers keep the higher revision.

    Attributes:
        extra: What people's apps show of it and the Bot API's Message has no field for: `interface` (a
            keyboard or a forced reply), `reactions` by person, `author` of an anonymous message,
            `payload` of an invoice.
    """

    message: Message
    revision: int
    extra: dict[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        return {"message": self.message, "revision": self.revision, "extra": self.extra}


Place = int | str
"""What names a conversation here: a chat's id, or a business connection and the customer's id."""


def place_of(chat_id: int, connection_id: str = "") -> Place:
    """Return the conversation: a customer's chat with an account has the id of their chat with the bot."""
    return f"{connection_id}:{chat_id}" if connection_id else chat_id


def _place(message: Message) -> Place:
    return place_of(message["chat"]["id"], message.get("business_connection_id", ""))


def found_at(message: Message) -> tuple[Place, int]:
    """Return what finds a message: its conversation and its number there."""
    return _place(message), number_of(message)


def number_of(message: Message) -> int:
    """Return what finds a message in its chat: its id, or minus the id of an ephemeral one, whose id is 0."""
    return int(
        -message["ephemeral_message_id"] if "ephemeral_message_id" in message else message["message_id"]
    )


class MessageStore:
    def __init__(self, archive: Archive, counters: Counters, feed: Feed) -> None:
        self._archive = archive
        self._counters = counters
        self._feed = feed
        self._chats: dict[Place, dict[int, Record]] = {}
        for row in archive.load("message").values():
            record = Record(**row)
            self._chat(_place(record.message))[number_of(record.message)] = record

    def next_id(self, chat_id: int) -> int:
        """Return a new id. Private chats share one counter, each supergroup has its own, as in Telegram."""
        return self._counters.next("message" if chat_id > 0 else f"message:{chat_id}")

    def next_ephemeral(self, chat_id: int) -> int:
        """Return a new id of an ephemeral message: they are counted by themselves."""
        return self._counters.next(f"ephemeral:{chat_id}")

    def put(self, message: Message, **extra: Any) -> Message:
        """Add a message, or replace the one with its id, and publish the change."""
        place, message_id = _place(message), number_of(message)
        before = self.record(place, message_id)
        kept = before.extra if before else {}
        record = Record(message, self._counters.next("revision"), {**kept, **extra})
        self._chat(place)[message_id] = record
        self._archive.put("message", f"{place}:{message_id}", record.json())
        self._feed.publish(place, "message", record.json())
        return message

    def react(self, chat_id: int, message_id: int, who: int, emoji: str) -> str:
        """Set or, with an empty word, remove the reaction of one person or bot; return the one before."""
        record = self.record(chat_id, message_id)
        if record is None:
            return ""
        reactions = dict(record.extra.get("reactions", {}))
        before: str = reactions.pop(str(who), "")
        after = {**reactions, str(who): emoji} if emoji else reactions
        if before != emoji:
            self.put(record.message, reactions=after)
        return before

    def remove(self, chat_id: int, message_id: int) -> bool:
        if self._chat(chat_id).pop(message_id, None) is None:
            return False
        self._archive.drop("message", f"{chat_id}:{message_id}")
        self._feed.publish(chat_id, "gone", {"message_id": message_id})
        return True

    def find(self, place: Place, message_id: int) -> Message | None:
        record = self.record(place, message_id)
        return record.message if record else None

    def record(self, place: Place, message_id: int) -> Record | None:
        return self._chat(place).get(message_id)

    def of(self, place: Place) -> Iterator[Record]:
        """Return the chat's messages, oldest first."""
        return iter(tuple(self._chat(place).values()))

    def _chat(self, place: Place) -> dict[int, Record]:
        return self._chats.setdefault(place, {})


class CallbackStore:
    def __init__(self, archive: Archive, clock: Clock, feed: Feed) -> None:
        self._archive = archive
        self._clock = clock
        self._feed = feed
        self._open: dict[str, dict[str, Any]] = archive.load("tap")
        self._opened: dict[str, float] = {}

    def open(self, user_id: int, chat_id: int) -> str:
        """Return a new query id for a tap."""
        query_id = str((user_id << 32) + secrets.randbits(32))
        ends = self._clock.now() + self._clock.time_limit(CALLBACK_LIFETIME)
        self._open[query_id] = {"chat_id": chat_id, "user_id": user_id, "ends": ends}
        self._opened[query_id] = self._clock.now()
        self._archive.put("tap", query_id, self._open[query_id])
        return query_id

    def opened_at(self, query_id: str) -> float | None:
        """Return the Unix time of a tap, answered or not; None for an unknown one."""
        return self._opened.get(query_id)

    def answer(self, query_id: str, text: str, *, alert: bool) -> None:
        """Answer a tap once.

        Raises:
            ApiError: 400 when the id is unknown, already answered or over 150 s old.
        """
        tap = self._open.pop(query_id, None)
        self._archive.drop("tap", query_id)
        if tap is None or tap["ends"] < self._clock.now():
            raise bad_request("query is too old and response timeout expired or query ID is invalid")
        if len(text) > MAX_ANSWER:
            raise bad_request("MESSAGE_TOO_LONG")
        body = {"query_id": query_id, "user_id": tap["user_id"], "text": text, "alert": alert}
        self._feed.publish(tap["chat_id"], "answer", body)


@dataclass(frozen=True)
class World:
    """All state of one local Bot API server."""

    token: str
    bot: dict[str, Any]
    clock: Clock
    archive: Archive
    feed: Feed
    chats: ChatRegistry
    messages: MessageStore
    files: FileStore
    updates: UpdateQueue
    callbacks: CallbackStore
    webhook_sender: WebhookSender
    faults: FaultStore
    flood: FloodControl
    calls: CallLog
    commands: dict[str, list[dict[str, Any]]]
    profile: dict[str, str]
    features: dict[str, bool]
    business: BusinessStore
    inline: InlineStore
    stars: StarStore

    def person(self, user_id: int, first_name: str, language_code: str, username: str) -> ChatUser:
        """Return the person with this id; created at first use."""
        if user_id not in self.chats.users:
            self.chats.keep(
                ChatUser(user_id, first_name or f"Person {user_id}", language_code or "en", username)
            )
        return self.chats.users[user_id]


def build_world(
    token: str,
    username: str,
    name: str,
    clock: Clock,
    flood: FloodControl,
    media: Path,
    state: Path | None,
    seed: int,
) -> World:
    """Build the state; with the folder `state`, load what was stored there."""
    rng = random.Random(seed)  # noqa: S311  # reproducible, not secret
    archive, feed = Archive(state), Feed()
    counters = Counters(archive)
    updates = UpdateQueue(archive, counters, clock, first_id=rng.randrange(10**8, 9 * 10**8))
    return World(
        token=token,
        bot={"id": int(token.partition(":")[0]), "is_bot": True, "first_name": name, "username": username},
        clock=clock,
        archive=archive,
        feed=feed,
        chats=ChatRegistry(archive),
        messages=MessageStore(archive, counters, feed),
        files=FileStore(media, archive, counters),
        updates=updates,
        callbacks=CallbackStore(archive, clock, feed),
        webhook_sender=WebhookSender(updates, clock, rng),
        faults=FaultStore(),
        flood=flood,
        calls=CallLog(),
        commands=archive.load("commands"),
        profile=archive.load("profile"),
        features=dict(FEATURES),
        business=BusinessStore(archive, clock),
        inline=InlineStore(archive, clock, feed),
        stars=StarStore(archive, counters, clock, feed),
    )
