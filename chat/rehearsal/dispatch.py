"""From an HTTP request to a method and back: token, method, faults, record, answer."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from chat.rehearsal import editing, polling, profile, sending
from chat.rehearsal.calls import Call
from chat.rehearsal.errors import ApiError, RehearsalError
from chat.rehearsal.faults import Fault
from chat.rehearsal.forms import Params, read_params
from chat.rehearsal.world import World
from telemetry.logs import get_logger

log = get_logger(__name__)

Method = Callable[[World, Params], Awaitable[Any]]
METHODS: dict[str, Method] = {
    "getMe": profile.get_me,
    "getUpdates": polling.get_updates,
    "setWebhook": polling.set_webhook,
    "deleteWebhook": polling.delete_webhook,
    "getWebhookInfo": polling.get_webhook_info,
    "sendMessage": sending.send_message,
    "sendVideo": sending.send_video,
    "sendPhoto": sending.send_photo,
    "sendChatAction": sending.send_chat_action,
    "deleteMessage": sending.delete_message,
    "editMessageText": editing.edit_message_text,
    "editMessageCaption": editing.edit_message_caption,
    "editMessageMedia": editing.edit_message_media,
    "editMessageReplyMarkup": editing.edit_message_reply_markup,
    "answerCallbackQuery": profile.answer_callback_query,
    "setMyCommands": profile.set_my_commands,
    "deleteMyCommands": profile.delete_my_commands,
    "getMyCommands": profile.get_my_commands,
    "getFile": profile.get_file,
    "getChat": profile.get_chat,
}
# Telegram does not care for the case of a method's name.
NAMES = {name.lower(): name for name in METHODS}
WORLD: web.AppKey[World] = web.AppKey("world", World)


async def serve_method(request: web.Request) -> web.StreamResponse:
    """`/bot<token>/<method>`, by GET or POST."""
    world = request.app[WORLD]
    try:
        _check_token(world, request.match_info["token"])
        name = _name(request.match_info["method"])
        params = await read_params(request)
    except ApiError as error:
        return _refusal(error)
    call = world.calls.add(name, params.shown())
    fault = world.faults.take(name)
    if fault is None:
        return await _perform(world, call, params)
    answer = await _perform(world, call, params) if fault.performed else None
    return await _break(world, request, call, fault, answer)


async def serve_file(request: web.Request) -> web.StreamResponse:
    """`/file/bot<token>/<file_path>`: the bytes that getFile named."""
    world = request.app[WORLD]
    try:
        _check_token(world, request.match_info["token"])
    except ApiError as error:
        return _refusal(error)
    file = world.files.by_path(request.match_info["path"])
    if file is None:
        return _refusal(ApiError(404, "Not Found"))
    return web.FileResponse(world.files.on_disk(file))


def _check_token(world: World, token: str) -> None:
    if token != world.token:
        raise ApiError(401, "Unauthorized")


def _name(method: str) -> str:
    try:
        return NAMES[method.lower()]
    except KeyError:
        raise ApiError(404, "Not Found: method not found") from None


async def _perform(world: World, call: Call, params: Params) -> web.Response:
    try:
        result = await METHODS[call.method](world, params)
    except ApiError as error:
        world.calls.settle(call, error.code, error.description)
        return _refusal(error)
    except RehearsalError as error:
        log.warning("rehearsal.failed", method=call.method, reason=str(error))
        world.calls.settle(call, 500, str(error))
        return _refusal(ApiError(500, "Internal Server Error"))
    call.performed = True
    world.calls.settle(call, 200)
    return web.json_response({"ok": True, "result": result})


async def _break(
    world: World, request: web.Request, call: Call, fault: Fault, answer: web.Response | None
) -> web.StreamResponse:
    """Give the caller what the fault says; `answer` is what it would have got, if it was performed."""
    if fault.error is not None:
        world.calls.settle(call, fault.error.code, fault.error.description)
        return _refusal(fault.error)
    world.calls.settle(call, None, fault.how)
    if fault.how == "hang":
        await world.faults.hold()
    if request.transport is not None:
        request.transport.abort()
    return answer or web.Response()


def _refusal(error: ApiError) -> web.Response:
    body: dict[str, Any] = {"ok": False, "error_code": error.code, "description": error.description}
    if error.parameters:
        body["parameters"] = error.parameters
    return web.json_response(body, status=error.code)
