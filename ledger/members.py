"""Who was invited, and who is banned: kept in SQL, so that it survives restarts and holds in every process.

An invitation is a token in a link; only its digest is stored. A person uses it up once, however often they
open it. A ban says who made it and why; it takes back nothing that was paid.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Final, Literal, NoReturn, cast

from sqlalchemy import (
    BigInteger,
    Column,
    Label,
    String,
    and_,
    bindparam,
    func,
    select,
    text,
    union_all,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger import operator_log
from ledger.database import Ledger, transaction
from ledger.models import Language
from ledger.operator_log import NewAction
from ledger.schema import CANCELLABLE_ORDERS, invites, members, people, requests, videos

Membership = Literal["banned", "member", "unknown"]

JoinOutcome = Literal["joined", "already", "banned", "expired", "used_up", "no_invite"]
"""What became of an opened invitation. `already`: they had joined before, and it costs no use."""

_DAY_MS: Final = 86_400_000
_SOME: Final = 100


@dataclass(frozen=True, slots=True)
class Invite:
    """An invitation: how many may join by it, how many have, until when (milliseconds since the epoch)."""

    uses: int
    used: int
    expires_at: int


class _NotJoined(Exception):  # carries the answer out of a transaction that must roll back
    def __init__(self, outcome: JoinOutcome) -> None:
        super().__init__(outcome)
        self.outcome = outcome


def digest_of(token: str) -> str:
    """Return what is stored of an invitation's token."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a person who writes: whether they may, and in which language they want answers."""

    membership: Membership
    language: Language | None


async def membership(ledger: Ledger, user_id: int) -> Membership:
    """Return whether a person is banned, was invited, or neither."""
    return (await find(ledger, user_id)).membership


@transaction
async def find(ledger: Ledger, user_id: int) -> Known:
    """Return in one statement what is needed of a person at each of their messages."""
    async with ledger.read() as conn:
        row = (await conn.execute(_FIND, {"user": user_id})).one()
    return Known(_membership(row), cast("Language | None", row.language))


def _membership(row: Any) -> Membership:
    if row.banned_at is not None:
        return "banned"
    return "unknown" if row.joined_at is None else "member"


def _of_person(column: Column[Any]) -> Label[Any]:
    mine = column.table.c.user_id == bindparam("user", type_=BigInteger)
    return select(column).where(mine).scalar_subquery().label(column.name)


_FIND: Final = select(
    _of_person(members.c.joined_at), _of_person(members.c.banned_at), _of_person(people.c.language)
)


@transaction
async def ban(ledger: Ledger, user_id: int, who: str, why: str) -> bool:
    """Ban a person; False if they were banned already, whose reason then stays."""
    values = {"banned_at": ledger.time(), "banned_by": who, "ban_reason": why}
    async with ledger.write() as conn:
        done = await conn.execute(
            ledger.upsert(members, {"user_id": user_id}, values, where=members.c.banned_at.is_(None))
        )
        if done.rowcount:
            await operator_log.record(ledger, conn, NewAction("ban", who, why, user_id=user_id))
    return bool(done.rowcount)


@transaction
async def unban(ledger: Ledger, user_id: int, who: str, why: str = "") -> bool:
    """Lift a ban; return whether there was one. A person who was invited before is a member again."""
    mine = (members.c.user_id == user_id, members.c.banned_at.is_not(None))
    lifted = {"banned_at": None, "banned_by": None, "ban_reason": None}
    async with ledger.write() as conn:
        done = await conn.execute(update(members).where(*mine).values(lifted))
        if done.rowcount:
            await operator_log.record(ledger, conn, NewAction("unban", who, why, user_id=user_id))
    return bool(done.rowcount)


@transaction
async def add_invite(ledger: Ledger, token: str, who: str, uses: int, days: int) -> Invite:
    """Store an invitation, unless its token is stored already; return it as it is stored."""
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        row = {
            "digest": digest_of(token), "made_by": who, "made_at": now, "uses": uses,
            "expires_at": now + days * _DAY_MS,
        }  # fmt: skip
        await conn.execute(ledger.insert_new(invites).values(row))
        stored = (await conn.execute(select(invites).where(invites.c.digest == row["digest"]))).one()
    return Invite(stored.uses, stored.used, stored.expires_at)


@transaction
async def end_invite(ledger: Ledger, digest_start: str) -> bool:
    """Let no one else join by this invitation; those who have stay. False if it was over already.

    `digest_start` is what a button has room for: half of the digest.
    """
    async with ledger.write() as conn:
        now = ledger.time()
        begins = func.substr(invites.c.digest, 1, len(digest_start)) == digest_start
        still_open = (begins, invites.c.expires_at > now)
        done = await conn.execute(update(invites).where(*still_open).values(expires_at=now))
    return bool(done.rowcount)


@transaction
async def join(ledger: Ledger, token: str, user_id: int) -> JoinOutcome:
    """Let a person join by an invitation; one use of it for one person, also where two messages race."""
    digest = digest_of(token)
    try:
        async with ledger.write() as conn:
            now = ledger.time()
            new = and_(members.c.joined_at.is_(None), members.c.banned_at.is_(None))
            values = {"joined_at": now, "joined_by": digest}
            # First, so that two messages of one person wait for each other here.
            added = await conn.execute(ledger.upsert(members, {"user_id": user_id}, values, where=new))
            if not added.rowcount:
                row = (await conn.execute(_FIND, {"user": user_id})).one()
                return "banned" if _membership(row) == "banned" else "already"
            usable = (invites.c.digest == digest, invites.c.expires_at > now, invites.c.used < invites.c.uses)
            used = await conn.execute(update(invites).where(*usable).values(used=invites.c.used + 1))
            if not used.rowcount:
                await _refuse(conn, digest)
    except _NotJoined as refused:
        return refused.outcome
    return "joined"


async def _refuse(conn: AsyncConnection, digest: str) -> NoReturn:
    query = select(invites.c.used, invites.c.uses).where(invites.c.digest == digest)
    row = (await conn.execute(query)).first()
    if row is None:
        raise _NotJoined("no_invite")
    raise _NotJoined("used_up" if row.used >= row.uses else "expired")


@transaction
async def unpaid_of_banned(ledger: Ledger, bot_id: int) -> list[str]:
    """Return some requests to this bot that are open or not paid yet, although their person is banned."""
    banned = select(members.c.user_id).where(members.c.banned_at.is_not(None))
    opened = select(requests.c.request_id).where(
        text("requests.state = 'OPEN'"), requests.c.user_id.in_(banned), requests.c.bot_id == bot_id
    )
    unpaid = (
        select(videos.c.request_id)
        .join(requests, requests.c.request_id == videos.c.request_id)
        .where(
            text(f"videos.{CANCELLABLE_ORDERS}"), videos.c.user_id.in_(banned), requests.c.bot_id == bot_id
        )
    )
    async with ledger.read() as conn:
        return list(await conn.scalars(union_all(opened, unpaid).limit(_SOME)))


@transaction
async def people_named(ledger: Ledger, short_id: str) -> set[int]:
    """Return whose requests have these six letters; two people's may."""
    named = select(requests.c.user_id).where(requests.c.short_id == bindparam("name", type_=String))
    async with ledger.read() as conn:
        return set(await conn.scalars(named, {"name": short_id.lower()}))
