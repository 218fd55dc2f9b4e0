"""Counts the transactions and statements that a ledger sends."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import event

from ledger.database import Ledger


@dataclass
class StatementCounts:
    """What was sent. BEGIN and COMMIT are not statements here: a transaction implies them."""

    transactions: int = 0
    statements: list[str] = field(default_factory=list)


@contextmanager
def count_statements(*ledgers: Ledger) -> Iterator[StatementCounts]:
    """Count what is sent through `ledgers` during the block."""
    counts = StatementCounts()

    def begin(_: Any) -> None:
        counts.transactions += 1

    def execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        if not statement.startswith("BEGIN"):  # on SQLite our own
            counts.statements.append(statement)

    hooks = [("begin", begin), ("before_cursor_execute", execute)]
    for ledger in ledgers:
        for name, hook in hooks:
            event.listen(ledger.engine.sync_engine, name, hook)
    try:
        yield counts
    finally:
        for ledger in ledgers:
            for name, hook in hooks:
                event.remove(ledger.engine.sync_engine, name, hook)
