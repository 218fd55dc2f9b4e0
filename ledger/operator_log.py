"""What operators did: one row for each act, with a name and a reason. Rows are added only."""

from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import uuid4

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import Money
from ledger.database import Ledger, transaction
from ledger.schema import operator_actions
from telemetry.redaction import short_id

ActionWord = Literal[
    "refund",
    "charge",
    "end",
    "resolve",
    "breaker_open",
    "breaker_close",
    "grant",
    "ban",
    "unban",
    "redeliver",
]
"""What an operator can do. The first three are corrections (`ledger.corrections`)."""

_WHO_MAX: Final = 80
_WHY_MAX: Final = 500


@dataclass(frozen=True, slots=True)
class NewAction:
    """An act to be written. `source` names what asked for it: the same one is written once."""

    action: ActionWord
    who: str
    why: str = ""
    request_id: str | None = None
    user_id: int | None = None
    job_id: str | None = None
    amount: Money | None = None
    detail: str = ""
    source: str = field(default_factory=lambda: f"once:{uuid4()}")


@dataclass(frozen=True, slots=True)
class Action:
    """One act. `at` is milliseconds since the epoch; `detail` is in our words, `why` in the operator's."""

    action_id: int
    at: int
    who: str
    action: str
    request_id: str | None
    user_id: int | None
    job_id: str | None
    amount: Money | None
    detail: str
    why: str

    @property
    def short_id(self) -> str:
        """The six letters by which people name its request; empty without one."""
        return short_id(self.request_id) if self.request_id else ""


async def record(ledger: Ledger, conn: AsyncConnection, new: NewAction) -> int | None:
    """Write an act in the transaction that does it; return its id, or None where its source is known."""
    row = {
        "source": new.source, "who": new.who[:_WHO_MAX], "action": new.action, "request_id": new.request_id,
        "user_id": new.user_id, "job_id": new.job_id, "detail": new.detail, "why": new.why[:_WHY_MAX],
        "micros": None if new.amount is None else new.amount.micros, "at": await ledger.now(conn),
    }  # fmt: skip
    done = await conn.execute(ledger.insert_new(operator_actions).values(row))
    if not done.rowcount:
        return None
    query = select(operator_actions.c.action_id).where(operator_actions.c.source == new.source)
    return int((await conn.execute(query)).scalar_one())


@transaction
async def latest(ledger: Ledger, skip: int = 0, most: int = 50) -> tuple[int, list[Action]]:
    """Return how many acts there are, and a page of them, newest first."""
    query = select(operator_actions).order_by(operator_actions.c.action_id.desc()).limit(most).offset(skip)
    async with ledger.read() as conn:
        count = (await conn.execute(select(func.count()).select_from(operator_actions))).scalar_one()
        return count, [_action(row) for row in await conn.execute(query)]


def _action(row: Any) -> Action:
    amount = None if row.micros is None else Money(row.micros)
    return Action(
        row.action_id, row.at, row.who, row.action, row.request_id, row.user_id, row.job_id, amount,
        row.detail, row.why,
    )  # fmt: skip
