"""The bot's own limits over the local Telegram: production's, or none, as the chat page's switch says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from chat.context import EditLimits
from chat.send_limits import Priority, SendLimits
from worker.rate_limits import Rate

LOCAL_EDIT_LIMITS: Final = EditLimits(private_s=0.5, group_s=0.5, quiet_s=0.3, progress_s=0.5, retry_s=2)
"""A local Bot API bans no one for quick edits."""

LOCAL_SEND_LIMITS: Final = SendLimits(
    total=Rate("total", burst=100_000, every_s=0.0001),
    chat=Rate("chat", burst=100_000, every_s=0.0001),
    group=Rate("group", burst=100_000, every_s=0.0001),
)
"""A local Bot API has no limits; these are asked as Telegram's are, and delay nothing."""


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class SwitchedEditLimits(EditLimits):
    """Production's edit limits, or the local ones while `is_fast` says so."""

    is_fast: Callable[[], bool] = _never

    def between_edits(self, chat_id: int) -> float:
        chosen = LOCAL_EDIT_LIMITS if self.is_fast() else EditLimits()
        return chosen.between_edits(chat_id)

    def between_progress(self, chat_id: int, filmed_s: float) -> float:
        chosen = LOCAL_EDIT_LIMITS if self.is_fast() else EditLimits()
        return chosen.between_progress(chat_id, filmed_s)


@dataclass(frozen=True, slots=True)
class SwitchedSendLimits(SendLimits):
    """Production's send limits, or the local ones while `is_fast` says so."""

    is_fast: Callable[[], bool] = _never

    def rates(self, bot_id: int, chat_id: int | str | None, priority: Priority) -> list[Rate]:
        chosen = LOCAL_SEND_LIMITS if self.is_fast() else SendLimits()
        return chosen.rates(bot_id, chat_id, priority)
