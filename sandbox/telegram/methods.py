"""The Bot API's methods: sending, editing, media, commands and profile."""

import json
import re
from dataclasses import dataclass
from typing import Any

from sandbox.telegram.base import bad_request
from sandbox.telegram.files import FileStore, StoredFile, has_sound, is_jpeg, is_mp4, picture_size
from sandbox.telegram.html import Formatted
from sandbox.telegram.params import Params, Upload, caption, inline_keyboard, message_text
from sandbox.telegram.state import ChatUser, Group, Message, World

MAX_PHOTO = 10 * 1024 * 1024
MAX_THUMBNAIL = 200 * 1024
SIDE_KINDS = ("video", "animation", "document", "photo")
ACTIONS = {
    "typing", "upload_photo", "record_video", "upload_video", "record_voice", "upload_voice",
    "upload_document", "choose_sticker", "find_location", "record_video_note", "upload_video_note",
}  # fmt: skip
NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup are exactly the same"
    " as a current content and reply markup of the message"
)
CONTENT = ("text", "entities", "caption", "caption_entities", *SIDE_KINDS, "reply_markup")
COMMAND = re.compile(r"[a-z0-9_]{1,32}")
MAX_DESCRIPTION = 256
DEFAULT_SCOPE = {"type": "default"}


@dataclass(frozen=True)
class Media:
    """The media of a call: `source` is a file id or `attach://token`, `about` the declared sizes."""

    kind: str
    source: str
    thumbnail: str
    about: dict[str, int]


async def media_fields(files: FileStore, params: Params, media: Media) -> dict[str, Any]:
    """Return the fields of a Message that hold this media.

    Raises:
        ApiError: 400 when there is no file, or an unknown or broken one.
    """
    if not media.source:
        raise bad_request(f"there is no {media.kind} in the request")
    upload = params.upload(media.source)
    if upload is None:
        return _fields(_known(files, media.source))
    if not upload.data:
        raise bad_request("file must be non-empty")
    if media.kind == "photo":
        return _fields(await _keep_photo(files, upload))
    return _fields(await _keep_video(files, params, media, upload))


def caption_fields(formatted: Formatted) -> dict[str, Any]:
    if not formatted.text:
        return {}
    marked = {"caption_entities": formatted.entities} if formatted.entities else {}
    return {"caption": formatted.text, **marked}


async def keep_picture(files: FileStore, data: bytes, name: str) -> StoredFile:
    """Store a photo that a person sends.

    Raises:
        ApiError: 400 when it is not a picture.
    """
    return await _keep_photo(files, Upload(name, data))


def _known(files: FileStore, source: str) -> StoredFile:
    if source.startswith("attach://"):
        raise bad_request("there is no file in the request for " + source)
    if source.startswith(("http://", "https://")):
        raise bad_request("failed to get HTTP URL content")
    file = files.find(source)
    if file is None:
        raise bad_request("wrong file identifier/HTTP URL specified")
    return file


def _fields(file: StoredFile) -> dict[str, Any]:
    if file.kind == "photo":
        return {"photo": [file.json()]}
    # An animation is also sent as a document, for bots that do not know animations.
    return {file.kind: file.json(), **({"document": file.json()} if file.kind == "animation" else {})}


async def _keep_photo(files: FileStore, upload: Upload) -> StoredFile:
    size = picture_size(upload.data)
    if len(upload.data) > MAX_PHOTO:
        raise bad_request("PHOTO_SAVE_FILE_INVALID")
    if size is None:
        raise bad_request("IMAGE_PROCESS_FAILED")
    return await files.save("photo", upload.data, upload.filename, {"width": size[0], "height": size[1]})


async def _keep_video(files: FileStore, params: Params, media: Media, upload: Upload) -> StoredFile:
    """Store an upload: an MP4 with sound is a video, one without an animation, anything else a document."""
    thumbnail = await _keep_thumbnail(files, params.upload(media.thumbnail))
    if not is_mp4(upload.data):
        return await files.save("document", upload.data, upload.filename, thumbnail)
    kind = "video" if has_sound(upload.data) else "animation"
    sizes = {name: media.about.get(name, 0) for name in ("width", "height", "duration")}
    return await files.save(kind, upload.data, upload.filename, {**sizes, **thumbnail})


async def _keep_thumbnail(files: FileStore, upload: Upload | None) -> dict[str, Any]:
    """Store a thumbnail; one that is not a JPEG or over 200 kB is ignored, as Telegram does."""
    if upload is None or not is_jpeg(upload.data) or len(upload.data) > MAX_THUMBNAIL:
        return {}
    width, height = picture_size(upload.data) or (0, 0)
    if not 0 < max(width, height) <= 320:
        return {}
    kept = await files.save("thumbnail", upload.data, upload.filename, {"width": width, "height": height})
    return {"thumbnail": kept.json()}


SENT_KINDS = {"text": "text messages", "video": "videos", "photo": "photos"}
"""How the Bot API server names what a bot may not send to a chat."""


def _addressed(world: World, params: Params, kind: str) -> ChatUser | Group:
    """Return the chat to send to, if the bot may send this kind of message there, and to that topic."""
    chat = world.chats.writable(params.text("chat_id"))
    if isinstance(chat, Group):
        chat.check_rights(SENT_KINDS[kind], params.integer("message_thread_id"))
    return chat


async def send_message(world: World, params: Params) -> Any:
    chat = _addressed(world, params, "text")
    return _send(world, params, chat, text_fields(message_text(params)))


async def send_video(world: World, params: Params) -> Any:
    return await _send_media(world, params, "video")


async def send_photo(world: World, params: Params) -> Any:
    return await _send_media(world, params, "photo")


async def delete_message(world: World, params: Params) -> Any:
    chat = world.chats.chat(params.text("chat_id"))
    message = world.messages.find(chat.id, params.integer("message_id"))
    if message is None:
        raise bad_request("message to delete not found")
    if isinstance(chat, Group) and message["from"]["id"] != world.bot["id"]:
        raise bad_request("message can't be deleted")
    return world.messages.remove(chat.id, message["message_id"])


async def send_chat_action(world: World, params: Params) -> Any:
    chat = world.chats.writable(params.text("chat_id"))
    action = params.text("action").lower()
    if action not in ACTIONS:
        raise bad_request("wrong parameter action in request")
    world.feed.publish(chat.id, "action", {"action": action})
    return True


def text_fields(formatted: Formatted) -> dict[str, Any]:
    return {"text": formatted.text, **({"entities": formatted.entities} if formatted.entities else {})}


async def _send_media(world: World, params: Params, kind: str) -> Any:
    chat = _addressed(world, params, kind)
    words = caption(params.text("caption"), params.text("parse_mode"), params.json("caption_entities"))
    inline_keyboard(params)  # checked before the file is stored
    about = {name: params.integer(name) for name in ("width", "height", "duration")}
    source = params.text(kind) or (kind if kind in params.uploads else "")
    thumbnail = params.text("thumbnail") or "thumbnail"
    shown = await media_fields(world.files, params, Media(kind, source, thumbnail, about))
    return _send(world, params, chat, {**shown, **caption_fields(words)})


def _send(world: World, params: Params, chat: ChatUser | Group, content: dict[str, Any]) -> dict[str, Any]:
    reply = _replied(world, params, chat)
    keyboard = inline_keyboard(params)
    message = {
        "message_id": world.messages.next_id(chat.id),
        "from": world.bot,
        "chat": chat.chat(),
        "date": int(world.clock.now()),
        **topic_fields(params.integer("message_thread_id")),
        **({"reply_to_message": reply} if reply else {}),
        **content,
        **({"reply_markup": keyboard} if keyboard else {}),
    }
    sent = world.messages.put(message)
    return {**sent, "message_id": 0} if isinstance(chat, Group) and chat.unnumbered else sent


def topic_fields(thread: int) -> dict[str, Any]:
    """Return the fields of a message in a forum's topic; 0 is none."""
    return {"message_thread_id": thread, "is_topic_message": True} if thread else {}


def _replied(world: World, params: Params, chat: ChatUser | Group) -> dict[str, Any] | None:
    wanted = params.json("reply_parameters") or {}
    message_id = wanted.get("message_id") or params.integer("reply_to_message_id")
    if not message_id:
        return None
    found = world.messages.find(chat.id, int(message_id))
    if found is None and not wanted.get("allow_sending_without_reply"):
        raise bad_request("message to be replied not found")
    return {key: value for key, value in found.items() if key != "reply_to_message"} if found else None


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
    """Replace the media, or a text by media."""
    _target(world, params)
    media = params.json("media")
    if not isinstance(media, dict) or not isinstance(media.get("media"), str):
        raise bad_request("can't parse InputMedia: object with the fields type and media expected")
    if media.get("type") not in {"video", "photo"}:
        raise bad_request(f'can\'t parse InputMedia: type "{media.get("type")}" is unknown to the sandbox')
    words = caption(media.get("caption") or "", media.get("parse_mode") or "", media.get("caption_entities"))
    inline_keyboard(params, editing=True)  # checked before the file is stored
    about = {name: int(media.get(name) or 0) for name in ("width", "height", "duration")}
    wanted = Media(media["type"], media["media"], media.get("thumbnail") or "", about)
    shown = await media_fields(world.files, params, wanted)
    # Read again: it may have changed while the upload was stored.
    return _change(world, params, _target(world, params), {**shown, **caption_fields(words)})


async def edit_message_reply_markup(world: World, params: Params) -> Any:
    old = _target(world, params)
    kept = {key: old[key] for key in CONTENT if key in old and key != "reply_markup"}
    return _change(world, params, old, kept)


def _target(world: World, params: Params) -> Message:
    if params.text("inline_message_id"):
        raise bad_request("MESSAGE_ID_INVALID")
    chat = world.chats.writable(params.text("chat_id"))
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
    """Replace the content; an edit without a keyboard removes the keyboard."""
    keyboard = inline_keyboard(params, editing=True)
    content = {**content, **({"reply_markup": keyboard} if keyboard else {})}
    if all(old.get(key) == content.get(key) for key in CONTENT):
        raise bad_request(NOT_MODIFIED)
    kept = {key: value for key, value in old.items() if key not in CONTENT}
    return world.messages.put({**kept, "edit_date": int(world.clock.now()), **content})


async def get_me(world: World, params: Params) -> Any:  # noqa: ARG001  # all methods have one signature
    return {
        **world.bot,
        "can_join_groups": True,
        "can_read_all_group_messages": False,
        "supports_inline_queries": False,
        "can_connect_to_business": False,
        "has_main_web_app": False,
    }


async def answer_callback_query(world: World, params: Params) -> Any:
    world.callbacks.answer(
        params.text("callback_query_id"), params.text("text"), alert=params.flag("show_alert")
    )
    return True


async def set_my_commands(world: World, params: Params) -> Any:
    commands = params.json("commands")
    if not isinstance(commands, list):
        raise bad_request("can't parse commands: Array of BotCommand expected")
    for command in commands:
        if not COMMAND.fullmatch(str(command.get("command", "")).removeprefix("/")):
            raise bad_request("BOT_COMMAND_INVALID")
        if not 1 <= len(str(command.get("description", ""))) <= MAX_DESCRIPTION:
            raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
    key = _scope(params)
    world.commands[key] = commands
    world.archive.put("commands", key, commands)
    return True


async def delete_my_commands(world: World, params: Params) -> Any:
    world.commands.pop(_scope(params), None)
    world.archive.drop("commands", _scope(params))
    return True


async def get_my_commands(world: World, params: Params) -> Any:
    return world.commands.get(_scope(params), [])


async def get_file(world: World, params: Params) -> Any:
    file = world.files.for_download(params.text("file_id"))
    return {
        "file_id": file.file_id,
        "file_unique_id": file.unique_id,
        "file_size": file.size,
        "file_path": file.path,
    }


async def get_chat(world: World, params: Params) -> Any:
    chat = world.chats.chat(params.text("chat_id"))
    gifts = (
        "unlimited_gifts",
        "limited_gifts",
        "unique_gifts",
        "premium_subscription",
        "gifts_from_channels",
    )
    full: dict[str, Any] = {
        **chat.chat(),
        "accent_color_id": 0,
        "max_reaction_count": 11,
        "accepted_gift_types": dict.fromkeys(gifts, False),
    }
    return {**full, "permissions": {"can_send_messages": True}} if isinstance(chat, Group) else full


def commands_for(world: World, chat_id: int, language: str) -> list[dict[str, Any]]:
    """Return the command menu of a private chat: the narrowest scope that is set."""
    scopes = ({"type": "chat", "chat_id": chat_id}, {"type": "all_private_chats"}, DEFAULT_SCOPE)
    for scope in scopes:
        for spoken in (language, ""):
            if found := world.commands.get(_key(scope, spoken)):
                return found
    return []


def _scope(params: Params) -> str:
    return _key(params.json("scope") or DEFAULT_SCOPE, params.text("language_code"))


def _key(scope: dict[str, Any], language: str) -> str:
    return json.dumps([scope, language], sort_keys=True)
