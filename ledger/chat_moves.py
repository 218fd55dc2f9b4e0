"""Where requests are spoken of, when that changes: a group that moves, loses the bot, or has it back.

Request ids and what is derived from them never change: they name the chat in which the command was sent. Only
what is still to be shown moves; ended requests stay with the chat that they were in.
"""

from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import BigInteger, Select, bindparam, func, or_, select, text, union, update
from sqlalchemy.ext.asyncio import AsyncConnection

from ledger.database import Ledger, transaction
from ledger.schema import ACTIVE_ORDERS, requests, videos

_DAY_MS: Final = 86_400_000


@transaction
async def move(ledger: Ledger, bot_id: int, old: int, new: int) -> list[str]:
    """Show in chat `new` what was shown in `old`: the group has become a supergroup. Return what moves."""
    async with ledger.write() as conn:
        ids = await _unfinished(conn, bot_id, old)
        await _show_in(ledger, conn, ids, new)
    return ids


@transaction
async def unfinished(ledger: Ledger, bot_id: int, chat_id: int) -> list[str]:
    """Return the requests of a chat that are under way, or of which their person is still to read."""
    async with ledger.read() as conn:
        return await _unfinished(conn, bot_id, chat_id)


async def _unfinished(conn: AsyncConnection, bot_id: int, chat_id: int) -> list[str]:
    # A part for each partial index: how many requests a chat ever had does not matter.
    here = (requests.c.bot_id == bindparam("bot"), requests.c.chat_id == bindparam("chat", type_=BigInteger))
    opened = select(requests.c.request_id).where(text("requests.state = 'OPEN'"), *here)
    to_show = select(requests.c.request_id).where(requests.c.notify_at.is_not(None), *here)
    ordered: Select[Any] = (
        select(videos.c.request_id)
        .join(requests, requests.c.request_id == videos.c.request_id)
        .where(text(f"videos.{ACTIVE_ORDERS}"), *here)
    )
    found = await conn.scalars(union(opened, to_show, ordered), {"bot": bot_id, "chat": chat_id})
    return sorted(found)


@transaction
async def show_in_private(ledger: Ledger, request_ids: Collection[str]) -> None:
    """Show these requests to their own people in private from now on."""
    async with ledger.write() as conn:
        await _show_in(ledger, conn, request_ids, None)


@transaction
async def bring_back(ledger: Ledger, bot_id: int, chat_id: int) -> list[str]:
    """Show in a group again what could not be shown in private since the bot had left it; return what.

    The group is known from the request id.
    """
    prefix = f"tg:{bot_id}:-:{chat_id}:"
    async with ledger.write() as conn:
        now = await ledger.now(conn)
        refused = or_(requests.c.notify_failures > 0, requests.c.notify_at > now + _DAY_MS)
        query = select(requests.c.request_id).where(
            requests.c.bot_id == bot_id,
            requests.c.notify_at.is_not(None),
            requests.c.chat_id == requests.c.user_id,
            func.substr(requests.c.request_id, 1, len(prefix)) == prefix,
            refused,
        )
        ids = sorted(await conn.scalars(query))
        await _show_in(ledger, conn, ids, chat_id)
    return ids


async def _show_in(
    ledger: Ledger, conn: AsyncConnection, request_ids: Collection[str], chat_id: int | None
) -> None:
    """Move what is shown. No message of ours is in the other chat, and no lease of before holds any more."""
    if not request_ids:
        return
    where = requests.c.user_id if chat_id is None else chat_id
    await conn.execute(
        update(requests)
        .where(requests.c.request_id.in_(request_ids))
        .values(
            chat_id=where, message_id=0, message_thread_id=None, status_message_id=None, shown="",
            told_after=0, notify_failures=0, notify_at=ledger.time(),
        )
    )  # fmt: skip
