"""Methods that change a message of the bot's in place."""

from typing import Any

from chat.rehearsal.errors import bad_request
from chat.rehearsal.forms import Params
from chat.rehearsal.keyboards import inline_keyboard
from chat.rehearsal.media import SIDE_KINDS, Media, caption_fields, media_fields
from chat.rehearsal.messages import Message
from chat.rehearsal.sending import text_fields
from chat.rehearsal.texts import caption, message_text
from chat.rehearsal.world import World

NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the same"
    " as a current content and reply markup of the message"
)
CONTENT = ("text", "entities", "caption", "caption_entities", *SIDE_KINDS, "reply_markup")


async def edit_message_text(world: World, params: Params) -> Any:
    old = _target(world, params)
    if "text" not in old:
        raise bad_request("there is no text in the message to edit")
    return _change(world, params, old, text_fields(message_text(params)))


async def edit_message_caption(world: World, params: Params) -> Any:
    old = _target(world, params)
    shown = _media_of(old)
    if not shown:
        raise bad_request("there is no caption in the message to edit")
    words = caption(params.text("caption"), params.text("parse_mode"), params.json("caption_entities"))
    return _change(world, params, old, {**shown, **caption_fields(words)})


async def edit_message_media(world: World, params: Params) -> Any:
    """Replace the media, or put media in the place of a text."""
    _target(world, params)
    media = params.json("media")
    if not isinstance(media, dict) or not isinstance(media.get("media"), str):
        raise bad_request("can't parse InputMedia: object with the fields type and media expected")
    if media.get("type") not in {"video", "photo"}:
        raise bad_request(f'can\'t parse InputMedia: type "{media.get("type")}" is unknown to the rehearsal')
    words = caption(media.get("caption") or "", media.get("parse_mode") or "", media.get("caption_entities"))
    inline_keyboard(params, editing=True)  # checked before the file is kept
    about = {name: int(media.get(name) or 0) for name in ("width", "height", "duration")}
    wanted = Media(media["type"], media["media"], media.get("thumbnail") or "", about)
    shown = await media_fields(world.files, params, wanted)
    # Looked up again: the chat went on while the upload was kept.
    return _change(world, params, _target(world, params), {**shown, **caption_fields(words)})


async def edit_message_reply_markup(world: World, params: Params) -> Any:
    old = _target(world, params)
    kept = {key: old[key] for key in CONTENT if key in old and key != "reply_markup"}
    return _change(world, params, old, kept)


def _target(world: World, params: Params) -> Message:
    if params.text("inline_message_id"):
        raise bad_request("MESSAGE_ID_INVALID")
    chat = world.crowd.writable(params.text("chat_id"))
    if not params.integer("message_id"):
        raise bad_request("message identifier is not specified")
    message = world.messages.find(chat.id, params.integer("message_id"))
    if message is None:
        raise bad_request("message to edit not found")
    if message["from"]["id"] != world.bot["id"]:
        raise bad_request("message can't be edited")
    return message


def _media_of(message: Message) -> dict[str, Any]:
    return {kind: message[kind] for kind in SIDE_KINDS if kind in message}


def _change(world: World, params: Params, old: Message, content: dict[str, Any]) -> Message:
    """Put the new content in; an edit without a keyboard takes the keyboard away."""
    keyboard = inline_keyboard(params, editing=True)
    content = {**content, **({"reply_markup": keyboard} if keyboard else {})}
    if all(old.get(key) == content.get(key) for key in CONTENT):
        raise bad_request(NOT_MODIFIED)
    kept = {key: value for key, value in old.items() if key not in CONTENT}
    return world.messages.put({**kept, "edit_date": int(world.clock.now()), **content})
