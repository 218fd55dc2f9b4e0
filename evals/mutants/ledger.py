"""Bugs in the ledger: a missing key, a refund booked twice, limits not recounted, a tap that is believed."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch
from uuid import uuid4

from sqlalchemy.ext.asyncio import AsyncConnection

from evals.mutants.guards import guarded_by
from guardrails.admission import Admission, Decision
from guardrails.guard import guarded
from guardrails.limits import LimitExceeded
from guardrails.money import Money
from ledger import entries, limits, offers, requests
from ledger.database import Ledger
from ledger.models import UNPAID_END_STATES, EntryKind, Request, Video, VideoState
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
        action_id: int | None = None,
    ) -> bool:
        if kind in ("release", "credit"):
            await add(ledger, conn, video, kind, amount, now, job_id, n + 1000, action_id)
        return await add(ledger, conn, video, kind, amount, now, job_id, n, action_id)

    with patch("ledger.entries.add_entry", twice):
        yield


@contextmanager
def no_recount() -> Iterator[None]:
    """An order trusts the counters in Redis, which may be empty or outdated."""

    async def trust(*_: object, **__: object) -> LimitExceeded | None:
        return None

    with patch("ledger.limits.recount", trust):
        yield


@contextmanager
def offer_reserves() -> Iterator[None]:
    """An offer counts as an order does, before anyone has tapped."""
    free = UNPAID_END_STATES | {VideoState.FAILED_PAID}
    with (
        patch.object(limits, "UNCOUNTED_STATES", UNPAID_END_STATES),
        patch.object(limits, "QUOTA_FREE_STATES", free),
        patch.object(Admission, "offer", Admission.reserve),
    ):
        yield


@contextmanager
def tap_not_recounted() -> Iterator[None]:
    """A tap trusts that its offer was checked when it was made."""

    async def admit(*_: object) -> Decision:
        return Decision("admitted")

    async def trust(*_: object, **__: object) -> tuple[None, None]:
        return None, None

    with patch.object(Admission, "confirm", admit), patch.object(offers._Tap, "recount", trust):  # noqa: SLF001 - the bug is put there
        yield


@contextmanager
def change_ignored() -> Iterator[None]:
    """A tap orders what was offered, whatever the price, the model or the account is by now."""
    with patch.object(offers.Terms, "are_those_of", lambda *_: True):
        yield


@contextmanager
def expiry_ignored() -> Iterator[None]:
    """A tap that comes too late orders all the same."""
    standing = offers._Tap.standing  # noqa: SLF001 - the bug is put there

    def in_time(tap: offers._Tap, nonce: str, approved: str | None) -> offers.ApprovalOutcome | None:
        return standing(replace(tap, now=0), nonce, approved)

    with patch.object(offers._Tap, "standing", in_time):  # noqa: SLF001 - as above
        yield


@contextmanager
def older_offers_stay() -> Iterator[None]:
    """A newer request leaves the offers before it open."""

    async def leave(*_: object) -> None:
        return None

    with patch.object(offers, "withdraw_older", leave):
        yield


@contextmanager
def one_key_for_both() -> Iterator[None]:
    """The order of a still has the key of the video's: whichever comes second gets the first one back."""

    def act_alone(request_id: str, tool: str) -> str:
        del tool
        return request_id

    with (
        patch("ledger.orders.order_id", act_alone),
        patch("tools.paid_tool.order_id", act_alone),
        patch("worker.stills.order_id", act_alone),
    ):
        yield
