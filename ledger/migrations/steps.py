"""Steps of migrations that keep the version before running: batches, columns, indexes.

A migration runs in one transaction, except for `in_batches` and `create_index`: those commit what was done
before them. So a migration that uses them can be interrupted after each of its steps, and the next start
begins it again from its first one. Every step here finds out what is done already; other DDL in such a
migration must do so too.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from sqlalchemy import Column, ColumnClause, Connection, column, func, inspect, select, table, text

from telemetry.logs import get_logger

log = get_logger(__name__)

BATCH_SIZE: Final = 5_000
"""Rows in one transaction: a fraction of a second, in which those rows are locked (on SQLite, the file)."""

_REPORT_S: Final = 10.0

Step = str | Callable[[Connection, dict[str, Any]], object]
"""An UPDATE with the parameters `low` and `high`, both inclusive, or a function that is given them."""


def in_batches(op: Any, table_name: str, key: str, step: Step, size: int = BATCH_SIZE) -> None:
    """Run `step` for consecutive ranges of `key`, each range in a transaction of its own.

    Args:
        op: Alembic's operations.
        table_name: Whose rows.
        key: A unique column with an index, in whose order the table is walked: each row is read once.
        step: What is done with the rows of one range. It must skip those that are done, because a walk that
            was interrupted begins again: `UPDATE … WHERE key BETWEEN :low AND :high AND … IS NULL`.
        size: Rows in one range.
    """
    with _separate_transactions(op) as begin:
        progress = _Progress(table_name)
        low: Any = None
        while True:
            with begin() as conn:
                found = _next_range(conn, table_name, key, low, size)
                if found is None:
                    break
                if isinstance(step, str):
                    conn.execute(text(step), found)
                else:
                    step(conn, found)
            low = found["high"]
            progress.add(size)
        progress.end()


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


@contextmanager
def _separate_transactions(op: Any) -> Iterator[Callable[[], Any]]:
    """Commit what the migration did so far; give a way to begin transactions; begin its next one at the end.

    Where the caller brought a transaction of its own (tests do), everything stays in that.
    """
    context, conn = op.get_context(), op.get_bind()
    if context._transaction is None:  # noqa: SLF001 - Alembic's own `autocommit_block` does the same

        @contextmanager
        def same() -> Iterator[Connection]:
            yield conn

        yield same
        return
    context._transaction.commit()  # noqa: SLF001
    context._transaction = None  # noqa: SLF001

    @contextmanager
    def own() -> Iterator[Connection]:
        with conn.begin():
            yield conn

    try:
        yield own
    finally:
        context._transaction = conn.begin()  # noqa: SLF001


def add_column(op: Any, table_name: str, new: Column[Any]) -> None:
    """Add a column unless it is there.

    It must be nullable or have a constant server default, so that no row is rewritten.
    """
    if new.name not in {found["name"] for found in inspect(op.get_bind()).get_columns(table_name)}:
        op.add_column(table_name, new)


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
        op.create_index(name, table_name, columns, if_not_exists=True, **options)
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
        op.drop_index(name, table_name, if_exists=True)
        return
    with _concurrently(op):
        op.drop_index(name, table_name, postgresql_concurrently=True, if_exists=True)


def _can_be_concurrent(op: Any) -> bool:
    return op.get_bind().dialect.name == "postgresql" and op.get_context()._transaction is not None  # noqa: SLF001


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
