"""The tables and statements of the SQL store, for SQLite and PostgreSQL alike.

Parameters are numbered (`$1`, on SQLite `?1`). Column names are quoted: `user` and `key` are words of SQL.
"""

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final, Literal

from .claims import Claim, Usage, Windows

Dialect = Literal["sqlite", "postgresql"]

VERSION: Final = 1
"""Of the tables; goes up with each of `_MIGRATIONS`."""

_FIELDS: Final = tuple(one.name for one in fields(Claim))
_INTEGERS: Final = frozenset(
    {"version", "generation", "micros", "claimed_at", "changed_at", "due_at", "checks"}
)
_COLUMNS: Final = ", ".join(f'"{name}"' for name in _FIELDS)
_OPEN: Final = "state IN ('in_flight', 'unknown')"
_COUNTED: Final = "namespace = $1 AND tool = $2 AND state <> 'free'"

_MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {}
"""Statements that lead to a version from the one before, by version; `{prefix}` stands for the prefix."""


class SchemaTooNew(RuntimeError):
    """The tables were migrated by a newer version of this library; install that one."""


class Statements:
    """The statements for tables of one prefix, in one dialect."""

    def __init__(self, prefix: str, dialect: Dialect) -> None:
        self._prefix, self._dialect = prefix, dialect
        table = f"{prefix}claims"
        numbers = [f"${n}" for n in range(1, len(_FIELDS) + 1)]
        changes = ", ".join(f'"{name}" = {n}' for name, n in zip(_FIELDS[1:], numbers[1:], strict=True))
        tools = {
            "sqlite": "SELECT value FROM json_each($3)",
            "postgresql": "SELECT json_array_elements_text(CAST($3 AS json))",
        }[dialect]
        self.read = self._written(f'SELECT {_COLUMNS} FROM {table} WHERE "key" = $1')
        self.insert = self._written(f"INSERT INTO {table} ({_COLUMNS}) VALUES ({', '.join(numbers)})")
        self.update = self._written(f'UPDATE {table} SET {changes} WHERE "key" = $1')
        self.user_usage = self._written(
            "SELECT count(*) FILTER (WHERE claimed_at > $4), max(claimed_at) FILTER (WHERE claimed_at > $5), "
            "sum(micros) FILTER (WHERE claimed_at > $6) "
            f'FROM {table} WHERE {_COUNTED} AND "user" = $3 AND claimed_at > $7'
        )
        self.all_usage = self._written(
            f"SELECT sum(micros) FROM {table} WHERE {_COUNTED} AND claimed_at > $3"
        )
        starts = f"SELECT claimed_at, micros FROM {table} WHERE {_COUNTED} AND claimed_at > $3"
        self.all_starts = self._written(f"{starts} ORDER BY claimed_at")
        self.user_starts = self._written(f'{starts} AND "user" = $4 ORDER BY claimed_at')
        listed = f"SELECT {_COLUMNS} FROM {table} WHERE namespace = $1 AND {_OPEN}"
        self.due = self._written(
            f"{listed} AND due_at <= $2 AND (state = 'in_flight' OR tool IN ({tools})) "
            'ORDER BY due_at, "key" LIMIT $4'
        )
        self.pending = self._written(
            f"{listed} AND (state = 'unknown' OR due_at <= $2) ORDER BY changed_at, \"key\" LIMIT $3"
        )

        self.forget = self._written(
            f"DELETE FROM {table} WHERE namespace = $1 AND state IN ('done', 'free') AND changed_at < $2 "
            'RETURNING "key"'
        )

    def _written(self, statement: str) -> str:
        return re.sub(r"\$(\d+)", r"?\1", statement) if self._dialect == "sqlite" else statement

    @property
    def found_version(self) -> str:
        """The statement that reads the version of the tables."""
        return f"SELECT version FROM {self._prefix}versions"

    @property
    def version_table(self) -> str:
        """The statement that makes the table of the version, where it is not there."""
        return f"CREATE TABLE IF NOT EXISTS {self._prefix}versions (version INTEGER PRIMARY KEY)"

    def steps(self, found: int | None) -> list[str]:
        """Return the statements that lead from a version (None: no tables) to `VERSION`.

        Raises:
            SchemaTooNew: The tables are newer.
        """
        prefix = self._prefix
        if found is None:
            return [*self._creation(), f"INSERT INTO {prefix}versions VALUES ({VERSION})"]
        if found > VERSION:
            raise SchemaTooNew(
                f"the tables {prefix}* have version {found}; this library knows up to {VERSION}"
            )
        steps = [one.format(prefix=prefix) for n in range(found + 1, VERSION + 1) for one in _MIGRATIONS[n]]
        return [*steps, f"UPDATE {prefix}versions SET version = {VERSION}"] if found < VERSION else []

    def _creation(self) -> list[str]:
        name = f"{self._prefix}claims"
        columns = ", ".join(f'"{one}" {_type(one)}' for one in _FIELDS)
        counted = "state, micros"
        return [
            f"CREATE TABLE {name} ({columns})",
            # The first two hold what a window counts; the last one only what has not ended.
            f'CREATE INDEX {name}_user ON {name} (namespace, tool, "user", claimed_at, {counted})',
            f"CREATE INDEX {name}_all ON {name} (namespace, tool, claimed_at, {counted})",
            f"CREATE INDEX {name}_due ON {name} (namespace, due_at) WHERE {_OPEN}",
        ]


def _type(field: str) -> str:
    if field == "key":
        return "TEXT PRIMARY KEY"
    kind = "BIGINT" if field in _INTEGERS else "TEXT"
    return kind if field == "result" else f"{kind} NOT NULL"


def claim_of(row: Sequence[Any]) -> Claim:
    """Return the claim in a row of `read`, `due` or `pending`."""
    return Claim(**dict(zip(_FIELDS, row, strict=True)))


def row_of(claim: Claim) -> tuple[Any, ...]:
    """Return a claim as `insert` and `update` take it."""
    return tuple(getattr(claim, name) for name in _FIELDS)


def usage_of(user_row: Sequence[Any] | None, all_row: Sequence[Any] | None) -> Usage:
    """Return the usage in rows of `user_usage` and `all_usage`."""
    count, last_at, micros = user_row or (0, 0, 0)
    return Usage(int(count), int(last_at or 0), int(micros or 0), int(all_row[0] or 0) if all_row else 0)


def user_values(windows: Windows, namespace: str, tool: str, user: str) -> tuple[Any, ...]:
    """Return the values of `user_usage`."""
    since = (windows.quota, windows.cooldown, windows.user_budget)
    return namespace, tool, user, *since, min(since)
