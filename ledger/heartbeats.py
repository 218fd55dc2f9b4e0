"""Which processes live: each worker writes when it looked for work, each bot when it heard Telegram.

The queue knows only workers that have met it, and none before the first one. Here any process can say that no
worker runs, whether one ever did, and without Redis.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from sqlalchemy import delete, func, select, update

from ledger.database import Ledger, transaction
from ledger.schema import heartbeats

Role = Literal["worker", "bot"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)

BEAT_S: Final = 10.0
"""How often a process says that it lives."""

DEAD_AFTER_S: Final = 35.0
"""A process that has been silent for so long counts as dead: it has missed three of its beats."""

_DEAD_MS: Final = int(DEAD_AFTER_S * 1000)
_KEPT_MS: Final = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Alive:
    """The processes of one bot in one role.

    Attributes:
        count: How many live.
        last_seen_at: When the latest of all was seen (milliseconds since the epoch); 0 if none ever was.
        silent_s: How long ago that is; 0 if none ever was.
    """

    count: int = 0
    last_seen_at: int = 0
    silent_s: float = 0.0


@transaction
async def beat(ledger: Ledger, process_id: str, role: Role, bot_id: int) -> None:
    """Write that this process lives. Rows of processes that are long gone are removed."""
    now = ledger.time()
    row = {"process_id": process_id, "role": role, "bot_id": bot_id, "started_at": now, "seen_at": now}
    mine = heartbeats.c.process_id == process_id
    async with ledger.write() as conn:
        known = await conn.execute(update(heartbeats).where(mine).values(seen_at=now))
        if not known.rowcount:
            await conn.execute(ledger.insert_new(heartbeats).values(row))
            await conn.execute(delete(heartbeats).where(heartbeats.c.seen_at < now - _KEPT_MS))


@transaction
async def leave(ledger: Ledger, process_id: str) -> None:
    """Write that this process ends: it does not count any more, and was seen when it was."""
    mine = heartbeats.c.process_id == process_id
    async with ledger.write() as conn:
        before = ledger.time() - _DEAD_MS
        await conn.execute(update(heartbeats).where(mine).values(seen_at=before))


@transaction
async def alive(ledger: Ledger, bot_id: int | None = None) -> Mapping[Role, Alive]:
    """Return what is known of a bot's processes, by role; without `bot_id`, of the processes of all bots."""
    query = select(heartbeats.c.role, func.max(heartbeats.c.seen_at), func.count())
    if bot_id is not None:
        query = query.where(heartbeats.c.bot_id == bot_id)
    query = query.group_by(heartbeats.c.role)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
        last = {row[0]: int(row[1]) for row in await conn.execute(query)}
        fresh = await conn.execute(query.where(heartbeats.c.seen_at > now - _DEAD_MS))
        counts = {row[0]: int(row[2]) for row in fresh}
    return {
        role: Alive(counts.get(role, 0), last[role], max(0.0, (now - last[role]) / 1000))
        if role in last
        else Alive()
        for role in ROLES
    }
