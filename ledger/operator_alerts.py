"""What operators are told: kept with its text until each of them has it, and until someone takes it on.

Who has received what is in `news` (`ledger.notifications`); here is what an alert says, so that an admin who
could not be reached hears it later, also where its cause has passed. An alert that stands (a HOLD, an open
breaker, no worker) is listed until its cause ends, and repeated until a person acknowledges it.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from html import unescape
from typing import Any, Final

from sqlalchemy import ColumnElement, and_, delete, func, not_, or_, select, text, update

from ledger.database import Ledger, transaction
from ledger.notifications import Notification
from ledger.schema import MISSED, news, operator_alerts, videos

HEARD_LATE_S: Final = 7 * 86_400
"""What an admin could not be told is kept for them so long."""

FRESH_S: Final = 300
"""A cause that no process has found for so long has ended."""

_SEEN_EVERY_S: Final = 30
_SOME: Final = 20
_TAG: Final = re.compile(r"<[^>]*>")


@dataclass(frozen=True, slots=True)
class NewAlert:
    """An alert as it is found: `text` is HTML without any word of a user, `buttons` are JSON or empty."""

    item: Notification
    text: str
    buttons: str = ""
    order_id: str | None = None
    standing: bool = False


@dataclass(frozen=True, slots=True)
class KeptAlert:
    """An alert as it is stored.

    Attributes:
        alert_id: By which people name it.
        order_id: The request whose order it is about, if it is about one.
        created_at: When it was found first, in milliseconds since the epoch.
        open: Its cause lasts.
        ack_who: Who has taken it on; None: no one.
    """

    alert_id: int
    item: Notification
    text: str
    buttons: str
    order_id: str | None
    standing: bool
    open: bool
    created_at: int
    ack_who: str | None
    ack_at: int | None

    @classmethod
    def from_row(cls, row: Any) -> "KeptAlert":
        return cls(
            row.alert_id, Notification(row.subject, row.at), row.text, row.buttons, row.request_id,
            bool(row.standing), bool(row.is_open), row.created_at, row.ack_who, row.ack_at,
        )  # fmt: skip


def plain_text(html: str) -> str:
    """Return the text of an alert without its markup."""
    return unescape(_TAG.sub("", html))


@transaction
async def keep(ledger: Ledger, new: NewAlert) -> KeptAlert:
    """Store an alert unless it is there, and that its cause was found now; return it."""
    item, now = new.item, ledger.time()
    mine = and_(operator_alerts.c.subject == item.subject, operator_alerts.c.at == item.at)
    values = {
        "subject": item.subject, "at": item.at, "text": new.text, "buttons": new.buttons,
        "request_id": new.order_id, "standing": int(new.standing), "created_at": now, "seen_at": now,
    }  # fmt: skip
    async with ledger.write() as conn:
        found = (await conn.execute(_alerts(ledger).where(mine))).first()
        if found is None:
            await conn.execute(ledger.insert_new(operator_alerts).values(values))
        elif found.now - found.seen_at > _SEEN_EVERY_S * 1000:
            await conn.execute(update(operator_alerts).where(mine).values(seen_at=now, text=new.text))
        return KeptAlert.from_row((await conn.execute(_alerts(ledger).where(mine))).one())


def _alerts(ledger: Ledger) -> Any:
    now = ledger.time()
    return select(operator_alerts, _is_open(now).label("is_open"), now.label("now"))


def _is_open(now: ColumnElement[int]) -> ColumnElement[bool]:
    """SQL for whether the cause lasts: of an order while that is unchanged, else while it is found."""
    unchanged = select(videos.c.request_id).where(
        videos.c.request_id == operator_alerts.c.request_id, videos.c.updated_at == operator_alerts.c.at
    )
    lasts = or_(
        and_(operator_alerts.c.request_id.is_not(None), unchanged.exists()),
        and_(operator_alerts.c.request_id.is_(None), operator_alerts.c.seen_at > now - FRESH_S * 1000),
    )
    return and_(operator_alerts.c.standing == 1, lasts)


@transaction
async def open_alerts(ledger: Ledger, most: int = _SOME) -> tuple[list[KeptAlert], int]:
    """Return up to `most` alerts whose cause lasts, oldest first, and how many there are."""
    is_open = _is_open(ledger.time())
    async with ledger.read() as conn:
        rows = await conn.execute(
            _alerts(ledger).where(is_open).order_by(operator_alerts.c.created_at).limit(most)
        )
        found = [KeptAlert.from_row(row) for row in rows]
        count = select(func.count()).select_from(operator_alerts).where(is_open)
        return found, len(found) if len(found) < most else int(await conn.scalar(count) or 0)


@transaction
async def acknowledge(ledger: Ledger, alert_id: int, who: str) -> KeptAlert | None:
    """Write who takes an alert on, unless someone has; return it as it is now, None if there is none.

    An acknowledged alert is not repeated. Whether its cause ends is not changed by that.
    """
    mine = operator_alerts.c.alert_id == alert_id
    free = and_(mine, operator_alerts.c.ack_who.is_(None))
    async with ledger.write() as conn:
        await conn.execute(update(operator_alerts).where(free).values(ack_who=who, ack_at=ledger.time()))
        row = (await conn.execute(_alerts(ledger).where(mine))).first()
    return None if row is None else KeptAlert.from_row(row)


@transaction
async def missed(ledger: Ledger, readers: Collection[int]) -> list[tuple[KeptAlert, int]]:
    """Return alerts that a reader has missed and that are due again, with the reader; oldest first."""
    now = ledger.time()
    query = (
        _alerts(ledger)
        .add_columns(news.c.reader)
        .join(news, and_(news.c.subject == operator_alerts.c.subject, news.c.at == operator_alerts.c.at))
        .where(
            text(f"news.{MISSED}"),
            news.c.reader.in_(readers),
            news.c.free_at <= now,
            operator_alerts.c.created_at > now - HEARD_LATE_S * 1000,
        )
        .order_by(operator_alerts.c.created_at)
        .limit(_SOME)
    )
    async with ledger.read() as conn:
        return [(KeptAlert.from_row(row), row.reader) for row in await conn.execute(query)]


@transaction
async def make_due(ledger: Ledger, reader: int) -> int:
    """Make due what a reader has missed: they are here now. Return how much that is."""
    theirs = (text(MISSED), news.c.reader == reader, news.c.free_at > ledger.time())
    async with ledger.write() as conn:
        return int((await conn.execute(update(news).where(*theirs).values(free_at=0))).rowcount)


@dataclass(frozen=True, slots=True)
class AlertCounts:
    """How many alerts stand that no one has taken on, that someone has, and that an admin has missed."""

    open: int
    acknowledged: int
    missed: int


@transaction
async def count(ledger: Ledger) -> AlertCounts:
    """Count what stands, and what an admin could not be told within `HEARD_LATE_S`."""
    taken = operator_alerts.c.ack_who.is_not(None)
    stands = select(taken, func.count()).where(_is_open(ledger.time())).group_by(taken)
    late = (
        select(func.count())
        .select_from(operator_alerts)
        .join(news, and_(news.c.subject == operator_alerts.c.subject, news.c.at == operator_alerts.c.at))
        .where(
            text(f"news.{MISSED}"),
            operator_alerts.c.created_at > ledger.time() - HEARD_LATE_S * 1000,
        )
    )
    async with ledger.read() as conn:
        found = {bool(row[0]): int(row[1]) for row in await conn.execute(stands)}
        return AlertCounts(found.get(False, 0), found.get(True, 0), int(await conn.scalar(late) or 0))


@transaction
async def forget_old(ledger: Ledger, before: int) -> int:
    """Delete alerts from before a time (milliseconds) whose cause has ended; return how many."""
    old = and_(operator_alerts.c.created_at < before, not_(_is_open(ledger.time())))
    async with ledger.write() as conn:
        return int((await conn.execute(delete(operator_alerts).where(old))).rowcount)
