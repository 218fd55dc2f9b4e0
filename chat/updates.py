"""Request id, payer and text of an update; tolerant JSON."""

import json
import re
from typing import Any, Final

from aiogram.types import Message, User

NOT_MODIFIED: Final = "message is not modified"
"""What Telegram answers to an edit that changes nothing; the message is then as it should be."""

GROUP_ANONYMOUS_BOT: Final = 1_087_968_824
CHANNEL_FORWARDS: Final = 777_000
_ESCAPED: Final = re.compile(r"\\u[dD][89a-fA-F]")


def request_id_of(message: Message, bot_id: int) -> str:
    """Return the request id of a command: the user's act, stable over every redelivery.

    Never `update_id`, which a second delivery to another process cannot be trusted to share. An album is one
    act. An ephemeral message has `message_id` 0, so it is named by its own id and its receiver.
    """
    business = message.business_connection_id or "-"
    place = f"tg:{bot_id}:{business}:{message.chat.id}"
    if message.media_group_id:
        return f"{place}:album-{message.media_group_id}"
    if message.message_id == 0:
        ephemeral = getattr(message, "ephemeral_message_id", None)
        sender = message.from_user.id if message.from_user else 0
        return f"{place}:ephemeral-{ephemeral}-{sender}"
    return f"{place}:{message.message_id}"


def user_of(message: Message) -> User | None:
    """Return the person who pays; None for anonymous admins, channels and bots, who are nobody's purse."""
    user = message.from_user
    if user is None or user.is_bot or message.sender_chat is not None:
        return None
    return None if user.id in (GROUP_ANONYMOUS_BOT, CHANNEL_FORWARDS) else user


def clean(text: str) -> str:
    """Return `text` as it can be stored and sent: lone surrogates and NUL become replacement characters."""
    return replace_surrogates(text).replace("\0", "�").strip()


def replace_surrogates(text: str) -> str:
    """Return `text` with every lone surrogate replaced."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_json(text: str | bytes) -> Any:
    """Read JSON as aiogram wants it; a lone surrogate becomes a replacement character.

    pydantic refuses text with a lone surrogate, and with it the whole batch of updates: one such message
    would stop everybody's, for ever.
    """
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    found = json.loads(words)
    # Decoded UTF-8 cannot hold one, so only an escape can.
    return _replace_in(found) if _ESCAPED.search(words) else found


def _replace_in(found: Any) -> Any:
    if isinstance(found, str):
        return replace_surrogates(found)
    if isinstance(found, list):
        return [_replace_in(one) for one in found]
    if isinstance(found, dict):
        return {name: _replace_in(one) for name, one in found.items()}
    return found
