"""The telling: one task at a time tells a user about one request. A lease in SQL says until when.

The lease is `told_after`, before which `sweep` wakes nobody for this request; so a teller that died is
replaced when its lease ends, and what was put off waits the same way.
"""

from sqlalchemy import update

from ledger.database import Ledger
from ledger.patience import transaction
from ledger.schema import requests


@transaction
async def take(ledger: Ledger, request_id: str, lease_s: float) -> bool:
    """Take the telling of one request for `lease_s` seconds; False if another has it or it was put off."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        done = await conn.execute(
            update(requests)
            .where(requests.c.request_id == request_id, requests.c.told_after <= now)
            .values(told_after=now + int(lease_s * 1000))
        )
    return bool(done.rowcount)


@transaction
async def put_off(ledger: Ledger, request_id: str, seconds: float) -> None:
    """Let nobody tell this request for so long: to keep a lease, to obey Telegram; 0 gives it back."""
    async with ledger.write() as conn:
        after = await ledger.now(conn) + int(seconds * 1000)
        await conn.execute(
            update(requests).where(requests.c.request_id == request_id).values(told_after=after)
        )
