"""Request id, user and text of an update; tolerant JSON."""

import json
import re
from typing import Any, Final

from aiogram.types import Message, User

NOT_MODIFIED: Final = "message is not modified"
"""Part of Telegram's error for an edit that changes nothing; the message is then already as wanted."""

GROUP_ANONYMOUS_BOT: Final = 1_087_968_824
CHANNEL_FORWARDS: Final = 777_000
_ESCAPED: Final = re.compile(r"\\u[dD][89a-fA-F]")


def request_id_of(message: Message, bot_id: int) -> str:
    """Return the request id of a command, the same at every redelivery.

    Not `update_id`, which a redelivery to another process need not share. An album is one request. An
    ephemeral message has `message_id` 0, so its own id and its sender identify it.
    """
    business = message.business_connection_id or "-"
    prefix = f"tg:{bot_id}:{business}:{message.chat.id}"
    if message.media_group_id:
        return f"{prefix}:album-{message.media_group_id}"
    if message.message_id == 0:
        ephemeral = getattr(message, "ephemeral_message_id", None)
        sender = message.from_user.id if message.from_user else 0
        return f"{prefix}:ephemeral-{ephemeral}-{sender}"
    return f"{prefix}:{message.message_id}"


def user_of(message: Message) -> User | None:
    """Return the user whose account is used; None for anonymous admins, channels and bots, who have none."""
    user = message.from_user
    if user is None or user.is_bot or message.sender_chat is not None:
        return None
    return None if user.id in (GROUP_ANONYMOUS_BOT, CHANNEL_FORWARDS) else user


def topic_of(message: Message) -> int | None:
    """Return the forum topic of a message. A thread of replies has an id too, but nothing is sent to it."""
    return message.message_thread_id if message.is_topic_message else None


def clean(text: str) -> str:
    """Return stripped `text` that SQL and Telegram accept: no lone surrogates, no NUL."""
    return replace_surrogates(text).replace("\0", "�").strip()


def replace_surrogates(text: str) -> str:
    """Return `text` with every lone surrogate replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_json(text: str | bytes) -> Any:
    """Read JSON as aiogram wants it; a lone surrogate becomes a replacement character.

    pydantic refuses text with a lone surrogate and with it the whole batch of updates, so one such message
    would block all users.
    """
    source = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    found = json.loads(source)
    # Decoded UTF-8 cannot contain one, so only an escape can.
    return _replace_in(found) if _ESCAPED.search(source) else found


def _replace_in(found: Any) -> Any:
    if isinstance(found, str):
        return replace_surrogates(found)
    if isinstance(found, list):
        return [_replace_in(one) for one in found]
    if isinstance(found, dict):
        return {name: _replace_in(one) for name, one in found.items()}
    return found
