"""Copies all rows of a ledger out, and into an empty ledger, each in one transaction.

A copy is made of rows, not of a database's files: what SQLite gave can be put into PostgreSQL, and the other
way round. Rows are copied as they are, so sums that triggers keep (`cost_totals`, `usage_buckets`) are copied
too, with the triggers off. Each table has a digest of its rows that does not depend on their order; after a
restore it is taken again from what the database now holds, before anything is committed.
docs/decisions/0035 says why pg_dump and SQLite's own copies are not used.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, TableClause, column, func, insert, inspect, select, table, text

from guardrails.money import Money
from ledger import migrate
from ledger.database import Ledger, LedgerError
from ledger.schema import entries, metadata

Line = bytes
"""One row: a JSON list of its values, in the order of `TableCopy.columns`."""

OpenTable = Callable[[str], AbstractContextManager[Callable[[Line], object]]]
"""Opens the file of a table by its name; gives the function that adds one line to it."""

ReadTable = Callable[[str], Iterator[Line]]
"""Yields the lines of a table by its name."""

_BATCH: Final = 500
_ENTRY_KINDS: Final = {"hold": "reserved", "release": "released", "charge": "charged", "credit": "credited"}
"""Kinds of entries, and the column of `cost_totals` that sums each of them."""

_VERSION_TABLE: Final = "alembic_version"


class NotEmpty(LedgerError):
    """There are rows where a backup would be put."""


class DamagedCopy(LedgerError):
    """The copy is not what was written, or does not fit its own schema; nothing was committed."""


@dataclass(frozen=True, slots=True)
class TableCopy:
    """One table of a copy.

    Attributes:
        name: Of the table.
        columns: In the order of a line's values.
        rows: How many.
        digest: The sum of the SHA-256 of all lines, in hex: the same for the same rows in any order.
    """

    name: str
    columns: tuple[str, ...]
    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class LedgerCopy:
    """What was copied, at one instant.

    Attributes:
        dialect: Of the database that it came from.
        revision: Of the schema.
        taken_at: The store's time in milliseconds since the epoch.
        tables: Parents before children.
        left_out: Tables in the database that are not the ledger's.
        money: Entries by kind, in micro-dollars.
        agrees: Whether entries, orders and totals had the same sums.
    """

    dialect: str
    revision: str
    taken_at: int
    tables: tuple[TableCopy, ...]
    left_out: tuple[str, ...]
    money: Mapping[str, int]
    agrees: bool


@dataclass(slots=True)
class _Digest:
    rows: int = 0
    total: int = field(default=0)

    def add(self, line: Line) -> None:
        self.rows += 1
        self.total = (self.total + int.from_bytes(hashlib.sha256(line).digest())) % 2**256

    @property
    def hex(self) -> str:
        return f"{self.total:064x}"


async def copy_out(ledger: Ledger, open_table: OpenTable) -> LedgerCopy:
    """Copy every row as of one instant, while others write; changes nothing, migrates nothing.

    No migration runs meanwhile. On SQLite a process that starts waits for the end of the copy.

    Raises:
        LedgerError: There is no ledger, or a newer version has made it.
    """
    if _has_no_file(ledger):
        raise LedgerError(f"there is no ledger {name_of(ledger)}: nothing to back up")

    def work(conn: Connection) -> LedgerCopy:
        conn.execution_options(onetake_read=True)
        with conn.begin():
            revision = migrate.current_revision(conn)
            if revision is None:
                raise LedgerError(f"the ledger {name_of(ledger)} has no tables: nothing to back up")
            check_revision(revision, f"the ledger {name_of(ledger)}")
            now = int(conn.scalar(select(ledger.time())) or 0)
            return _copy_tables(conn, open_table, revision, now)

    async with migrate.migration_lock(ledger) as lock_pid:
        return await migrate.run_locked(ledger, work, lock_pid, isolation_level="REPEATABLE READ")


def _has_no_file(ledger: Ledger) -> bool:
    """Return whether SQLite would make a new file."""
    return ledger.dialect == "sqlite" and not Path((ledger.url.database or "").removeprefix("file:")).exists()


def name_of(ledger: Ledger) -> str:
    """Return the ledger's URL without its password."""
    return ledger.url.render_as_string(hide_password=True)


def check_revision(revision: str, what: str, version: str = "") -> None:
    """Refuse a schema that is not known here.

    Raises:
        LedgerError: A newer version has made it.
    """
    known = migrate.known_revisions()
    if revision not in known:
        by = f"version {version}" if version else "a newer version"
        raise LedgerError(
            f"{what} was made by {by} (revision {revision}, known here up to {known[-1]}); use that one"
        )


def _copy_tables(conn: Connection, open_table: OpenTable, revision: str, now: int) -> LedgerCopy:
    copies, there = [], _tables(conn)
    for name in there:
        if name in metadata.tables:
            rows, digest = _columns(conn, name), _Digest()
            with open_table(name) as write:
                for line in _lines(conn, rows):
                    digest.add(line)
                    write(line)
            copies.append(TableCopy(name, tuple(rows.c.keys()), digest.rows, digest.hex))
    left_out = tuple(name for name in there if name not in metadata.tables)
    money = sums_by_kind(conn)
    return LedgerCopy(
        conn.dialect.name, revision, now, tuple(copies), left_out, money, agrees=_agrees(conn, money)
    )


def _tables(conn: Connection) -> list[str]:
    """Return the tables of the database, parents before children."""
    found = inspect(conn).get_sorted_table_and_fkc_names()
    return [name for name, _ in found if name is not None and name != _VERSION_TABLE]


def _columns(conn: Connection, name: str) -> TableClause:
    """Return a table as the database has it, its columns by name: their order differs by history."""
    found = sorted(inspect(conn).get_columns(name), key=lambda one: one["name"])
    return table(name, *(column(one["name"], one["type"]) for one in found))


def _lines(conn: Connection, rows: TableClause) -> Iterator[Line]:
    query = select(*rows.c).execution_options(yield_per=_BATCH)
    for row in conn.execute(query):
        yield json.dumps(list(row), separators=(",", ":")).encode()


def sums_by_kind(conn: Connection) -> dict[str, int]:
    """Return the micro-dollars of all entries by their kind."""
    found = conn.execute(select(entries.c.kind, func.sum(entries.c.micros)).group_by(entries.c.kind))
    return {str(kind): int(micros) for kind, micros in found}


def _agrees(conn: Connection, money: Mapping[str, int]) -> bool:
    """Return whether orders and totals say what the entries say; both are written by triggers."""
    if not inspect(conn).has_table("cost_totals"):
        return True  # of a version before them
    sums = ", ".join(f"sum({name}) AS {name}" for name in _ENTRY_KINDS.values())
    total = conn.execute(
        text(f"SELECT {sums} FROM cost_totals WHERE period = 'ever' AND dimension = 'all'")  # noqa: S608 - constants
    ).one()
    if any(int(getattr(total, name) or 0) != money.get(kind, 0) for kind, name in _ENTRY_KINDS.items()):
        return False
    paid = int(conn.scalar(text("SELECT sum(cost_micros) FROM videos")) or 0)
    return paid == money.get("charge", 0) - money.get("credit", 0)


def describe(money: Mapping[str, int]) -> str:
    """Return the sums as people read them."""
    words = {"charge": "charged", "credit": "refunded", "hold": "reserved", "release": "released"}
    known = [kind for kind in words if kind in money] + sorted(set(money) - set(words))
    return ", ".join(f"{Money(money[kind])} {words.get(kind, kind)}" for kind in known) or "no entries"


async def check_empty(ledger: Ledger, revision: str) -> None:
    """Refuse a database into which a backup of this revision cannot be put.

    Raises:
        NotEmpty: It has rows, or tables of another version.
    """
    async with ledger.read() as conn:
        await conn.run_sync(lambda sync: _check_empty(sync, name_of(ledger), revision))


def _check_empty(conn: Connection, name: str, revision: str) -> None:
    there = _tables(conn)
    rows = {one: conn.scalar(select(func.count()).select_from(table(one))) for one in there}
    if filled := [f"{one} {count}" for one, count in rows.items() if count]:
        raise NotEmpty(
            f"the ledger {name} is not empty (rows: {', '.join(filled[:4])}{' …' if filled[4:] else ''});"
            " a backup is restored into a new database, so that no two ledgers are mixed"
        )
    found = migrate.current_revision(conn)
    if there and (found is None or found not in migrate.known_revisions() or found > revision):
        raise NotEmpty(
            f"the ledger {name} has tables of another schema ({found or 'none of ours'}, the backup has"
            f" {revision}); a backup is restored into a new database"
        )


async def copy_in(ledger: Ledger, copy: LedgerCopy, read_table: ReadTable) -> None:
    """Make the schema of the copy in an empty database, and put its rows there in one transaction.

    The schema stays that of the copy: the next start upgrades it, and the version that made the copy can
    start on it. A process that is killed leaves no rows, and the copy can be put there again.

    Raises:
        NotEmpty: There are rows, or tables of another version.
        DamagedCopy: Lines, digests or sums are not those of the copy.
    """
    from alembic import command  # noqa: PLC0415 - a third of a second, which other commands do not need

    def upgrade(conn: Connection) -> None:
        command.upgrade(migrate.alembic_config(conn), copy.revision)

    def work(conn: Connection) -> None:
        with conn.begin():
            _put(conn, name_of(ledger), copy, read_table)

    async with migrate.migration_lock(ledger) as lock_pid:
        await check_empty(ledger, copy.revision)
        await ledger.engine.dispose()  # on SQLite a reader would keep tables as they were
        await migrate.run_locked(ledger, upgrade, lock_pid)
        await migrate.run_locked(ledger, work, lock_pid)
    await ledger.engine.dispose()


def _put(conn: Connection, name: str, copy: LedgerCopy, read_table: ReadTable) -> None:
    there = _tables(conn)
    _lock_tables(conn, there)
    _check_empty(conn, name, copy.revision)
    if {one.name for one in copy.tables} != set(there):
        raise DamagedCopy(f"the backup does not have the tables of revision {copy.revision}")
    with _without_triggers(conn, there):
        for one in copy.tables:
            _put_table(conn, one, read_table(one.name))
    _check_put(conn, copy)


def _lock_tables(conn: Connection, names: Iterable[str]) -> None:
    """Keep others out until the end; SQLite's transaction does so by itself."""
    if conn.dialect.name != "sqlite":
        quoted = ", ".join(map(_quote(conn), names))
        conn.execute(text(f"LOCK TABLE {quoted} IN ACCESS EXCLUSIVE MODE"))


def _quote(conn: Connection) -> Callable[[str], str]:
    return conn.dialect.identifier_preparer.quote


@contextmanager
def _without_triggers(conn: Connection, names: Iterable[str]) -> Iterator[None]:
    """Take the triggers off during the block; a rollback puts them back as well."""
    if conn.dialect.name != "sqlite":
        quoted = list(map(_quote(conn), names))
        for one in quoted:
            conn.execute(text(f"ALTER TABLE {one} DISABLE TRIGGER USER"))
        yield
        for one in quoted:
            conn.execute(text(f"ALTER TABLE {one} ENABLE TRIGGER USER"))
        return
    # SQLite cannot switch them off: they are dropped and made again, within the transaction.
    found = conn.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").all()
    for trigger, _ in found:
        conn.exec_driver_sql(f"DROP TRIGGER {_quote(conn)(trigger)}")
    yield
    for _, statement in found:
        conn.exec_driver_sql(statement)


def _put_table(conn: Connection, one: TableCopy, lines: Iterator[Line]) -> None:
    rows, digest = _columns(conn, one.name), _Digest()
    if tuple(rows.c.keys()) != one.columns:
        raise DamagedCopy(f"the backup does not have the columns of {one.name} of its revision")
    while batch := list(islice(lines, _BATCH)):
        for line in batch:
            digest.add(line)
        conn.execute(insert(rows), [dict(zip(one.columns, json.loads(line), strict=True)) for line in batch])
    if (digest.rows, digest.hex) != (one.rows, one.digest):
        raise DamagedCopy(
            f"the backup is damaged: {one.name} has {digest.rows} rows, or other ones than its {one.rows}"
        )
    _move_sequence(conn, one)


def _move_sequence(conn: Connection, one: TableCopy) -> None:
    """Let PostgreSQL count on after the highest number; SQLite does so by itself."""
    key = metadata.tables[one.name].autoincrement_column
    if conn.dialect.name == "sqlite" or key is None or not one.rows:
        return
    # Names of our own schema alone.
    highest = f"SELECT max({key.name}) FROM {_quote(conn)(one.name)}"  # noqa: S608
    sequence = f"pg_get_serial_sequence('{one.name}', '{key.name}')"
    conn.execute(text(f"SELECT setval({sequence}, ({highest}))"))


def _check_put(conn: Connection, copy: LedgerCopy) -> None:
    """Compare what the database now holds with the copy, before it is committed."""
    for one in copy.tables:
        found = _Digest()
        for line in _lines(conn, _columns(conn, one.name)):
            found.add(line)
        if (found.rows, found.hex) != (one.rows, one.digest):
            raise DamagedCopy(f"{one.name} was not restored as it was; nothing is kept of it")
    money = sums_by_kind(conn)
    if money != dict(copy.money) or _agrees(conn, money) != copy.agrees:
        raise DamagedCopy(
            f"the sums differ: {describe(copy.money)} in the backup, {describe(money)} restored"
        )
