"""Every Redis key of ours, with its lifetime. No other module builds one.

All keys share one hash tag, so that one script may touch them all, on Redis Cluster too. One slot is
enough: each admission is worth dollars.
"""

from dataclasses import dataclass
from typing import Final

EPOCH_TTL_S: Final = 3600
"""The epoch is renewed every minute; if nobody renews it, the next admission rebuilds the counters."""

SPARE_S: Final = 3600
"""How much longer a member's key lives than the longest window that looks at it."""


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one installation. `prefix` keeps installations (and tests) on one server apart."""

    prefix: str = "onetake"

    def _key(self, *parts: object) -> str:
        return ":".join((f"{{{self.prefix}}}", *map(str, parts)))

    @property
    def epoch(self) -> str:
        """String; there means: the counters are complete. Lives `EPOCH_TTL_S`."""
        return self._key("epoch")

    def seen(self, tool: str, request_id: str) -> str:
        """Hash attempt, call: who holds the one call of a request. Lives one window and `SPARE_S`.

        The request id comes last, because it holds colons of its own; tool names hold none.
        """
        return self._key("seen", tool, request_id)

    def takes(self, tool: str, user_id: int) -> str:
        """Sorted set request → ms: orders that count toward the quota. Lives one window and `SPARE_S`.

        Counters are a tool's own: a free caption takes no place in the video's quota.
        """
        return self._key("user", user_id, tool, "takes")

    def starts(self, tool: str, user_id: int) -> str:
        """Sorted set request → ms: orders that count toward cooldown and budget. Lives as `takes`."""
        return self._key("user", user_id, tool, "starts")

    def money(self, tool: str, user_id: int) -> str:
        """Hash request → micro-dollars for `starts`. Lives as `takes`."""
        return self._key("user", user_id, tool, "money")

    def all_starts(self, tool: str) -> str:
        """As `starts`, for everyone together."""
        return self._key("all", tool, "starts")

    def all_money(self, tool: str) -> str:
        """As `money`, for everyone together."""
        return self._key("all", tool, "money")

    def breaker(self, scope: str) -> str:
        """String; there means: this scope's breaker is open. From the ledger; lives `EPOCH_TTL_S`."""
        return self._key("breaker", scope)
