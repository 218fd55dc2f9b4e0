"""What is under way and what waits for a person, for whoever looks at the whole house."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from ledger import identity
from ledger.database import Ledger
from ledger.money import Money
from ledger.patience import transaction
from ledger.reports import one_moment, trace_id_of
from ledger.schema import requests, videos
from ledger.words import SETTLED, VideoState

_MOST = 200
_V = VideoState


@dataclass(frozen=True, slots=True)
class Take:
    """One video with the command that it is for. Times are milliseconds since the epoch.

    Attributes:
        updated_at: When it came to its state; it names a HOLD, so that no later one is settled in its place.
        trace_id: Hex, or empty.
    """

    request_id: str
    user_id: int
    idea: str
    state: VideoState
    provider: str
    model: str
    quote: Money
    progress: int
    job_id: str | None
    failure: str | None
    ordered_at: int
    updated_at: int
    trace_id: str

    @property
    def short_id(self) -> str:
        """Six letters for people."""
        return identity.short_id(self.request_id)

    @property
    def key(self) -> str:
        """The idempotency key under which it was sent, if its provider takes one."""
        return identity.provider_key(self.request_id)

    @property
    def seed(self) -> int:
        """The seed that it was sent with: its mark in a provider's list."""
        return identity.seed(self.request_id)


@dataclass(frozen=True, slots=True)
class Pending:
    """What is not settled at `at`: takes on their way and takes on HOLD, oldest first."""

    at: int
    in_flight: list[Take]
    holds: list[Take]


@transaction
async def pending(ledger: Ledger, most: int = _MOST) -> Pending:
    """Return the takes that are neither settled nor forgotten."""
    async with one_moment(ledger) as conn:
        now = await ledger.now(conn)
        rest = videos.c.state.not_in([*SETTLED, _V.HOLD])
        in_flight, holds = [
            [_take(row) for row in await conn.execute(_TAKES.where(which).order_by(order).limit(most))]
            for which, order in (
                (rest, videos.c.ordered_at),
                (videos.c.state == _V.HOLD, videos.c.updated_at),
            )
        ]
    return Pending(now, in_flight, holds)


@transaction
async def latest(ledger: Ledger, user_id: int | None = None, most: int = 20) -> list[Take]:
    """Return the latest takes, in whatever state, newest first."""
    query = _TAKES.order_by(videos.c.ordered_at.desc(), videos.c.request_id).limit(most)
    if user_id is not None:
        query = query.where(videos.c.user_id == user_id)
    async with ledger.read() as conn:
        return [_take(row) for row in await conn.execute(query)]


_TAKES = select(
    *requests.c,
    *(
        videos.c[name].label(f"video_{name}")
        for name in (
            "state", "provider", "model", "quote_micros", "progress", "job_id", "failure",
            "ordered_at", "updated_at",
        )
    ),
).join(videos, videos.c.request_id == requests.c.request_id)  # fmt: skip


def _take(row: Any) -> Take:
    return Take(
        row.request_id, row.user_id, row.idea, VideoState(row.video_state),
        row.video_provider, row.video_model, Money(row.video_quote_micros), row.video_progress,
        row.video_job_id, row.video_failure, row.video_ordered_at, row.video_updated_at, trace_id_of(row),
    )  # fmt: skip
