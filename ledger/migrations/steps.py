"""Steps of migrations that keep the version before running: batches, columns, indexes.

A migration runs in one transaction, except for the functions here: they commit what was done before them. So
a migration that uses them can be interrupted after each of its steps, and the next start begins it again from
its first one. Every step here finds out what is done already; other DDL in such a migration must do so too.

Processes of the version before write meanwhile. They never wait long for a lock of a migration, and are never
the one that a deadlock ends: a step gives up after `_LOCK_WAITS_S` and is tried again.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from sqlalchemy import Column, ColumnClause, Connection, column, func, inspect, select, table, text
from sqlalchemy.exc import DBAPIError

from telemetry.logs import get_logger

log = get_logger(__name__)

BATCH_SIZE: Final = 2_000
"""Rows in one transaction: a fraction of a second, in which those rows are locked (on SQLite, the file)."""

_LOCK_WAITS_S: Final = (0.1, 0.2, 0.4, 0.8, 0.8, 3.0)
"""How long the first tries of a step wait for a lock; the last one is that of all further tries.

PostgreSQL checks for a deadlock after a second, so up to there the step is what ends. A longer wait is needed
to get past an autovacuum, which yields after a second.
"""

_GIVE_UP_S: Final = 10.0
"""How long one step is tried again; then `ledger.migrate` logs who holds the lock and begins again."""

_PAUSE_S: Final = 0.2
_LOCKED_SQLSTATES: Final = frozenset({"55P03", "40P01"})
_SQLITE_BUSY_CODES: Final = frozenset({5, 6})

_REPORT_S: Final = 10.0

POOLED: Final = "onetake_pooled"
"""The execution option that says that a pooler is in front: nothing outlives a transaction there."""

Step = str | Callable[[Connection, dict[str, Any]], object]
"""An UPDATE with the parameters `low` and `high`, both inclusive, or a function that is given them."""


def is_locked(error: DBAPIError) -> bool:
    """Whether others hold what a statement needs, so that it can be tried again."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    if code is not None:
        return code & 0xFF in _SQLITE_BUSY_CODES
    return getattr(error.orig, "sqlstate", None) in _LOCKED_SQLSTATES


def alone(op: Any, work: Callable[[], object]) -> None:
    """Run `work` in a transaction of its own: DDL of one table, so that it waits for no second lock."""
    with _separate_transactions(op) as begin:
        begin.run(lambda _: work())


def in_batches(op: Any, table_name: str, key: str, step: Step, size: int | None = None) -> None:
    """Run `step` for consecutive ranges of `key`, each range in a transaction of its own.

    Args:
        op: Alembic's operations.
        table_name: Whose rows.
        key: A unique column with an index, in whose order the table is walked: each row is read once.
        step: What is done with the rows of one range. It must skip those that are done, because a walk that
            was interrupted begins again: `UPDATE … WHERE key BETWEEN :low AND :high AND … IS NULL`.
        size: Rows in one range; `BATCH_SIZE` where it is not given.
    """
    size = size or BATCH_SIZE

    def run_step(conn: Connection) -> dict[str, Any] | None:
        found = _next_range(conn, table_name, key, low, size)
        if found is not None and isinstance(step, str):
            conn.execute(text(step), found)
        elif found is not None and callable(step):
            step(conn, found)
        return found

    with _separate_transactions(op) as begin:
        progress = _Progress(table_name)
        low: Any = None
        while (found := begin.run(run_step)) is not None:
            low = found["high"]
            progress.add(size)
        progress.end()


def add_sums(
    op: Any,
    tables: list[str],
    prepare: Callable[[], object],
    query: str,
    order: str,
    add: str,
    before_add: str | None = None,
) -> None:
    """Add what `tables` held before some triggers were there to the sums that the triggers keep.

    No row is counted twice and none is missed. `prepare` runs while no one writes `tables`, and a second
    connection takes its snapshot just then: that holds exactly what was committed before the triggers, and
    they count every change after it. `query` reads the snapshot without a lock, however long it takes, and
    its rows are added to the sums in batches. Run again after an interruption, `prepare` empties the sums and
    all is counted from a new snapshot.

    Args:
        op: Alembic's operations.
        tables: All tables whose changes the triggers count.
        prepare: Creates the triggers unless they are there, and deletes all sums.
        query: A SELECT of the sums of what is there.
        order: Its columns in whose order rows are added: that in which the triggers lock the sums.
        add: An INSERT that adds rows from the table `summed` to those that exist. It has `query`'s columns
            and `n`; take those with `n BETWEEN :low AND :high`, in the order of `n`.
        before_add: A statement before each such INSERT on PostgreSQL: takes the lock of the triggers.
    """
    with _separate_transactions(op) as begin:
        if begin.is_callers:  # in its transaction nothing is seen by another connection
            _lock_tables(begin.conn, tables)
            prepare()
            _sum_up(begin.conn, query, order)
            _add_summed(begin, begin.conn, add, before_add)
            return
        with begin.conn.engine.connect() as reader:

            def start(conn: Connection) -> None:
                _lock_tables(conn, tables)
                prepare()
                _take_snapshot(reader)

            begin.run(start)
            _sum_up(reader, query, order)
            reader.commit()
            reader.execution_options(**_WRITER[reader.dialect.name])
            _add_summed(_Transactions(reader, is_callers=False), reader, add, before_add)


_READER: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {"onetake_read": True},
    "postgresql": {"isolation_level": "REPEATABLE READ"},
}
_WRITER: Final[dict[str, dict[str, Any]]] = {
    "sqlite": {"onetake_read": False},
    "postgresql": {"isolation_level": "READ COMMITTED"},
}


def _lock_tables(conn: Connection, tables: list[str]) -> None:
    if conn.dialect.name == "postgresql":  # on SQLite one writes at a time
        conn.execute(text(f"LOCK TABLE {', '.join(tables)} IN SHARE ROW EXCLUSIVE MODE"))


def _take_snapshot(reader: Connection) -> None:
    reader.rollback()
    reader.execution_options(**_READER[reader.dialect.name])
    reader.execute(text("SELECT count(*) FROM alembic_version"))


def _sum_up(conn: Connection, query: str, order: str) -> None:
    conn.execute(text("DROP TABLE IF EXISTS summed"))
    number = f"row_number() OVER (ORDER BY {order}) AS n"
    conn.execute(
        text(f"CREATE TEMPORARY TABLE summed AS SELECT {number}, found.* FROM ({query}) found")  # noqa: S608 - a migration's own SQL
    )
    conn.execute(text("CREATE UNIQUE INDEX ix_summed_n ON summed (n)"))


def _add_summed(begin: "_Transactions", conn: Connection, add: str, before_add: str | None) -> None:
    def step(low: int, _: Connection) -> None:
        if before_add is not None and conn.dialect.name == "postgresql":
            conn.execute(text(before_add))
        conn.execute(text(add), {"low": low, "high": low + BATCH_SIZE - 1})

    rows = begin.run(lambda _: conn.execute(text("SELECT count(*) FROM summed")).scalar_one())
    progress = _Progress("summed")
    for low in range(1, rows + 1, BATCH_SIZE):
        begin.run(partial(step, low))
        progress.add(BATCH_SIZE)
    progress.end()
    begin.run(lambda _: conn.execute(text("DROP TABLE summed")))


def _next_range(conn: Connection, table_name: str, key: str, after: Any, size: int) -> dict[str, Any] | None:
    cell: ColumnClause[Any] = column(key)
    rows = select(cell).select_from(table(table_name, cell)).order_by(cell).limit(size)
    part = (rows if after is None else rows.where(cell > after)).subquery()
    low, high = conn.execute(select(func.min(part.c[key]), func.max(part.c[key]))).one()
    return None if low is None else {"low": low, "high": high}


class _Progress:
    def __init__(self, table_name: str) -> None:
        self._table, self._rows = table_name, 0
        self._began = self._said = time.monotonic()

    def add(self, rows: int) -> None:
        self._rows += rows
        if time.monotonic() - self._said >= _REPORT_S:
            self._said = time.monotonic()
            log.info("migration under way", table=self._table, rows=self._rows)

    def end(self) -> None:
        if self._said != self._began:
            log.info("migration walked a table", table=self._table, rows=self._rows)


class _Transactions:
    """Runs functions, each in a transaction of its own on `conn`, again while others hold what it needs.

    Where the caller brought a transaction (tests do), everything stays in that, and a lock is an error.
    """

    def __init__(self, conn: Connection, *, is_callers: bool) -> None:
        self.conn, self.is_callers = conn, is_callers

    def run(self, work: Callable[[Connection], Any]) -> Any:
        if self.is_callers:
            return work(self.conn)
        began, waits = time.monotonic(), iter(_LOCK_WAITS_S)
        wait_s = 0.0
        while True:
            wait_s = next(waits, wait_s)
            turn = time.monotonic()
            try:
                with self.conn.begin():
                    self._limit_wait(wait_s)
                    result = work(self.conn)
            except DBAPIError as error:
                if not is_locked(error) or time.monotonic() - began > _GIVE_UP_S:
                    raise
                time.sleep(_PAUSE_S)
            else:
                self._let_others_write(time.monotonic() - turn)
                return result

    def _let_others_write(self, took_s: float) -> None:
        # They ask for SQLite's file again and again, and have to meet a time at which it is free.
        if self.conn.dialect.name == "sqlite":
            time.sleep(min(took_s / 2, _PAUSE_S))

    def _limit_wait(self, wait_s: float) -> None:
        if self.conn.dialect.name == "postgresql":
            self.conn.execute(text(f"SET LOCAL lock_timeout = {wait_s * 1000:.0f}"))


def _is_pooled(conn: Connection) -> bool:
    return bool(conn.get_execution_options().get(POOLED))


@contextmanager
def _separate_transactions(op: Any) -> Iterator[_Transactions]:
    """Commit what the migration did so far; give a way to run transactions; begin its next one at the end.

    Behind a pooler all stays in one transaction: the next would be in another session, without the table of
    sums.
    """
    context, conn = op.get_context(), op.get_bind()
    if _is_pooled(conn) or context._transaction is None:  # noqa: SLF001 - Alembic's own `autocommit_block` does the same
        yield _Transactions(conn, is_callers=True)
        return
    context._transaction.commit()  # noqa: SLF001 - as above
    context._transaction = None  # noqa: SLF001 - as above
    try:
        yield _Transactions(conn, is_callers=False)
    finally:
        context._transaction = conn.begin()  # noqa: SLF001 - as above


def has_trigger(op: Any, name: str) -> bool:
    """Whether a trigger of that name is there, on any table or view."""
    on_sqlite = op.get_bind().dialect.name == "sqlite"
    query = (
        "SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = :name"
        if on_sqlite
        else "SELECT 1 FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
        " WHERE t.tgname = :name AND c.relnamespace = CAST(current_schema() AS regnamespace)"
    )
    return op.get_bind().scalar(text(query), {"name": name}) is not None


def add_column(op: Any, table_name: str, new: Column[Any]) -> None:
    """Add a column unless it is there.

    It must be nullable or have a constant server default, so that no row is rewritten.
    """
    if new.name not in {found["name"] for found in inspect(op.get_bind()).get_columns(table_name)}:
        op.add_column(table_name, new)


def drop_column(op: Any, table_name: str, name: str) -> None:
    """Drop a column if it is there."""
    if name in {found["name"] for found in inspect(op.get_bind()).get_columns(table_name)}:
        op.drop_column(table_name, name)


def rebuild_sqlite_table(op: Any, table_name: str, change: Callable[[str], str]) -> None:
    """Build a table of SQLite again with changed SQL; nothing if the SQL stays the same.

    For what ALTER TABLE cannot do there, as dropping a constraint. Rows are copied aside and back in one
    transaction, which holds the file meanwhile; indexes and triggers are created again.

    Args:
        op: Alembic's operations.
        table_name: Of the table.
        change: Returns the new SQL for the old one. The columns stay the same.
    """
    alone(op, partial(_rebuild, op, table_name, change))


def _rebuild(op: Any, table_name: str, change: Callable[[str], str]) -> None:
    conn = op.get_bind()
    rows = conn.execute(
        text("SELECT type, sql FROM sqlite_master WHERE tbl_name = :name AND sql IS NOT NULL"),
        {"name": table_name},
    ).all()
    [sql] = [row.sql for row in rows if row.type == "table"]
    changed = change(sql)
    if changed == sql:
        return
    columns = ", ".join(found["name"] for found in inspect(conn).get_columns(table_name))
    # Rows of other tables refer to it. Their keys are checked at the commit, when its rows are there again.
    conn.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
    conn.exec_driver_sql(f"CREATE TABLE {table_name}_copy AS SELECT * FROM {table_name}")  # noqa: S608 - ours
    conn.exec_driver_sql(f"DROP TABLE {table_name}")
    conn.exec_driver_sql(changed)
    conn.exec_driver_sql(
        f"INSERT INTO {table_name} ({columns}) SELECT {columns} FROM {table_name}_copy"  # noqa: S608 - ours
    )
    conn.exec_driver_sql(f"DROP TABLE {table_name}_copy")
    for row in rows:
        if row.type != "table":
            conn.exec_driver_sql(row.sql)


def drop_trigger(op: Any, name: str, on: str) -> None:
    """Drop a trigger if it is there, and on PostgreSQL its function, which has the same name."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP TRIGGER IF EXISTS {name}")
        return
    op.execute(f"DROP TRIGGER IF EXISTS {name} ON {on}")
    op.execute(f"DROP FUNCTION IF EXISTS {name}()")


def create_index(op: Any, name: str, table_name: str, columns: list[Any], **options: Any) -> None:
    """Build an index unless it is there; on PostgreSQL concurrently, so that writers do not wait.

    A build that was killed leaves an invalid index, which is dropped and built again.

    Args:
        op: Alembic's operations.
        name: Of the index.
        table_name: Of the table.
        columns: Names, or `text("…")` for an expression.
        options: As of `op.create_index`: `unique`, `sqlite_where`, `postgresql_where`.
    """
    if not _can_be_concurrent(op):
        alone(op, lambda: op.create_index(name, table_name, columns, if_not_exists=True, **options))
        return
    with _concurrently(op):
        if _is_invalid(op.get_bind(), name):
            log.warning("index of an interrupted migration dropped", index=name)
            op.drop_index(name, table_name, postgresql_concurrently=True, if_exists=True)
        op.create_index(
            name, table_name, columns, if_not_exists=True, postgresql_concurrently=True, **options
        )


def drop_index(op: Any, name: str, table_name: str) -> None:
    """Drop an index if it is there; on PostgreSQL concurrently."""
    if not _can_be_concurrent(op):
        alone(op, lambda: op.drop_index(name, table_name, if_exists=True))
        return
    with _concurrently(op):
        op.drop_index(name, table_name, postgresql_concurrently=True, if_exists=True)


def _can_be_concurrent(op: Any) -> bool:
    if _is_pooled(op.get_bind()):
        return False
    begun = op.get_context()._transaction is not None  # noqa: SLF001 - Alembic has no public question
    return op.get_bind().dialect.name == "postgresql" and begun


@contextmanager
def _concurrently(op: Any) -> Iterator[None]:
    with op.get_context().autocommit_block():
        # A concurrent build waits for transactions that are older than it, and blocks no one meanwhile.
        op.execute("SET lock_timeout = 0")
        try:
            yield
        finally:
            op.execute("RESET lock_timeout")


def _is_invalid(conn: Connection, name: str) -> bool:
    query = "SELECT 1 FROM pg_index WHERE NOT indisvalid AND indexrelid = to_regclass(quote_ident(:name))"
    return conn.scalar(text(query), {"name": name}) is not None
