"""Invitations are used once by each person and hold their bounds; bans last until they are lifted."""

import asyncio

import pytest

from ledger import members
from ledger.database import Ledger

pytestmark = pytest.mark.any_ledger

ADMIN = "admin:1"


async def test_nobody_is_a_member_or_banned_at_first(ledger: Ledger):
    assert await members.membership(ledger, 7) == "unknown"


async def test_one_person_uses_an_invitation_once(ledger: Ledger):
    """However often it is opened: the second use is another person's."""
    await members.add_invite(ledger, "token", ADMIN, 2, 7)
    assert [await members.join(ledger, "token", 7) for _ in range(3)] == ["joined", "already", "already"]
    assert await members.join(ledger, "token", 8) == "joined"
    assert await members.join(ledger, "token", 9) == "used_up"
    assert [await members.membership(ledger, one) for one in (7, 8, 9)] == ["member", "member", "unknown"]


async def test_people_who_race_do_not_exceed_it(ledger: Ledger):
    """Ten people and one place: one gets it. And ten messages of one person cost one use."""
    await members.add_invite(ledger, "one", ADMIN, 1, 7)
    found = await asyncio.gather(*(members.join(ledger, "one", user) for user in range(10, 20)))
    assert sorted(found) == ["joined", *["used_up"] * 9]
    await members.add_invite(ledger, "two", ADMIN, 2, 7)
    same = await asyncio.gather(*(members.join(ledger, "two", 30) for _ in range(10)))
    assert sorted(same) == [*["already"] * 9, "joined"]
    assert await members.join(ledger, "two", 31) == "joined"


async def test_an_invitation_ends_with_its_time(ledger: Ledger):
    await members.add_invite(ledger, "token", ADMIN, 5, 1)
    ledger.shift = 86_401
    assert await members.join(ledger, "token", 7) == "expired"
    assert await members.join(ledger, "another", 7) == "no_invite"


async def test_an_ended_invitation_lets_nobody_else_in(ledger: Ledger):
    """A button has room for half of the digest. Those who joined stay."""
    await members.add_invite(ledger, "token", ADMIN, 5, 7)
    await members.join(ledger, "token", 7)
    assert await members.end_invite(ledger, members.digest_of("token")[:32])
    assert not await members.end_invite(ledger, members.digest_of("token")[:32])
    assert await members.join(ledger, "token", 8) == "expired"
    assert await members.membership(ledger, 7) == "member"


async def test_an_invitation_is_stored_once(ledger: Ledger):
    """The message that asked for it is delivered again: the uses are not counted from the start."""
    await members.add_invite(ledger, "token", ADMIN, 2, 7)
    await members.join(ledger, "token", 7)
    again = await members.add_invite(ledger, "token", ADMIN, 2, 7)
    assert (again.uses, again.used) == (2, 1)


async def test_a_ban_lasts_until_it_is_lifted(ledger: Ledger):
    """It is above an invitation, also one that is opened later, and leaves the membership as it was."""
    await members.add_invite(ledger, "token", ADMIN, 5, 7)
    await members.join(ledger, "token", 7)
    assert await members.ban(ledger, 7, ADMIN, "spam")
    assert not await members.ban(ledger, 7, ADMIN, "again")
    assert await members.ban(ledger, 8, ADMIN, "")
    assert [await members.membership(ledger, one) for one in (7, 8)] == ["banned", "banned"]
    assert await members.join(ledger, "token", 8) == "banned"
    assert [await members.unban(ledger, 7, "admin:1") for _ in range(2)] == [True, False]
    assert await members.unban(ledger, 8, "admin:1")
    assert [await members.membership(ledger, one) for one in (7, 8)] == ["member", "unknown"]
