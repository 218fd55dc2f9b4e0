"""The history of one request: every move, every refused call and every entry, in the order of their times."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select

from ledger.database import Ledger, LedgerError
from ledger.identity import short_id
from ledger.money import Money
from ledger.patience import transaction
from ledger.reports import one_moment, trace_id_of
from ledger.schema import entries, requests, transitions
from ledger.tallies import DAY_MS

_LONGEST: Final = 200


class NoSuchRequest(LedgerError):
    """No request has that name; the message says what was asked for."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a history.

    Attributes:
        at: Milliseconds since the epoch.
        subject: `request`, `video`, `call` (one that made nothing) or `entry`.
        what: The move, the call's answer, or the entry's kind.
        who: Who moved it, the tool, or the entry's cause.
        why: In the words of whoever wrote it.
        amount: Of an entry.
    """

    at: int
    subject: str
    what: str
    who: str
    why: str
    amount: Money | None = None


@dataclass(frozen=True, slots=True)
class History:
    """What the ledger knows about one request. `trace_id` is hex, or empty."""

    request_id: str
    user_id: int
    created_at: int
    trace_id: str
    events: list[Event]

    @property
    def short_id(self) -> str:
        """Six letters for people."""
        return short_id(self.request_id)


@transaction
async def history(ledger: Ledger, wanted: str) -> History:
    """Return the history of the request that `wanted` names: by its id, or by its six letters.

    Raises:
        NoSuchRequest: There is none; or two, and the whole id is needed.
    """
    async with one_moment(ledger) as conn:
        name = wanted.strip().lstrip("#")
        row = (await conn.execute(select(requests).where(requests.c.request_id == name))).first()
        if row is None:
            # The six letters are a hash of the id, so every id is looked at.
            ids = await conn.scalars(select(requests.c.request_id))
            found = [one for one in ids if short_id(one) == name.lower()]
            if len(found) != 1:
                known = f"{len(found)} requests are called" if found else "there is no request"
                raise NoSuchRequest(f"{known} {wanted[:_LONGEST]!r}; give its id or its six letters")
            row = (await conn.execute(select(requests).where(requests.c.request_id == found[0]))).one()
        lines = await conn.execute(
            select(transitions)
            .where(transitions.c.request_id == row.request_id)
            .order_by(transitions.c.transition_id)
        )
        booked = await conn.execute(
            select(entries).where(entries.c.request_id == row.request_id).order_by(entries.c.entry_id)
        )
        events = _merged([_moved(one) for one in lines], [_entry(one) for one in booked])
    return History(row.request_id, row.user_id, row.created_at, trace_id_of(row), events)


def _merged(moves: Sequence[Event], booked: Sequence[Event]) -> list[Event]:
    # Stable: what one transaction wrote at one time stays together, the move before its money.
    return sorted([*moves, *booked], key=lambda event: event.at)


def _moved(row: Any) -> Event:
    if row.subject == "call":
        return Event(row.at, "call", row.to_state, row.who, f"layer {row.from_state}; named: {row.why}")
    frm = f"{row.from_state} → " if row.from_state else ""
    return Event(row.at, row.subject, f"{frm}{row.to_state}", row.who, row.why)


def _entry(row: Any) -> Event:
    return Event(row.at, "entry", row.kind, row.cause, "", Money(row.micros))


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often one tool was called again in vain for one request, as one layer of the house said."""

    request_id: str
    user_id: int
    tool: str
    layer: str
    calls: int
    last_at: int

    @property
    def short_id(self) -> str:
        """Six letters for people."""
        return short_id(self.request_id)


@transaction
async def repeats(ledger: Ledger, days: int = 1, most: int = 50) -> list[Repeats]:
    """Return the duplicates prevented in so many UTC days, by request, tool and layer; newest first."""
    last = func.max(transitions.c.at)
    group = (
        transitions.c.request_id, requests.c.user_id, transitions.c.who, transitions.c.from_state,
    )  # fmt: skip
    query = (
        select(*group, func.count(), last)
        .join(requests, requests.c.request_id == transitions.c.request_id)
        .where(transitions.c.subject == "call", transitions.c.to_state == "replay")
        .group_by(*group)
        .order_by(last.desc())
        .limit(most)
    )
    async with ledger.read() as conn:
        since = (await ledger.now(conn) // DAY_MS - days + 1) * DAY_MS
        query = query.where(transitions.c.at >= since)
        return [Repeats(*row) for row in await conn.execute(query)]
