"""Where the rehearsal keeps its state over restarts: one SQLite file, or nowhere at all."""

import json
import sqlite3
from pathlib import Path
from typing import Any

from chat.rehearsal.errors import RehearsalError


class Archive:
    """Small JSON documents by kind and key; without a folder it forgets everything it is told.

    Writes are synchronous on purpose: an answered call has been kept, and one person's chat is small.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._db = _open(folder) if folder is not None else None

    def load(self, kind: str) -> dict[str, Any]:
        """All documents of one kind, in the order in which they were first written."""
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
    """Numbers that only grow, over restarts too."""

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
        raise RehearsalError(
            f"cannot keep the chat in {path}: {error}; choose a folder that you may write to"
        ) from error
    return db
