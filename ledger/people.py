"""What a person has set for themselves: language, when a tap is asked for, how their videos usually are."""

from dataclasses import dataclass
from typing import Any, Final, TypedDict, Unpack, cast

from sqlalchemy import BigInteger, bindparam, delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from guardrails.money import Money
from ledger.database import Ledger, transaction
from ledger.models import Language, Video
from ledger.schema import people


@dataclass(frozen=True, slots=True)
class Person:
    """The settings of one person. None: not set, so the usual applies.

    Attributes:
        language: In which they are answered, whatever their Telegram says.
        ask_below: Videos that cost less than this are ordered without a tap.
        default_seconds: Length of their videos, where the idea names none.
        default_size: Size of their videos, where the idea names none.
        sound: Whether their videos have sound.
        style: The word of a style that their videos have.
    """

    user_id: int
    language: Language | None = None
    ask_below: Money | None = None
    default_seconds: int | None = None
    default_size: str | None = None
    sound: bool | None = None
    style: str | None = None


class PersonColumns(TypedDict, total=False):
    """What `save` may set; a column that is not named stays, None takes a setting back."""

    language: Language | None
    ask_below: Money | None
    default_seconds: int | None
    default_size: str | None
    sound: bool | None
    style: str | None


@transaction
async def find(ledger: Ledger, user_id: int) -> Person:
    """Return a person's settings; of one who has set nothing, all are None."""
    async with ledger.read() as conn:
        return await _find(conn, user_id)


async def _find(conn: AsyncConnection, user_id: int) -> Person:
    row = (await conn.execute(_FIND, {"user": user_id})).first()
    if row is None:
        return Person(user_id)
    return Person(
        user_id,
        cast("Language | None", row.language),
        None if row.ask_below_micros is None else Money(row.ask_below_micros),
        row.default_seconds,
        row.default_size,
        None if row.sound is None else bool(row.sound),
        row.style,
    )


_FIND: Final = select(people).where(people.c.user_id == bindparam("user", type_=BigInteger))


@transaction
async def save(ledger: Ledger, user_id: int, **columns: Unpack[PersonColumns]) -> Person:
    """Set what is named, and return all that is set then."""
    async with ledger.write() as conn:
        values = {**_stored(columns), "updated_at": ledger.time()}
        await conn.execute(ledger.upsert(people, {"user_id": user_id}, values))
        return await _find(conn, user_id)


async def remember(ledger: Ledger, conn: AsyncConnection, video: Video) -> None:
    """Keep what a person chose on the offer of a video that they take now, for their next offers.

    What they did not choose, such as a length that their idea named, stays as it is.
    """
    usual: PersonColumns = {
        "default_seconds": video.seconds, "default_size": video.size,
        "sound": video.with_sound, "style": video.style,
    }  # fmt: skip
    chosen = {CHOICES[word] for word in (video.chosen or "").split() if word in CHOICES}
    columns = cast("PersonColumns", {name: value for name, value in usual.items() if name in chosen})
    if columns:
        values = {**_stored(columns), "updated_at": ledger.time()}
        await conn.execute(ledger.upsert(people, {"user_id": video.user_id}, values))


CHOICES: Final = {"seconds": "default_seconds", "shape": "default_size", "sound": "sound", "style": "style"}
"""What may be chosen on an offer, by its word in `videos.chosen`, and the setting that keeps it."""


def _stored(columns: PersonColumns) -> dict[str, Any]:
    values: dict[str, Any] = dict(columns)
    if "ask_below" in values:
        limit = values.pop("ask_below")
        values["ask_below_micros"] = None if limit is None else limit.micros
    if values.get("sound") is not None:
        values["sound"] = int(values["sound"])
    return values


@transaction
async def forget(ledger: Ledger, user_id: int) -> bool:
    """Delete a person's settings; return whether there were any."""
    async with ledger.write() as conn:
        done = await conn.execute(delete(people).where(people.c.user_id == user_id))
    return bool(done.rowcount)
