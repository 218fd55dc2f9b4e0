"""Reads entries in the order in which they were booked, in batches, for an export."""

from dataclasses import dataclass
from typing import Final

from sqlalchemy import select

from guardrails.money import Money
from ledger.database import Ledger, transaction
from ledger.schema import entries, operator_actions, videos
from telemetry.redaction import short_id

_BATCH: Final = 1000
_KINDS: Final = {"credit": "refund"}
"""The word of the glossary for a stored one."""


@dataclass(frozen=True, slots=True)
class EntryLine:
    """One entry; `who` and `why` are of a correction, else empty. `at` is milliseconds since the epoch."""

    entry_id: int
    at: int
    request_id: str
    user_id: int
    kind: str
    amount: Money
    job_id: str
    n: int
    model: str
    who: str
    why: str

    @property
    def short_id(self) -> str:
        """The six letters by which people name the request."""
        return short_id(self.request_id)


@transaction
async def entry_lines(
    ledger: Ledger, since: int, until: int, user_id: int | None = None, after: int = 0, most: int = _BATCH
) -> list[EntryLine]:
    """Return a batch of the entries of a time, of one user or of everyone, after an entry."""
    query = (
        select(entries, videos.c.provider, videos.c.model, operator_actions.c.who, operator_actions.c.why)
        .join(videos, videos.c.request_id == entries.c.request_id)
        .outerjoin(operator_actions, operator_actions.c.action_id == entries.c.action_id)
        .where(entries.c.at >= since, entries.c.at < until, entries.c.entry_id > after)
        .order_by(entries.c.entry_id)
        .limit(most)
    )
    if user_id is not None:
        query = query.where(entries.c.user_id == user_id)
    async with ledger.read() as conn:
        return [
            EntryLine(
                row.entry_id, row.at, row.request_id, row.user_id, _KINDS.get(row.kind, row.kind),
                Money(row.micros), row.job_id or "", row.n, f"{row.provider}/{row.model}", row.who or "",
                row.why or "",
            )
            for row in await conn.execute(query)
        ]  # fmt: skip
