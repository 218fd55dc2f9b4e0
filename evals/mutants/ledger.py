"""Bugs in the ledger: a missing key, a refund booked twice, limits that are not recounted."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from evals.mutants.guards import guarded_by
from guardrails.guard import guarded
from guardrails.limits import LimitExceeded
from guardrails.money import Money
from ledger import entries, requests
from ledger.database import Ledger
from ledger.models import EntryKind, Request, Video
from ledger.requests import NewRequest


@contextmanager
def no_order_key() -> Iterator[None]:
    """Every call that passes the guard writes a new order; the shipped guard stays."""
    with guarded_by(guarded, lambda: uuid4().hex):
        yield


@contextmanager
def no_request_key() -> Iterator[None]:
    """Every delivery of a command opens a request of its own."""
    opened = requests.open_request

    async def open_new(ledger: Ledger, new: NewRequest) -> tuple[Request, bool]:
        if await requests.find(ledger, new.request_id) is not None:
            new = replace(new, request_id=f"{new.request_id}:{uuid4().hex[:8]}")
        return await opened(ledger, new)

    with patch("ledger.requests.open_request", open_new):
        yield


@contextmanager
def refund_twice() -> Iterator[None]:
    """Book every release and refund twice: the second entry has a number of its own."""
    add = entries.add_entry

    async def twice(
        ledger: Ledger,
        conn: AsyncConnection,
        video: Video,
        kind: EntryKind,
        amount: Money,
        now: int,
        job_id: str | None = None,
        n: int = 1,
    ) -> bool:
        if kind in ("release", "credit"):
            await add(ledger, conn, video, kind, amount, now, job_id, n + 1000)
        return await add(ledger, conn, video, kind, amount, now, job_id, n)

    with patch("ledger.entries.add_entry", twice):
        yield


@contextmanager
def no_recount() -> Iterator[None]:
    """An order trusts the counters in Redis, which may be empty or outdated."""

    async def trust(*_: object) -> LimitExceeded | None:
        return None

    with patch("ledger.limits.recount", trust):
        yield
