"""What an error of the Bot API says about a chat: whether the bot may write there at all."""

from typing import Final

from aiogram.exceptions import TelegramBadRequest, TelegramForbiddenError, TelegramNotFound

UNREACHABLE: Final = (TelegramForbiddenError, TelegramBadRequest, TelegramNotFound)
"""Of a message to one person: they cannot be reached, however often it is sent."""

# Descriptions of 400s that are about the chat and not about the message, as the Bot API server writes them:
# its own sentences, and the names of Telegram's errors that it hands on.
_CHAT_WORDS: Final = (
    "not enough rights", "have no rights", "need administrator rights", "chat not found", "user not found",
    "group chat was upgraded", "group chat was deactivated", "chat_id is empty", "message thread not found",
)  # fmt: skip
_CHAT_CODES: Final = (
    "TOPIC_CLOSED", "TOPIC_DELETED", "CHAT_RESTRICTED", "CHAT_WRITE_FORBIDDEN", "CHAT_ADMIN_REQUIRED",
    "CHAT_SEND_", "CHAT_GUEST_SEND_FORBIDDEN", "CHAT_FORBIDDEN", "CHANNEL_PRIVATE", "USER_BANNED_IN_CHANNEL",
    "USER_IS_BLOCKED", "INPUT_USER_DEACTIVATED", "USER_DEACTIVATED", "PEER_ID_INVALID",
    "ALLOW_PAYMENT_REQUIRED", "PRIVACY_PREMIUM_REQUIRED",
)  # fmt: skip


def refuses_chat(error: Exception) -> bool:
    """Return whether Telegram refuses this chat to the bot, whatever is sent: waiting does not change it.

    The bot was blocked or removed, may not write there, the topic is closed, the user or the chat is gone.
    """
    if isinstance(error, TelegramForbiddenError):
        return True
    if not isinstance(error, TelegramBadRequest):
        return False
    words = error.message.lower()
    return any(part in words for part in _CHAT_WORDS) or any(code in error.message for code in _CHAT_CODES)


def is_final(error: Exception) -> bool:
    """Return whether Telegram gives the same answer to the same message again: a 400 or a 403."""
    return isinstance(error, TelegramBadRequest | TelegramForbiddenError)
