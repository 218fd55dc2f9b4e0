"""The tables of the SQL store, and how they are created and migrated. They are the library's own."""

from typing import Final

from sqlalchemy import BigInteger, Column, Connection, Index, Integer, MetaData, String, Table, Text, inspect
from sqlalchemy import insert as insert_into

VERSION: Final = 1
"""Of the tables; goes up with each migration in `_MIGRATIONS`."""

_KEY_LENGTH: Final = 40
_LOCK: Final = 0x6F6E6574616B65
"""Advisory lock under which PostgreSQL creates and migrates."""


class SchemaTooNew(RuntimeError):
    """The tables were migrated by a newer version of this library; install that one."""


class Tables:
    """The tables under one prefix."""

    def __init__(self, prefix: str) -> None:
        self.metadata = MetaData()
        self.versions = Table(
            f"{prefix}versions", self.metadata, Column("version", Integer, primary_key=True)
        )
        self.claims = Table(
            f"{prefix}claims", self.metadata,
            Column("key", String(_KEY_LENGTH), primary_key=True),
            Column("namespace", Text, nullable=False),
            Column("tool", Text, nullable=False),
            Column("act", Text, nullable=False),
            Column("item", Text, nullable=False),
            Column("user", Text, nullable=False),
            Column("state", String(10), nullable=False),
            Column("version", Integer, nullable=False),
            Column("generation", Integer, nullable=False),
            Column("owner", Text, nullable=False),
            Column("arguments", Text, nullable=False),
            Column("digest", Text, nullable=False),
            Column("micros", BigInteger, nullable=False),
            Column("claimed_at", BigInteger, nullable=False),
            Column("changed_at", BigInteger, nullable=False),
            Column("due_at", BigInteger, nullable=False),
            Column("checks", Integer, nullable=False),
            Column("result", Text),
            Column("why", Text, nullable=False),
            Column("by", Text, nullable=False),
        )  # fmt: skip
        columns = self.claims.c
        # The first two hold what a window counts; the last one only what has not ended.
        Index(
            f"ix_{prefix}claims_user", columns.namespace, columns.tool, columns.user, columns.claimed_at,
            columns.state, columns.micros,
        )  # fmt: skip
        Index(
            f"ix_{prefix}claims_all", columns.namespace, columns.tool, columns.claimed_at, columns.state,
            columns.micros,
        )  # fmt: skip
        ended = columns.state.in_(("in_flight", "unknown"))
        Index(
            f"ix_{prefix}claims_due", columns.namespace, columns.due_at,
            sqlite_where=ended, postgresql_where=ended,
        )  # fmt: skip


_MIGRATIONS: Final[dict[int, tuple[str, ...]]] = {}
"""Statements that lead to a version from the one before, by version; `{prefix}` stands in them."""


def create_or_migrate(conn: Connection, tables: Tables, prefix: str) -> None:
    """Bring the tables to `VERSION`, in the caller's transaction.

    Raises:
        SchemaTooNew: They are newer.
    """
    if conn.dialect.name == "postgresql":
        conn.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    if not inspect(conn).has_table(tables.versions.name):
        tables.metadata.create_all(conn)
        conn.execute(insert_into(tables.versions).values(version=VERSION))
        return
    found: int = conn.execute(tables.versions.select()).scalar_one()
    if found > VERSION:
        raise SchemaTooNew(f"the tables {prefix}* have version {found}; this library knows up to {VERSION}")
    for version in range(found + 1, VERSION + 1):
        for statement in _MIGRATIONS[version]:
            conn.exec_driver_sql(statement.format(prefix=prefix))
        conn.execute(tables.versions.update().values(version=version))
