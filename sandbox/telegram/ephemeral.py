"""Ephemeral messages of groups: one person and the bot see them, and no one else."""

from collections.abc import Awaitable, Callable
from typing import Any

from sandbox.telegram.base import bad_request
from sandbox.telegram.chats import ChatUser, Group
from sandbox.telegram.params import Params
from sandbox.telegram.state import World, number_of

REPLY_WITHIN = 15.0
"""In seconds: how long after a tap or an ephemeral command the bot may answer with an ephemeral message."""


def ephemeral_fields(world: World, params: Params, chat: ChatUser | Group) -> dict[str, Any]:
    """Return the fields that make a message ephemeral; none where the call asks for an ordinary one.

    Raises:
        ApiError: 400 when it is not in a group, the person is no member, or the answer comes too late.
    """
    wanted = _parameters(params)
    if not wanted:
        return {}
    if not isinstance(chat, Group):
        raise bad_request("ephemeral messages can be sent to groups and supergroups only")
    user_id = wanted.get("receiver_user_id")
    if chat.members.get(str(user_id)) in {None, "left", "kicked"}:
        raise bad_request("PARTICIPANT_ID_INVALID")
    _check_answers(world, params, chat, wanted)
    return {
        "message_id": 0,
        "receiver_user": world.chats.users[int(str(user_id))].user(),
        "ephemeral_message_id": world.messages.next_ephemeral(chat.id),
    }


def _parameters(params: Params) -> dict[str, Any]:
    """Return the parameters, from the object or from the older fields of the call."""
    wanted = params.json("ephemeral_message_parameters")
    if wanted is not None and not isinstance(wanted, dict):
        raise bad_request("object expected as ephemeral message parameters")
    if wanted is None and params.integer("receiver_user_id"):
        wanted = {
            "receiver_user_id": params.integer("receiver_user_id"),
            "callback_query_id": params.text("callback_query_id"),
        }
    return wanted or {}


def _check_answers(world: World, params: Params, chat: Group, wanted: dict[str, Any]) -> None:
    """Check what the message answers: a tap or an ephemeral command, each for fifteen seconds."""
    limit = world.clock.time_limit(REPLY_WITHIN)
    if tap := wanted.get("callback_query_id"):
        opened = world.callbacks.opened_at(str(tap))
        if opened is None or world.clock.now() - opened > limit:
            raise bad_request("query is too old and response timeout expired or query ID is invalid")
    replied = (params.json("reply_parameters") or {}).get("ephemeral_message_id")
    if replied:
        message = world.messages.find(chat.id, -int(replied))
        if message is None or world.clock.now() - message["date"] > limit + 1:
            raise bad_request("message to be replied not found")


def shown_to(message: dict[str, Any], viewer: int) -> bool:
    """Return whether a person sees a message: an ephemeral one is for its sender and its receiver."""
    if "ephemeral_message_id" not in message:
        return True
    return viewer in {message["from"]["id"], message["receiver_user"]["id"]}


Edit = Callable[[World, Params], Awaitable[Any]]


def of_ephemeral(edit: Edit) -> Edit:
    """Return the method that does to an ephemeral message what `edit` does to an ordinary one."""

    async def perform(world: World, params: Params) -> Any:
        chat = world.chats.writable(params.text("chat_id"))
        number = params.integer("ephemeral_message_id")
        message = world.messages.find(chat.id, -number) if number else None
        if message is None or message["receiver_user"]["id"] != params.integer("receiver_user_id"):
            raise bad_request("message to edit not found")
        fields = {**params.fields, "message_id": str(number_of(message))}
        await edit(world, Params(fields, params.uploads))
        return True

    return perform
