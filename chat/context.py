"""ChatContext: what handlers and the notifier are given; edit limits."""

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
    """How often one message is edited, in seconds. Telegram bans bots that edit faster.

    Attributes:
        private_s: Least time between two edits in a private chat.
        group_s: The same in a group.
        tick_s: How often `notify` reads the ledger while a request is in progress.
        retry_s: Least delay before a failed notification is tried again; grows with the failure's age.
        lease_s: After so long without renewal, another process may notify the user of the same request.
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
    """The text last sent for one request, and when (monotonic seconds) its message may be edited again."""

    text: str = ""
    free_at: float = 0


@dataclass(frozen=True)
class ChatContext:
    """What every handler is given; built once per process.

    Attributes:
        allowed: Users who may use the bot; empty means everyone.
        admins: Users who get operator alerts and may resolve holds.
        day_cost_thresholds: Costs of one UTC day at which admins are alerted; the highest asks to act.
        max_open: Requests of one user that may wait at once.
        throttle: Hints and notices that this process sent lately.
        last_shown: What this process showed last, by request.
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
        """Keep what was shown for this process's next run of `notify`.

        Another process does not know it and may edit once more than needed.
        """
        if len(self.last_shown) >= _MAX_REMEMBERED:
            self.last_shown.clear()
        self.last_shown[request_id] = last_shown

    @property
    def providers(self) -> Mapping[str, Provider]:
        return self.worker.providers

    def is_preview(self, provider: str) -> bool:
        """Return whether videos of this provider are labelled as previews."""
        known = self.providers.get(provider)
        return known is not None and known.capabilities.preview

    def may_use(self, user_id: int) -> bool:
        """Return whether this user may use the bot."""
        return not self.allowed or user_id in self.allowed or user_id in self.admins
