"""The state of the local Telegram: users, groups, messages, callback queries."""

import random
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sandbox.telegram.base import Clock, bad_request, forbidden
from sandbox.telegram.faults import CallLog, FaultStore
from sandbox.telegram.files import FileStore
from sandbox.telegram.flood import FloodControl
from sandbox.telegram.storage import Archive, Counters, Feed
from sandbox.telegram.updates import UpdateQueue, WebhookSender

Message = dict[str, Any]
CALLBACK_LIFETIME = 150.0
MAX_ANSWER = 200


@dataclass
class ChatUser:
    """One person. `started` says whether they ever wrote to the bot, which may not write first."""

    id: int
    first_name: str
    language_code: str = "en"
    username: str = ""
    started: bool = False
    blocked: bool = False

    def user(self) -> dict[str, Any]:
        base = {"id": self.id, "is_bot": False, "first_name": self.first_name}
        named = {**base, "username": self.username} if self.username else base
        return {**named, "language_code": self.language_code} if self.language_code else named

    def chat(self) -> dict[str, Any]:
        base = {"id": self.id, "first_name": self.first_name, "type": "private"}
        return {**base, "username": self.username} if self.username else base


@dataclass
class Group:
    """One supergroup, as the bot meets it.

    Attributes:
        kicked: The bot was removed.
        muted: The bot may read and not send.
        refusal: Telegram's name of an error with which it refuses every message, such as `CHAT_RESTRICTED`.
        unnumbered: Telegram answers the bot's messages with the id 0, as for those that it schedules.
        topics: The forum's topics by id, and whether each is closed; without any it is no forum. 1 is the
            general one, to which a message without a topic goes.
    """

    id: int
    title: str
    kicked: bool = False
    muted: bool = False
    refusal: str = ""
    unnumbered: bool = False
    topics: dict[str, bool] = field(default_factory=dict)

    def chat(self) -> dict[str, Any]:
        forum = {"is_forum": True} if self.topics else {}
        return {"id": self.id, "title": self.title, "type": "supergroup", **forum}

    def check_rights(self, kind: str, thread: int) -> None:
        """Refuse what the bot may not send: `kind` is a text message or a media, `thread` a topic or 0.

        Raises:
            ApiError: 400 in the Bot API server's words.
        """
        if self.refusal:
            raise bad_request(self.refusal)
        if self.muted:
            raise bad_request(f"not enough rights to send {kind} to the chat")
        if thread and str(thread) not in self.topics:
            raise bad_request("message thread not found")
        if self.topics.get(str(thread or 1)):
            raise bad_request("TOPIC_CLOSED")


@dataclass
class ChatRegistry:
    _archive: Archive
    users: dict[int, ChatUser] = field(default_factory=dict)
    groups: dict[int, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.users |= {row["id"]: ChatUser(**row) for row in self._archive.load("person").values()}
        self.groups |= {row["id"]: Group(**row) for row in self._archive.load("group").values()}

    def keep(self, who: ChatUser | Group) -> None:
        """Store a new or changed person or group."""
        if isinstance(who, ChatUser):
            self.users[who.id] = who
        else:
            self.groups[who.id] = who
        self._archive.put("person" if isinstance(who, ChatUser) else "group", who.id, asdict(who))

    def chat(self, chat_id: str) -> ChatUser | Group:
        """Return the chat that a call names.

        Raises:
            ApiError: 400 when none is named or known.
        """
        if not chat_id:
            raise bad_request("chat_id is empty")
        number = int(chat_id) if chat_id.lstrip("-").isdigit() else 0
        found = self.users.get(number) or self.groups.get(number)
        if found is None:
            raise bad_request("chat not found")
        return found

    def writable(self, chat_id: str) -> ChatUser | Group:
        """Return the chat, if the bot may write there.

        Raises:
            ApiError: 400 when unknown, 403 when the person blocked the bot or never started it.
        """
        found = self.chat(chat_id)
        if isinstance(found, Group):
            if found.kicked:
                raise forbidden("bot was kicked from the supergroup chat")
        elif found.blocked:
            raise forbidden("bot was blocked by the user")
        elif not found.started:
            raise forbidden("bot can't initiate conversation with a user")
        return found


@dataclass(frozen=True)
class Record:
    """A message and the number of its last change; readers keep the higher revision."""

    message: Message
    revision: int


class MessageStore:
    def __init__(self, archive: Archive, counters: Counters, feed: Feed) -> None:
        self._archive = archive
        self._counters = counters
        self._feed = feed
        self._chats: dict[int, dict[int, Record]] = {}
        for row in archive.load("message").values():
            record = Record(row["message"], row["revision"])
            self._chat(record.message["chat"]["id"])[record.message["message_id"]] = record

    def next_id(self, chat_id: int) -> int:
        """Return a new id. Private chats share one counter, each supergroup has its own, as in Telegram."""
        return self._counters.next("message" if chat_id > 0 else f"message:{chat_id}")

    def put(self, message: Message) -> Message:
        """Add a message, or replace the one with its id, and publish the change."""
        chat_id, message_id = message["chat"]["id"], message["message_id"]
        record = Record(message, self._counters.next("revision"))
        self._chat(chat_id)[message_id] = record
        self._archive.put(
            "message", f"{chat_id}:{message_id}", {"message": message, "revision": record.revision}
        )
        self._feed.publish(chat_id, "message", {"message": message, "revision": record.revision})
        return message

    def remove(self, chat_id: int, message_id: int) -> bool:
        if self._chat(chat_id).pop(message_id, None) is None:
            return False
        self._archive.drop("message", f"{chat_id}:{message_id}")
        self._feed.publish(chat_id, "gone", {"message_id": message_id})
        return True

    def find(self, chat_id: int, message_id: int) -> Message | None:
        record = self._chat(chat_id).get(message_id)
        return record.message if record else None

    def of(self, chat_id: int) -> Iterator[Record]:
        """Return the chat's messages, oldest first."""
        chat = self._chat(chat_id)
        return (chat[message_id] for message_id in sorted(chat))

    def _chat(self, chat_id: int) -> dict[int, Record]:
        return self._chats.setdefault(chat_id, {})


class CallbackStore:
    def __init__(self, archive: Archive, clock: Clock, feed: Feed) -> None:
        self._archive = archive
        self._clock = clock
        self._feed = feed
        self._open: dict[str, dict[str, Any]] = archive.load("tap")

    def open(self, user_id: int, chat_id: int) -> str:
        """Return a new query id for a tap."""
        query_id = str((user_id << 32) + secrets.randbits(32))
        ends = self._clock.now() + self._clock.time_limit(CALLBACK_LIFETIME)
        self._open[query_id] = {"chat_id": chat_id, "user_id": user_id, "ends": ends}
        self._archive.put("tap", query_id, self._open[query_id])
        return query_id

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
    )
