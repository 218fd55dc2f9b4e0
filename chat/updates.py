"""Request id, user and text of an update; updates of a newer Bot API; tolerant JSON."""

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from aiogram import Bot
from aiogram.types import Message, Update, User
from pydantic import ValidationError

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


def parse_update(raw: Any, bot: Bot) -> Update | None:
    """Return an update from its JSON; None if nothing in it can be handled or answered.

    Of an update that this aiogram refuses, as one of a newer Bot API, only what a command or a tap consists
    of is read: chat, sender, text, ids. So no command is lost to what comes with it.
    """
    try:
        return Update.model_validate(raw, context={"bot": bot})
    except ValidationError:
        try:
            return Update.model_validate(_essential_update(raw), context={"bot": bot})
        except ValidationError:
            return None


def parse_sent_message(answer: Any, bot: Bot) -> Message | None:
    """Return the message of an answer that this aiogram refuses; None if the answer is not of a sent message.

    The answer quotes the message that was replied to, with all that a newer Bot API put into it.
    """
    result = _mapping(_mapping(answer).get("result"))
    if _mapping(answer).get("ok") is not True or "message_id" not in result:
        return None
    found = _essential_message(result)
    for kind in ("video", "animation", "document"):
        if isinstance(result.get(kind), dict):
            found[kind] = {name: result[kind].get(name) for name in _FILE_FIELDS if name in result[kind]}
    try:
        return Message.model_validate(found, context={"bot": bot})
    except ValidationError:
        return None


_FILE_FIELDS: Final = ("file_id", "file_unique_id", "width", "height", "duration")
_TEXTS: Final = ("text", "caption", "media_group_id", "business_connection_id")
_NUMBERS: Final = ("message_id", "date", "message_thread_id", "ephemeral_message_id")
_FORWARDED: Final = {"type": "hidden_user", "date": 0, "sender_user_name": "unknown"}


def _essential_update(raw: Any) -> dict[str, Any]:
    update = _mapping(raw)
    found: dict[str, Any] = {"update_id": update.get("update_id")}
    if isinstance(update.get("message"), dict):
        found["message"] = _essential_message(update["message"])
    if isinstance(update.get("callback_query"), dict):
        query = update["callback_query"]
        found["callback_query"] = {
            "id": query.get("id"),
            "from": _essential_user(query.get("from")),
            "chat_instance": str(query.get("chat_instance")),
            "data": query.get("data"),
        }
    return found


def _essential_message(raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"date": 0, "message_id": 0}
    found |= {name: raw[name] for name in _TEXTS if isinstance(raw.get(name), str)}
    found |= {name: raw[name] for name in _NUMBERS if isinstance(raw.get(name), int)}
    found["is_topic_message"] = raw.get("is_topic_message") is True or None
    found["chat"] = _essential_chat(raw.get("chat"))
    if raw.get("from") is not None:
        found["from"] = _essential_user(raw["from"])
    if raw.get("sender_chat") is not None:  # an anonymous admin or a channel: nobody whose account is used
        found["sender_chat"] = _essential_chat(raw["sender_chat"])
    if raw.get("forward_origin") is not None:  # never a command, no matter who wrote it
        found["forward_origin"] = _FORWARDED
    return found


def _essential_user(raw: Any) -> dict[str, Any]:
    user = _mapping(raw)
    language = user.get("language_code")
    return {
        "id": user.get("id"),
        "is_bot": user.get("is_bot") is not False,
        "first_name": str(user.get("first_name")),
        "language_code": language if isinstance(language, str) else None,
    }


def _essential_chat(raw: Any) -> dict[str, Any]:
    chat = _mapping(raw)
    return {"id": chat.get("id"), "type": str(chat.get("type"))}


def _mapping(raw: Any) -> Mapping[str, Any]:
    return raw if isinstance(raw, dict) else {}


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
