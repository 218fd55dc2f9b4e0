"""Tool calls that were not carried out, beside the request that they came from: names, never values."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from ledger.database import Ledger
from ledger.patience import transaction
from ledger.schema import transitions

_SUBJECT = "call"


@dataclass(frozen=True, slots=True)
class RefusedCall:
    """One call that made nothing: which tool, which word, which layer said it, which arguments it named."""

    request_id: str
    tool: str
    word: str
    layer: str
    arguments: str
    at: int


@transaction
async def record(
    ledger: Ledger, request_id: str, tool: str, word: str, layer: str, arguments: Sequence[str]
) -> None:
    """Write one refused call down. `arguments` are names alone."""
    async with ledger.write() as conn:
        await conn.execute(
            transitions.insert().values(
                request_id=request_id,
                subject=_SUBJECT,
                from_state=layer,
                to_state=word,
                who=tool,
                why=", ".join(arguments),
                at=await ledger.now(conn),
            )
        )


@transaction
async def refused(ledger: Ledger, request_id: str) -> list[RefusedCall]:
    """Return the calls of one request that made nothing, in the order in which they were refused."""
    query = (
        select(transitions)
        .where(transitions.c.request_id == request_id, transitions.c.subject == _SUBJECT)
        .order_by(transitions.c.transition_id)
    )
    async with ledger.read() as conn:
        return [
            RefusedCall(row.request_id, row.who, row.to_state, row.from_state, row.why, row.at)
            for row in await conn.execute(query)
        ]
