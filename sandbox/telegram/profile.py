"""The Bot API's methods about the bot itself, its commands, chats, members and files."""

import json
import re
from collections.abc import Iterator
from typing import Any

from sandbox.telegram.base import bad_request
from sandbox.telegram.chats import ChatUser, Group
from sandbox.telegram.params import Params
from sandbox.telegram.state import World

COMMAND = re.compile(r"[a-z0-9_]{1,32}")
LANGUAGE = re.compile(r"(?:[a-z]{2})?")
MAX_COMMANDS = 100
MAX_DESCRIPTION = 256
DEFAULT_SCOPE = {"type": "default"}
SCOPES = {
    "default": (), "all_private_chats": (), "all_group_chats": (), "all_chat_administrators": (),
    "chat": ("chat_id",), "chat_administrators": ("chat_id",), "chat_member": ("chat_id", "user_id"),
}  # fmt: skip
PROFILE = {
    "Name": ("name", 64),
    "Description": ("description", 512),
    "ShortDescription": ("short_description", 120),
}
"""Texts of the bot's profile: the end of their methods' names, the answer's field, the most characters."""
GIFTS = ("unlimited_gifts", "limited_gifts", "unique_gifts", "premium_subscription", "gifts_from_channels")
ADMIN_RIGHTS = (
    "can_manage_chat", "can_delete_messages", "can_manage_video_chats", "can_restrict_members",
    "can_promote_members", "can_change_info", "can_invite_users", "can_post_stories", "can_edit_stories",
    "can_delete_stories", "can_send_welcome_messages",
)  # fmt: skip
MEMBER_RIGHTS = (
    "can_send_messages", "can_send_audios", "can_send_documents", "can_send_photos", "can_send_videos",
    "can_send_video_notes", "can_send_voice_notes", "can_send_polls", "can_send_other_messages",
    "can_add_web_page_previews", "can_react_to_messages", "can_edit_tag", "can_change_info",
    "can_invite_users", "can_pin_messages", "can_manage_topics",
)  # fmt: skip


async def get_me(world: World, params: Params) -> Any:  # noqa: ARG001  # all methods have one signature
    return {**world.bot, **world.features}


async def answer_callback_query(world: World, params: Params) -> Any:
    world.callbacks.answer(
        params.text("callback_query_id"), params.text("text"), alert=params.flag("show_alert")
    )
    return True


async def set_my_commands(world: World, params: Params) -> Any:
    commands = params.json("commands") or []
    if not isinstance(commands, list):
        raise bad_request("expected an Array of BotCommand")
    if len(commands) > MAX_COMMANDS:
        raise bad_request("BOT_COMMANDS_TOO_MUCH")
    for command in commands:
        if not isinstance(command, dict):
            raise bad_request("can't parse BotCommand: expected an Object")
        if not COMMAND.fullmatch(str(command.get("command", "")).removeprefix("/")):
            raise bad_request("BOT_COMMAND_INVALID")
        if not 1 <= len(str(command.get("description", ""))) <= MAX_DESCRIPTION:
            raise bad_request("BOT_COMMAND_DESCRIPTION_INVALID")
    key = _scope(world, params)
    world.commands[key] = [{**one, "command": one["command"].removeprefix("/")} for one in commands]
    world.archive.put("commands", key, world.commands[key])
    return True


async def delete_my_commands(world: World, params: Params) -> Any:
    key = _scope(world, params)
    world.commands.pop(key, None)
    world.archive.drop("commands", key)
    return True


async def get_my_commands(world: World, params: Params) -> Any:
    return world.commands.get(_scope(world, params), [])


def commands_for(world: World, chat: ChatUser | Group, user_id: int, language: str) -> list[dict[str, Any]]:
    """Return the command menu that a person sees in a chat: of the narrowest scope that has one."""
    for scope in _scopes(chat, user_id):
        for spoken in (language, ""):
            if found := world.commands.get(_key(scope, spoken)):
                return found
    return []


def _scopes(chat: ChatUser | Group, user_id: int) -> Iterator[dict[str, Any]]:
    """Yield the scopes that apply, narrowest first, in the order that the Bot API documents."""
    if isinstance(chat, Group):
        admin = chat.is_admin(user_id)
        yield {"type": "chat_member", "chat_id": chat.id, "user_id": user_id}
        yield from [{"type": "chat_administrators", "chat_id": chat.id}] if admin else []
        yield {"type": "chat", "chat_id": chat.id}
        yield from [{"type": "all_chat_administrators"}] if admin else []
        yield {"type": "all_group_chats"}
    else:
        yield {"type": "chat", "chat_id": chat.id}
        yield {"type": "all_private_chats"}
    yield DEFAULT_SCOPE


def _scope(world: World, params: Params) -> str:
    """Return the key of a call's scope and language.

    Raises:
        ApiError: 400 when the scope is unknown or names an unknown chat.
    """
    scope = params.json("scope") or DEFAULT_SCOPE
    if not isinstance(scope, dict):
        raise bad_request("can't parse BotCommandScope: BotCommandScope must be an Object")
    if scope.get("type") not in SCOPES:
        raise bad_request("can't parse BotCommandScope: Unsupported type specified")
    named = {name: scope.get(name) for name in SCOPES[scope["type"]]}
    if "chat_id" in named:
        named["chat_id"] = world.chats.chat(str(named["chat_id"] or "")).id
    if "user_id" in named and not str(named["user_id"]).isdigit():
        raise bad_request("can't parse BotCommandScope: Invalid user_id specified")
    return _key({"type": scope["type"], **named}, _language(params))


def _language(params: Params) -> str:
    if not LANGUAGE.fullmatch(params.text("language_code")):
        raise bad_request("LANG_CODE_INVALID")
    return params.text("language_code")


def _key(scope: dict[str, Any], language: str) -> str:
    return json.dumps([scope, language], sort_keys=True)


async def set_my_name(world: World, params: Params) -> Any:
    return _set_text(world, params, "Name")


async def set_my_description(world: World, params: Params) -> Any:
    return _set_text(world, params, "Description")


async def set_my_short_description(world: World, params: Params) -> Any:
    return _set_text(world, params, "ShortDescription")


async def get_my_name(world: World, params: Params) -> Any:
    return {"name": profile_text(world, "name", _language(params)) or world.bot["first_name"]}


async def get_my_description(world: World, params: Params) -> Any:
    return {"description": profile_text(world, "description", _language(params))}


async def get_my_short_description(world: World, params: Params) -> Any:
    return {"short_description": profile_text(world, "short_description", _language(params))}


def profile_text(world: World, name: str, language: str) -> str:
    """Return a text of the profile in this language, or in the default one."""
    return world.profile.get(f"{name}:{language}") or world.profile.get(f"{name}:", "")


def _set_text(world: World, params: Params, kind: str) -> bool:
    name, most = PROFILE[kind]
    text, key = params.text(name), f"{name}:{_language(params)}"
    if len(text) > most:
        raise bad_request(f"BOT_{name.upper()}_TOO_LONG" if name != "name" else "BOT_TITLE_INVALID")
    world.profile[key] = text
    world.archive.put("profile", key, text)
    return True


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
    full: dict[str, Any] = {
        **chat.chat(),
        "accent_color_id": 0,
        "max_reaction_count": 11,
        "accepted_gift_types": dict.fromkeys(GIFTS, False),
    }
    return {**full, "permissions": {"can_send_messages": True}} if isinstance(chat, Group) else full


async def get_chat_member(world: World, params: Params) -> Any:
    chat = world.chats.readable(params.text("chat_id"))
    user_id = params.integer("user_id")
    if user_id == world.bot["id"] and isinstance(chat, Group):
        return member(chat.bot_status, world.bot)
    if user_id not in world.chats.users:
        raise bad_request("PARTICIPANT_ID_INVALID" if isinstance(chat, Group) else "member not found")
    user = world.chats.users[user_id].user()
    if not isinstance(chat, Group):
        return member("member", user)
    return member(chat.members.get(str(user_id), "left"), user, anonymous=user_id in chat.anonymous)


async def get_chat_administrators(world: World, params: Params) -> Any:
    chat = world.chats.readable(params.text("chat_id"))
    if not isinstance(chat, Group):
        raise bad_request("there are no administrators in the private chat")
    return [
        member(status, world.chats.users[int(user_id)].user(), anonymous=int(user_id) in chat.anonymous)
        for user_id, status in chat.members.items()
        if status in {"creator", "administrator"} and int(user_id) in world.chats.users
    ]


def member(status: str, user: dict[str, Any], *, anonymous: bool = False) -> dict[str, Any]:
    """Return a ChatMember with the fields that its status has."""
    base = {"status": status, "user": user}
    match status:
        case "creator":
            return {**base, "is_anonymous": anonymous}
        case "administrator":
            return {
                **base,
                "can_be_edited": False,
                "is_anonymous": anonymous,
                **dict.fromkeys(ADMIN_RIGHTS, True),
            }
        case "restricted":
            return {**base, "is_member": True, "until_date": 0, **dict.fromkeys(MEMBER_RIGHTS, False)}
        case "kicked":
            return {**base, "until_date": 0}
    return base
