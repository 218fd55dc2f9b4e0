"""Which provider accounts are in use by which bot, and orders whose account is in use by none.

Every order carries the account that quoted it (`videos.account`). Workers say every minute which accounts
they know. An order whose account no worker has known for a while is an orphan: it is ended or held.

Orders of the version before carry none. They get the account that their bot used first for their provider,
whichever process says so: two processes that differ must not divide such orders between them by chance.
"""

from collections.abc import Collection, Mapping
from typing import Final

from sqlalchemy import ColumnElement, and_, func, or_, select, update

from ledger import due_work
from ledger.database import Ledger, transaction
from ledger.due_work import ClaimedVideo
from ledger.models import VideoState
from ledger.schema import accounts, requests, videos
from telemetry.clocks import boot_clock

_BATCH: Final = 500
_DEFAULT: Final = 1


@transaction
async def report_in_use(ledger: Ledger, bot_id: int, known: Mapping[str, str], primary: str) -> None:
    """Say that a worker of this bot knows these accounts now.

    Args:
        ledger: Where it is stored.
        bot_id: The bot.
        known: The provider's name of each account.
        primary: The one that takes new orders. If it is the first of its provider and bot, orders without an
            account belong to it.
    """
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        row = {"bot_id": bot_id, "seen_at": now}
        first = {**row, "account": primary, "provider": known[primary], "adopts": _DEFAULT}
        await conn.execute(ledger.insert_new(accounts).values(first))
        for account, provider in known.items():
            await conn.execute(
                ledger.insert_new(accounts).values({**row, "account": account, "provider": provider})
            )
        await conn.execute(
            update(accounts)
            .where(accounts.c.bot_id == bot_id, accounts.c.account.in_(known))
            .values(seen_at=now)
        )


@transaction
async def adopt_orders(ledger: Ledger, bot_id: int) -> int:
    """Give up to `_BATCH` orders without an account the one that is their bot's and provider's first.

    Returns:
        How many got one; call it again until it is 0.
    """
    async with ledger.write() as conn:
        first = {
            row.provider: row.account
            for row in await conn.execute(
                select(accounts.c.provider, accounts.c.account).where(
                    accounts.c.bot_id == bot_id, accounts.c.adopts == _DEFAULT
                )
            )
        }
        done = 0
        for provider, account in first.items():
            mine = (
                select(videos.c.request_id)
                .join(requests, requests.c.request_id == videos.c.request_id)
                .where(videos.c.account.is_(None), videos.c.provider == provider, requests.c.bot_id == bot_id)
                .order_by(videos.c.due_at.is_(None), videos.c.request_id)  # work in progress first
                .limit(_BATCH)
            )
            rows = await conn.execute(
                update(videos)
                .where(videos.c.account.is_(None), videos.c.request_id.in_(mine))
                .values(account=account)
            )
            done += int(rows.rowcount)
    return done


@transaction
async def claim_orphans(
    ledger: Ledger,
    bot_id: int,
    known: Collection[str],
    own_after_s: float,
    others_after_s: float,
    most: int,
    lease_s: float,
) -> list[ClaimedVideo]:
    """Claim orders that are due and whose account no worker has known for long.

    Args:
        ledger: Where they are stored.
        bot_id: The bot of this process.
        known: The accounts of this process.
        own_after_s: How long an order of this bot is left to other processes.
        others_after_s: The same for an order of another bot, whose workers may all be down.
        most: How many at most, oldest due first.
        lease_s: They are due again then.
    """
    clock, now = boot_clock(), ledger.time()
    async with ledger.write() as conn:
        due = (
            select(videos.c.request_id)
            .join(requests, requests.c.request_id == videos.c.request_id)
            .where(
                videos.c.state.in_(due_work.ACCOUNT_STATES),
                videos.c.due_at <= now,
                or_(videos.c.account.is_(None), videos.c.account.not_in(known)),
                or_(
                    and_(videos.c.state == VideoState.QUEUED, videos.c.expires_at <= now),
                    and_(requests.c.bot_id == bot_id, _unknown_for(own_after_s, now)),
                    _unknown_for(others_after_s, now),
                ),
            )
            .order_by(videos.c.due_at)
            .limit(most)
            .with_for_update(skip_locked=True, of=videos)
        )
        return await due_work.claim_these(ledger, conn, due, due_work.ACCOUNT_STATES, clock, lease_s)


def _unknown_for(seconds: float, now: ColumnElement[int]) -> ColumnElement[bool]:
    """SQL for: no worker has known the order's account for so long, nor was anything written about it."""
    since = now - int(seconds * 1000)
    seen = select(func.max(accounts.c.seen_at)).where(accounts.c.account == videos.c.account)
    return and_(videos.c.updated_at <= since, func.coalesce(seen.scalar_subquery(), 0) <= since)
