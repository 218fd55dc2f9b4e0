"""What handlers and `tell` are given."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from aiogram import Bot

from chat.replies import ReplyThrottle
from guardrails.admission import Admission
from guardrails.limits import Limits
from guardrails.money import Money
from ledger.database import Ledger
from providers.base import Provider
from tools.offer import Offer
from worker.context import WorkerContext
from worker.queue import Queue

IDEA_CHARACTERS: Final = 2000
_MAX_REMEMBERED: Final = 1000


@dataclass(frozen=True, slots=True)
class EditLimits:
    """How often one message is edited, in seconds; Telegram bans bots that edit faster.

    Attributes:
        private_s: Least time between two edits in a private chat.
        group_s: The same in a group.
        tick_s: How often `tell` reads the ledger while a request is under way.
        retry_s: How long a delivery waits that Telegram did not take; longer for what fails for long.
        lease_s: After so long without a sign of life, what one process was telling is told by another.
    """

    private_s: float = 5
    group_s: float = 15
    tick_s: float = 0.5
    retry_s: float = 20
    lease_s: float = 10

    def between_edits(self, chat_id: int) -> float:
        """Return the least time between two edits in this chat; groups have negative ids."""
        return self.group_s if chat_id < 0 else self.private_s


@dataclass
class LastShown:
    """What was shown last of one request, and when (monotonic seconds) its message may be edited again."""

    text: str = ""
    free_at: float = 0


@dataclass(frozen=True)
class ChatContext:
    """The chat's parts, made once per process.

    Attributes:
        allowed: Users who may use the bot; empty means everybody.
        admins: Users who are told about what a person must settle.
        day_marks: Costs of one UTC day at which the admins are told; the highest asks them to act.
        most_open: Requests of one user that may wait at once.
        tellers: What this process showed last, by request.
        hush: What this process said lately and need not say again.
    """

    bot: Bot
    ledger: Ledger
    admission: Admission
    queue: Queue
    worker: WorkerContext
    offer: Offer
    limits: Limits
    edit_limits: EditLimits = field(default_factory=EditLimits)
    allowed: frozenset[int] = frozenset()
    admins: frozenset[int] = frozenset()
    day_cost_thresholds: tuple[Money, ...] = ()
    max_open: int = 3
    throttle: ReplyThrottle = field(default_factory=ReplyThrottle)
    last_shown: dict[str, LastShown] = field(default_factory=dict)

    def remember(self, request_id: str, last_shown: LastShown) -> None:
        """Keep what was shown for this process's next teller; another process's edits once too often."""
        if len(self.last_shown) >= _MAX_REMEMBERED:
            self.last_shown.clear()
        self.last_shown[request_id] = last_shown

    @property
    def providers(self) -> Mapping[str, Provider]:
        return self.worker.providers

    def is_preview(self, provider: str) -> bool:
        """Say whether what this provider makes must be labelled as a preview."""
        known = self.providers.get(provider)
        return known is not None and known.capabilities.preview

    def may_use(self, user_id: int) -> bool:
        """Say whether this user is let in."""
        return not self.allowed or user_id in self.allowed or user_id in self.admins
