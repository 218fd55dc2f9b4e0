"""The Bot API's methods that change messages: edits, deletions, reactions."""

from typing import Any

from sandbox.telegram.base import bad_request
from sandbox.telegram.chats import Group
from sandbox.telegram.keyboards import reply_markup
from sandbox.telegram.media import MEDIA_FIELDS, Media, caption_fields, media_fields, media_of
from sandbox.telegram.params import Params, caption
from sandbox.telegram.sending import text_content
from sandbox.telegram.state import Message, World, number_of, place_of

NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the same"
    " as a current content and reply markup of the message"
)
CONTENT = (
    "text", "entities", "link_preview_options", "caption", "caption_entities", *MEDIA_FIELDS, "reply_markup",
)  # fmt: skip
EDITED_MEDIA = {"video", "photo", "document"}
MAX_DELETED = 100
REACTIONS = frozenset(
    [
        "❤", "👍", "👎", "🔥", "🥰", "👏", "😁", "🤔", "🤯", "😱", "🤬",
        "😢", "🎉", "🤩", "🤮", "💩", "🙏", "👌", "🕊", "🤡", "🥱", "🥴",
        "😍", "🐳", "❤\u200d🔥", "🌚", "🌭", "💯", "🤣", "⚡", "🍌", "🏆", "💔",
        "🤨", "😐", "🍓", "🍾", "💋", "🖕", "😈", "😴", "😭", "🤓", "👻",
        "👨\u200d💻", "👀", "🎃", "🙈", "😇", "😨", "🤝", "✍", "🤗", "🫡", "🎅",
        "🎄", "☃", "💅", "🤪", "🗿", "🆒", "💘", "🙉", "🦄", "😘", "💊",
        "🙊", "😎", "👾", "🤷\u200d♂", "🤷", "🤷\u200d♀", "😡",
    ]
)  # fmt: skip
"""ReactionTypeEmoji of the Bot API: no other emoji is a reaction."""


async def edit_message_text(world: World, params: Params) -> Any:
    old = _target(world, params)
    if "text" not in old:
        raise bad_request("there is no text in the message to edit")
    return _change(world, params, old, text_content(params))


async def edit_message_caption(world: World, params: Params) -> Any:
    old = _target(world, params)
    shown = media_of(old)
    if not shown:
        raise bad_request("there is no caption in the message to edit")
    words = caption(params.text("caption"), params.text("parse_mode"), params.json("caption_entities"))
    return _change(world, params, old, {**shown, **caption_fields(words)})


async def edit_message_media(world: World, params: Params) -> Any:
    """Replace the media, or a text by media."""
    _target(world, params)
    media = params.json("media")
    if not isinstance(media, dict) or not isinstance(media.get("media"), str):
        raise bad_request("can't parse InputMedia: object with the fields type and media expected")
    if media.get("type") not in EDITED_MEDIA:
        raise bad_request(f'can\'t parse InputMedia: type "{media.get("type")}" is unknown to the sandbox')
    words = caption(media.get("caption") or "", media.get("parse_mode") or "", media.get("caption_entities"))
    reply_markup(params, editing=True)  # checked before the file is stored
    shown = await media_fields(world.files, params, _input_media(media))
    # Read again: it may have changed while the upload was stored.
    return _change(world, params, _target(world, params), {**shown, **caption_fields(words)})


def _input_media(media: dict[str, Any]) -> Media:
    return Media(
        kind=media["type"],
        source=media["media"],
        thumbnail=media.get("thumbnail") or "",
        about={name: int(media.get(name) or 0) for name in ("width", "height", "duration")},
        cover=media.get("cover") or "",
        start=int(media.get("start_timestamp") or 0),
        spoiler=bool(media.get("has_spoiler")),
        above=bool(media.get("show_caption_above_media")),
    )


async def edit_message_reply_markup(world: World, params: Params) -> Any:
    old = _target(world, params)
    kept = {key: old[key] for key in CONTENT if key in old and key != "reply_markup"}
    return _change(world, params, old, kept)


async def delete_message(world: World, params: Params) -> Any:
    chat = world.chats.chat(params.text("chat_id"))
    message = world.messages.find(chat.id, params.integer("message_id"))
    if message is None:
        raise bad_request("message to delete not found")
    if isinstance(chat, Group) and message["from"]["id"] != world.bot["id"] and not chat.admin:
        raise bad_request("message can't be deleted")
    return world.messages.remove(chat.id, number_of(message))


async def delete_messages(world: World, params: Params) -> Any:
    """Delete up to a hundred messages; those that are not found are skipped, as in Telegram."""
    ids = params.json("message_ids")
    if not isinstance(ids, list) or not ids:
        raise bad_request("message identifiers are not specified")
    if len(ids) > MAX_DELETED:
        raise bad_request("too many message identifiers specified")
    chat = world.chats.chat(params.text("chat_id"))
    for number in ids:
        message = world.messages.find(chat.id, int(number))
        if message is not None and (not isinstance(chat, Group) or chat.admin or _is_own(world, message)):
            world.messages.remove(chat.id, message["message_id"])
    return True


async def set_message_reaction(world: World, params: Params) -> Any:
    """Set or, with an empty list, remove the bot's reaction."""
    chat = world.chats.writable(params.text("chat_id"))
    message = world.messages.find(chat.id, params.integer("message_id"))
    if message is None:
        raise bad_request("message to react not found")
    wanted = params.json("reaction") or []
    if not isinstance(wanted, list):
        raise bad_request("expected an Array of ReactionType")
    emoji = [_reaction(one) for one in wanted]
    if len(emoji) > 1:
        raise bad_request("REACTIONS_TOO_MANY")
    world.messages.react(chat.id, message["message_id"], world.bot["id"], emoji[0] if emoji else "")
    return True


def _reaction(wanted: Any) -> str:
    if not isinstance(wanted, dict) or not isinstance(wanted.get("type"), str):
        raise bad_request("can't parse ReactionType: expected an Object")
    if wanted["type"] != "emoji" or not isinstance(wanted.get("emoji"), str):
        raise bad_request("can't parse ReactionType: invalid reaction type specified")
    emoji: str = wanted["emoji"].replace(
        "\ufe0f", ""
    )  # the selector of the coloured form, which Telegram drops
    if emoji not in REACTIONS:
        raise bad_request("REACTION_INVALID")
    return emoji


def _target(world: World, params: Params) -> Message:
    if params.text("inline_message_id"):
        return _inline_target(world, params.text("inline_message_id"))
    connection = params.text("business_connection_id")
    named = world.chats.chat if connection else world.chats.writable
    chat = named(params.text("chat_id"))
    if not params.integer("message_id"):
        raise bad_request("message identifier is not specified")
    message = world.messages.find(place_of(chat.id, connection), params.integer("message_id"))
    if message is None:
        raise bad_request("message to edit not found")
    if not _is_own(world, message):
        raise bad_request("message can't be edited")
    return message


def _inline_target(world: World, inline_id: str) -> Message:
    """Return a message that a person sent via the bot, wherever it is."""
    place = world.inline.places.get(inline_id)
    message = world.messages.find(*place) if place else None
    if message is None:
        raise bad_request("MESSAGE_ID_INVALID")
    return message


def _is_own(world: World, message: Message) -> bool:
    return bool(world.bot["id"] in {message["from"]["id"], message.get("sender_business_bot", {}).get("id")})


def _change(world: World, params: Params, old: Message, content: dict[str, Any]) -> Message | bool:
    """Replace the content; an edit without a keyboard removes the keyboard.

    Returns:
        The message; True for one whose chat the bot may not know.
    """
    keyboard = reply_markup(params, editing=True).inline
    content = {**content, **({"reply_markup": keyboard} if keyboard else {})}
    if all(old.get(key) == content.get(key) for key in CONTENT):
        raise bad_request(NOT_MODIFIED)
    kept = {key: value for key, value in old.items() if key not in CONTENT}
    changed = world.messages.put({**kept, "edit_date": int(world.clock.now()), **content})
    return True if params.text("inline_message_id") else changed
