"""Methods that put something new into a chat, or take it out."""

from typing import Any

from chat.rehearsal.crowd import Card, Group
from chat.rehearsal.entities import Formatted
from chat.rehearsal.errors import bad_request
from chat.rehearsal.forms import Params
from chat.rehearsal.keyboards import inline_keyboard
from chat.rehearsal.media import Media, caption_fields, media_fields
from chat.rehearsal.texts import caption, message_text
from chat.rehearsal.world import World

ACTIONS = {
    "typing", "upload_photo", "record_video", "upload_video", "record_voice", "upload_voice",
    "upload_document", "choose_sticker", "find_location", "record_video_note", "upload_video_note",
}  # fmt: skip


async def send_message(world: World, params: Params) -> Any:
    chat = world.crowd.writable(params.text("chat_id"))
    return _send(world, params, chat, text_fields(message_text(params)))


async def send_video(world: World, params: Params) -> Any:
    return await _send_media(world, params, "video")


async def send_photo(world: World, params: Params) -> Any:
    return await _send_media(world, params, "photo")


async def delete_message(world: World, params: Params) -> Any:
    chat = world.crowd.chat(params.text("chat_id"))
    message = world.messages.find(chat.id, params.integer("message_id"))
    if message is None:
        raise bad_request("message to delete not found")
    if isinstance(chat, Group) and message["from"]["id"] != world.bot["id"]:
        raise bad_request("message can't be deleted")
    return world.messages.remove(chat.id, message["message_id"])


async def send_chat_action(world: World, params: Params) -> Any:
    chat = world.crowd.writable(params.text("chat_id"))
    action = params.text("action").lower()
    if action not in ACTIONS:
        raise bad_request("wrong parameter action in request")
    world.feed.publish(chat.id, "action", {"action": action})
    return True


def text_fields(formatted: Formatted) -> dict[str, Any]:
    return {"text": formatted.text, **({"entities": formatted.entities} if formatted.entities else {})}


async def _send_media(world: World, params: Params, kind: str) -> Any:
    chat = world.crowd.writable(params.text("chat_id"))
    words = caption(params.text("caption"), params.text("parse_mode"), params.json("caption_entities"))
    inline_keyboard(params)  # checked before the file is kept
    about = {name: params.integer(name) for name in ("width", "height", "duration")}
    source = params.text(kind) or (kind if kind in params.uploads else "")
    thumbnail = params.text("thumbnail") or "thumbnail"
    shown = await media_fields(world.files, params, Media(kind, source, thumbnail, about))
    return _send(world, params, chat, {**shown, **caption_fields(words)})


def _send(world: World, params: Params, chat: Card | Group, content: dict[str, Any]) -> dict[str, Any]:
    reply = _replied(world, params, chat)
    keyboard = inline_keyboard(params)
    message = {
        "message_id": world.messages.next_id(chat.id),
        "from": world.bot,
        "chat": chat.chat(),
        "date": int(world.clock.now()),
        **({"reply_to_message": reply} if reply else {}),
        **content,
        **({"reply_markup": keyboard} if keyboard else {}),
    }
    return world.messages.put(message)


def _replied(world: World, params: Params, chat: Card | Group) -> dict[str, Any] | None:
    wanted = params.json("reply_parameters") or {}
    message_id = wanted.get("message_id") or params.integer("reply_to_message_id")
    if not message_id:
        return None
    found = world.messages.find(chat.id, int(message_id))
    if found is None and not wanted.get("allow_sending_without_reply"):
        raise bad_request("message to be replied not found")
    return {key: value for key, value in found.items() if key != "reply_to_message"} if found else None
