"""Storage of chats in SQLite, and the feed of chat events."""

import json
import sqlite3
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sandbox.telegram.base import Bell, SandboxError

KEPT_EVENTS = 2_000
ChatEventKind = Literal["message", "gone", "action", "answer", "results", "payment"]


class Archive:
    """Small JSON documents by kind and key; without a folder, nothing is stored.

    Writes are synchronous on purpose: what was answered is stored, and one person's chat is small.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._db = _open(folder) if folder is not None else None

    def load(self, kind: str) -> dict[str, Any]:
        """Return all documents of one kind, in the order in which they were first written."""
        if self._db is None:
            return {}
        rows = self._db.execute("SELECT key, body FROM document WHERE kind = ? ORDER BY rowid", (kind,))
        return {key: json.loads(body) for key, body in rows}

    def put(self, kind: str, key: str | int, body: Any) -> None:
        if self._db is not None:
            self._db.execute(
                "INSERT INTO document (kind, key, body) VALUES (?, ?, ?)"
                " ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
                (kind, str(key), json.dumps(body)),
            )

    def drop(self, kind: str, key: str | int) -> None:
        if self._db is not None:
            self._db.execute("DELETE FROM document WHERE kind = ? AND key = ?", (kind, str(key)))

    def close(self) -> None:
        if self._db is not None:
            self._db.close()


class Counters:
    """Counters that only grow, also across restarts."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._values: dict[str, int] = archive.load("counter")

    def next(self, name: str, first: int = 1) -> int:
        value = self._values.get(name, first - 1) + 1
        self._values[name] = value
        self._archive.put("counter", name, value)
        return value


def _open(folder: Path) -> sqlite3.Connection:
    path = folder / "rehearsal.sqlite3"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        db = sqlite3.connect(path, isolation_level=None)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute(
            "CREATE TABLE IF NOT EXISTS document"
            " (kind TEXT NOT NULL, key TEXT NOT NULL, body TEXT NOT NULL, UNIQUE (kind, key))"
        )
    except (OSError, sqlite3.Error) as error:
        raise SandboxError(f"cannot keep the chat in {path}: {error}; choose a writable folder") from error
    return db


@dataclass(frozen=True)
class ChatEvent:
    """One change of one chat; `body` depends on the kind and is Bot API JSON where it is a message."""

    number: int
    chat_id: int | str
    kind: ChatEventKind
    body: dict[str, Any] = field(default_factory=dict)


class Feed:
    """The last two thousand events; a reader that falls further behind must read the history again."""

    def __init__(self) -> None:
        self._events: deque[ChatEvent] = deque(maxlen=KEPT_EVENTS)
        self._bell = Bell()
        self.last = 0
        self.closed = False

    def publish(self, chat_id: int | str, kind: ChatEventKind, body: dict[str, Any]) -> None:
        self.last += 1
        self._events.append(ChatEvent(self.last, chat_id, kind, body))
        self._bell.ring()

    def since(self, number: int) -> list[ChatEvent]:
        """Return the events after `number` that are still kept."""
        return [event for event in self._events if event.number > number]

    def missed(self, number: int) -> bool:
        """Return whether events after `number` were already dropped."""
        return bool(self._events) and self._events[0].number > number + 1

    async def beyond(self, number: int, timeout: float | None = None) -> bool:
        """Wait until there is an event after `number`; False on a timeout or when the feed closes."""
        while self.last <= number and not self.closed:
            if not await self._bell.heard(timeout):
                return False
        return self.last > number

    def close(self) -> None:
        self.closed = True
        self._bell.ring()
