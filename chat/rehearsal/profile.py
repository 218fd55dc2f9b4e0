"""Methods about the bot itself, its commands, its taps, chats and files."""

import json
import re
from typing import Any

from chat.rehearsal.crowd import Group
from chat.rehearsal.errors import bad_request
from chat.rehearsal.forms import Params
from chat.rehearsal.world import World

COMMAND = re.compile(r"[a-z0-9_]{1,32}")
MAX_DESCRIPTION = 256
DEFAULT_SCOPE = {"type": "default"}


async def get_me(world: World, params: Params) -> Any:  # noqa: ARG001  # every method has one form
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
    chat = world.crowd.chat(params.text("chat_id"))
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
    """The command menu that a person sees in a private chat: the narrowest scope that was set."""
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
