"""Who asked, and for what: ids that stay the same however often Telegram delivers an update."""

from typing import Final

from aiogram.types import Message, User

from chat.wire import whole

GROUP_ANONYMOUS_BOT: Final = 1_087_968_824
CHANNEL_FORWARDS: Final = 777_000


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


def payer_of(message: Message) -> User | None:
    """Return the person who pays; None for anonymous admins, channels and bots, who are nobody's purse."""
    user = message.from_user
    if user is None or user.is_bot or message.sender_chat is not None:
        return None
    return None if user.id in (GROUP_ANONYMOUS_BOT, CHANNEL_FORWARDS) else user


def clean(text: str) -> str:
    """Return `text` as it can be stored and sent: lone surrogates and NUL become replacement characters."""
    return whole(text).replace("\0", "�").strip()
