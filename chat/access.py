"""Who may use the bot: the settings' lists, invitations, bans.

Admins and the settings' lists need no question. The rest is read from the ledger and kept for seconds, so
that a ban in one process holds in all of them before a person has written twice.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Literal

from ledger import members
from ledger.database import Ledger
from ledger.members import Membership
from ledger.models import Language

AccessMode = Literal["open", "invite"]
"""open: everyone, or those in ALLOWED_USERS. invite: those, and who has opened an invitation."""

Standing = Literal["allowed", "stranger", "banned"]

INVITE_START: Final = "inv_"
"""Begins the word after `/start` in an invitation's link; the token follows."""

_KEPT_S: Final = 5.0
_MAX_KNOWN: Final = 10_000


class Access:
    """Decides who may use the bot.

    Args:
        ledger: Where invitations and bans are.
        allowed: Users whom the settings name; empty means everyone, where the mode is open.
        admins: They always may, and cannot be banned.
        mode: Of the settings.
        learn: Is told the language that a person has chosen, which the same question answers.
    """

    def __init__(
        self,
        ledger: Ledger,
        allowed: frozenset[int],
        admins: frozenset[int],
        mode: AccessMode,
        learn: Callable[[int, Language | None], None],
    ) -> None:
        self._ledger, self._allowed, self._admins, self.mode = ledger, allowed, admins, mode
        self._learn = learn
        self._known: OrderedDict[int, tuple[float, Membership]] = OrderedDict()

    @property
    def is_open(self) -> bool:
        """Whether everyone may use the bot who is not banned."""
        return self.mode == "open" and not self._allowed

    async def of(self, user_id: int) -> Standing:
        """Return whether a person may use the bot.

        Raises:
            Exception: The ledger is unavailable.
        """
        if user_id in self._admins:
            return "allowed"
        listed = self.is_open or user_id in self._allowed
        if not listed and self.mode == "open":
            return "stranger"
        found = await self._membership(user_id)
        if found == "banned":
            return "banned"
        return "allowed" if listed or found == "member" else "stranger"

    async def _membership(self, user_id: int) -> Membership:
        read_at, found = self._known.get(user_id, (-math.inf, "unknown"))
        if time.monotonic() - read_at <= _KEPT_S:
            return found
        known = await members.find(self._ledger, user_id)
        self._learn(user_id, known.language)
        found = known.membership
        # A person who is not invited yet may be in a moment, by a message to another process.
        if found != "unknown" or self.mode == "open":
            self.set(user_id, found)
        else:
            self._known.pop(user_id, None)
        return found

    def set(self, user_id: int, membership: Membership) -> None:
        """Know a change at once in the process in which it was made."""
        self._known[user_id] = (time.monotonic(), membership)
        self._known.move_to_end(user_id)
        if len(self._known) > _MAX_KNOWN:
            self._known.popitem(last=False)
