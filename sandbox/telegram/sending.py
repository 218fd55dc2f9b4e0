"""The Bot API's methods that send: messages, media, copies, actions."""

from typing import Any

from sandbox.telegram.base import bad_request
from sandbox.telegram.business import business_fields
from sandbox.telegram.chats import ChatUser, Group
from sandbox.telegram.ephemeral import ephemeral_fields
from sandbox.telegram.html import Formatted, parse_html, units
from sandbox.telegram.keyboards import Markup, reply_markup
from sandbox.telegram.media import Media, caption_fields, media_fields, media_of
from sandbox.telegram.params import Params, caption, message_text
from sandbox.telegram.state import Message, World, place_of

ACTIONS = {
    "typing", "upload_photo", "record_video", "upload_video", "record_voice", "upload_voice",
    "upload_document", "choose_sticker", "find_location", "record_video_note", "upload_video_note", "cancel",
}  # fmt: skip
SENT_KINDS = {"text": "text messages", "video": "videos", "photo": "photos", "document": "documents"}
"""How the Bot API server names what a bot may not send to a chat."""
MAX_QUOTE = 1024
WORDS = ("text", "entities", "caption", "caption_entities")
NOT_COPIED = (
    "successful_payment",
    "refunded_payment",
    "invoice",
    "migrate_to_chat_id",
    "migrate_from_chat_id",
)


async def send_message(world: World, params: Params) -> Any:
    chat = addressed(world, params, "text")
    return send(world, params, chat, text_content(params))


async def send_video(world: World, params: Params) -> Any:
    return await _send_media(world, params, "video")


async def send_photo(world: World, params: Params) -> Any:
    return await _send_media(world, params, "photo")


async def send_document(world: World, params: Params) -> Any:
    return await _send_media(world, params, "document")


async def copy_message(world: World, params: Params) -> Any:
    """Send the content of a message again, without its author."""
    chat = addressed(world, params, "text")
    source = world.chats.chat(params.text("from_chat_id"))
    original = world.messages.find(source.id, params.integer("message_id"))
    if original is None:
        raise bad_request("message to copy not found")
    if any(name in original for name in NOT_COPIED):
        raise bad_request("message can't be copied")
    words: dict[str, Any] = {name: original[name] for name in WORDS if name in original}
    if "caption" in params.fields and "text" not in original:
        words = caption_fields(_caption(params))
    copied = send(world, params, chat, {**media_of(original), **words})
    return {"message_id": copied["message_id"]}


async def send_chat_action(world: World, params: Params) -> Any:
    chat = world.chats.writable(params.text("chat_id"))
    action = params.text("action").lower()
    if action not in ACTIONS:
        raise bad_request("wrong parameter action in request")
    thread = params.integer("message_thread_id")
    _check_place(world, params, chat, "text messages")
    world.feed.publish(chat.id, "action", {"action": action, **({"topic": thread} if thread else {})})
    return True


def addressed(world: World, params: Params, kind: str) -> ChatUser | Group:
    """Return the chat to send to, if the bot may send this kind of message there, and to that topic.

    Raises:
        ApiError: 400 or 403 in Telegram's words.
    """
    if params.text("business_connection_id"):
        return world.chats.chat(params.text("chat_id"))  # the account's own chats need no Start
    chat = world.chats.writable(params.text("chat_id"))
    _check_place(world, params, chat, SENT_KINDS[kind])
    return chat


def _check_place(world: World, params: Params, chat: ChatUser | Group, kind: str) -> None:
    """Refuse what the bot may not send there, and a topic that is not there."""
    thread = params.integer("message_thread_id")
    if isinstance(chat, Group):
        chat.check_rights(kind, thread)
    elif thread and not world.features["has_topics_enabled"]:
        raise bad_request("message thread not found")


def text_fields(formatted: Formatted) -> dict[str, Any]:
    return {"text": formatted.text, **({"entities": formatted.entities} if formatted.entities else {})}


def text_content(params: Params) -> dict[str, Any]:
    """Return the fields of a text message, with its options for link previews."""
    words = text_fields(message_text(params))
    options = params.json("link_preview_options")
    if options is None and params.flag("disable_web_page_preview"):
        options = {"is_disabled": True}
    if options is not None and not isinstance(options, dict):
        raise bad_request("object expected as link preview options")
    return {**words, **({"link_preview_options": options} if options else {})}


def media_params(params: Params, kind: str) -> Media:
    """Return the media that a call names by its fields."""
    return Media(
        kind=kind,
        source=params.text(kind) or (kind if kind in params.uploads else ""),
        thumbnail=params.text("thumbnail") or "thumbnail",
        about={name: params.integer(name) for name in ("width", "height", "duration")},
        cover=params.text("cover") or ("cover" if "cover" in params.uploads else ""),
        start=params.integer("start_timestamp"),
        spoiler=params.flag("has_spoiler"),
        above=params.flag("show_caption_above_media"),
    )


async def _send_media(world: World, params: Params, kind: str) -> Any:
    chat = addressed(world, params, kind)
    words = _caption(params)
    reply_markup(params)  # checked before the file is stored
    shown = await media_fields(world.files, params, media_params(params, kind))
    return send(world, params, chat, {**shown, **caption_fields(words)})


def _caption(params: Params) -> Formatted:
    return caption(params.text("caption"), params.text("parse_mode"), params.json("caption_entities"))


def send(
    world: World,
    params: Params,
    chat: ChatUser | Group,
    content: dict[str, Any],
    markup: Markup | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """Store a message of the bot with this content, and return it as the bot gets it; see `Record.extra`."""
    ephemeral = ephemeral_fields(world, params, chat)
    replied = _replied(world, params, chat)
    markup = markup or reply_markup(params)
    thread = params.integer("message_thread_id") or replied.get("reply_to_message", {}).get(
        "message_thread_id", 0
    )
    message = {
        "message_id": 0 if ephemeral else world.messages.next_id(chat.id),
        "from": world.bot,
        "chat": chat.chat(),
        "date": int(world.clock.now()),
        **topic_fields(thread),
        **replied,
        **content,
        **({"reply_markup": markup.inline} if markup.inline else {}),
        **ephemeral,
        **business_fields(world.business, world.bot, params),
    }
    if markup.interface:
        extra = {**extra, "interface": markup.interface}
    sent = world.messages.put(message, **extra)
    return {**sent, "message_id": 0} if isinstance(chat, Group) and chat.unnumbered else sent


def topic_fields(thread: int) -> dict[str, Any]:
    """Return the fields of a message in a forum's topic; 0 is none."""
    return {"message_thread_id": thread, "is_topic_message": True} if thread else {}


def replied_fields(message: Message, quote: str = "", position: int | None = None) -> dict[str, Any]:
    """Return the fields of a reply to `message`: without what that one replied to, as Telegram does.

    Raises:
        ApiError: 400 when the quote is no part of it.
    """
    without = {key: value for key, value in message.items() if key not in {"reply_to_message", "quote"}}
    if not quote:
        return {"reply_to_message": without}
    text = message.get("text") or message.get("caption") or ""
    at = text.find(quote) if position is None else position
    if units(quote) > MAX_QUOTE or at < 0 or quote not in text:
        raise bad_request("QUOTE_TEXT_INVALID")
    placed = {"text": quote, "position": units(text[: text.find(quote)]), "is_manual": True}
    return {"reply_to_message": without, "quote": placed}


def _replied(world: World, params: Params, chat: ChatUser | Group) -> dict[str, Any]:
    wanted = params.json("reply_parameters") or {}
    if not isinstance(wanted, dict):
        raise bad_request("object expected as reply parameters")
    message_id = wanted.get("message_id") or params.integer("reply_to_message_id")
    if not message_id:
        return {}
    place = place_of(chat.id, params.text("business_connection_id"))
    found = world.messages.find(place, int(message_id))
    lenient = wanted.get("allow_sending_without_reply") or params.flag("allow_sending_without_reply")
    if found is None and not lenient:
        raise bad_request("message to be replied not found")
    quote = wanted.get("quote") or ""
    if str(wanted.get("quote_parse_mode") or "").lower() == "html":
        quote = parse_html(quote).text
    return replied_fields(found, quote) if found else {}
