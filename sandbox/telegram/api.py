"""HTTP entry of Bot API calls: token, faults and call log, then the method; getUpdates and webhooks."""

import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from sandbox.telegram import editing, payments, profile, sending
from sandbox.telegram.base import ApiError, SandboxError, bad_request, conflict, is_loopback
from sandbox.telegram.ephemeral import of_ephemeral
from sandbox.telegram.faults import ApiCall, Fault
from sandbox.telegram.params import Params, read_params
from sandbox.telegram.state import World
from sandbox.telegram.updates import Webhook
from telemetry.logs import get_logger

log = get_logger(__name__)

Method = Callable[[World, Params], Awaitable[Any]]
WORLD: web.AppKey[World] = web.AppKey("world", World)
SECRET = re.compile(r"[A-Za-z0-9_-]{0,256}")
LARGEST_POOL = 100


async def serve_method(request: web.Request) -> web.StreamResponse:
    """Serve `/bot<token>/<method>`, by GET or POST."""
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
    """Serve `/file/bot<token>/<file_path>`, the path from getFile."""
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


async def _perform(world: World, call: ApiCall, params: Params) -> web.Response:
    try:
        world.flood.count(call.method, params.text("chat_id"))
        result = await METHODS[call.method](world, params)
    except ApiError as error:
        world.calls.finish(call, error.code, error.description)
        return _refusal(error)
    except SandboxError as error:
        log.warning("sandbox call failed", method=call.method, reason=str(error))
        world.calls.finish(call, 500, str(error))
        return _refusal(ApiError(500, "Internal Server Error"))
    call.performed = True
    world.calls.finish(call, 200)
    return web.json_response({"ok": True, "result": result})


async def _break(
    world: World, request: web.Request, call: ApiCall, fault: Fault, answer: web.Response | None
) -> web.StreamResponse:
    """Answer as the fault says; `answer` is the regular answer, if the call was performed."""
    if fault.error is not None:
        world.calls.finish(call, fault.error.code, fault.error.description)
        return _refusal(fault.error)
    world.calls.finish(call, None, fault.how)
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


async def get_updates(world: World, params: Params) -> Any:
    if world.webhook_sender.webhook is not None:
        raise conflict(
            "can't use getUpdates method while webhook is active;"
            " use deleteWebhook to delete the webhook first"
        )
    world.updates.ask_for(_kinds(params))
    batch = await world.updates.poll(
        params.integer("offset"), params.integer("limit", 100), params.integer("timeout")
    )
    return [update.json() for update in batch]


async def set_webhook(world: World, params: Params) -> Any:
    url = params.text("url")
    if not url:
        return await delete_webhook(world, params)
    if refusal := _refused_url(url):
        raise refusal
    if not SECRET.fullmatch(params.text("secret_token")):
        raise bad_request("secret token contains unallowed characters")
    pool = params.integer("max_connections", 40)
    webhook = Webhook(url, params.text("secret_token"), pool if 1 <= pool <= LARGEST_POOL else 40)
    world.updates.ask_for(_kinds(params))
    if params.flag("drop_pending_updates"):
        world.updates.clear()
    world.updates.interrupt(conflict("terminated by setWebhook request"))
    await world.webhook_sender.open(webhook)
    kept = {"url": url, "secret": webhook.secret, "max_connections": webhook.max_connections}
    world.archive.put("setting", "webhook", kept)
    return True


async def delete_webhook(world: World, params: Params) -> Any:
    await world.webhook_sender.close()
    world.archive.drop("setting", "webhook")
    if params.flag("drop_pending_updates"):
        world.updates.clear()
    return True


async def get_webhook_info(world: World, params: Params) -> Any:  # noqa: ARG001  # all methods have one signature
    webhook, error = world.webhook_sender.webhook, world.webhook_sender.last_error
    info: dict[str, Any] = {
        "url": webhook.url if webhook else "",
        "has_custom_certificate": False,
        "pending_update_count": len(world.updates.waiting()),
    }
    if webhook:
        info["max_connections"] = webhook.max_connections
    if webhook and error:
        info |= {"last_error_date": int(error[0]), "last_error_message": error[1]}
    if world.updates.allowed:
        info["allowed_updates"] = world.updates.allowed
    return info


def _kinds(params: Params) -> list[str] | None:
    kinds = params.json("allowed_updates")
    if kinds is not None and not (isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds)):
        raise bad_request("can't parse allowed_updates: Array of String expected")
    return kinds


def _refused_url(url: str) -> ApiError | None:
    """Return the refusal of a webhook URL: unlike Telegram, the sandbox calls only loopback, and http."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return bad_request("bad webhook: An HTTPS URL must be provided for webhook")
    if not is_loopback(parts.hostname):
        return bad_request(f"bad webhook: the sandbox calls loopback only, not {parts.hostname}")
    return None


METHODS: dict[str, Method] = {
    "getMe": profile.get_me,
    "getUpdates": get_updates,
    "setWebhook": set_webhook,
    "deleteWebhook": delete_webhook,
    "getWebhookInfo": get_webhook_info,
    "sendMessage": sending.send_message,
    "sendVideo": sending.send_video,
    "sendPhoto": sending.send_photo,
    "sendDocument": sending.send_document,
    "copyMessage": sending.copy_message,
    "sendChatAction": sending.send_chat_action,
    "deleteMessage": editing.delete_message,
    "deleteMessages": editing.delete_messages,
    "editMessageText": editing.edit_message_text,
    "editMessageCaption": editing.edit_message_caption,
    "editMessageMedia": editing.edit_message_media,
    "editMessageReplyMarkup": editing.edit_message_reply_markup,
    "editEphemeralMessageText": of_ephemeral(editing.edit_message_text),
    "editEphemeralMessageCaption": of_ephemeral(editing.edit_message_caption),
    "editEphemeralMessageMedia": of_ephemeral(editing.edit_message_media),
    "editEphemeralMessageReplyMarkup": of_ephemeral(editing.edit_message_reply_markup),
    "deleteEphemeralMessage": of_ephemeral(editing.delete_message),
    "setMessageReaction": editing.set_message_reaction,
    "answerCallbackQuery": profile.answer_callback_query,
    "setMyCommands": profile.set_my_commands,
    "deleteMyCommands": profile.delete_my_commands,
    "getMyCommands": profile.get_my_commands,
    "setMyName": profile.set_my_name,
    "getMyName": profile.get_my_name,
    "setMyDescription": profile.set_my_description,
    "getMyDescription": profile.get_my_description,
    "setMyShortDescription": profile.set_my_short_description,
    "getMyShortDescription": profile.get_my_short_description,
    "answerInlineQuery": payments.answer_inline_query,
    "sendInvoice": payments.send_invoice,
    "createInvoiceLink": payments.create_invoice_link,
    "answerPreCheckoutQuery": payments.answer_pre_checkout_query,
    "refundStarPayment": payments.refund_star_payment,
    "getStarTransactions": payments.get_star_transactions,
    "getMyStarBalance": payments.get_my_star_balance,
    "getBusinessConnection": payments.get_business_connection,
    "getFile": profile.get_file,
    "getChat": profile.get_chat,
    "getChatMember": profile.get_chat_member,
    "getChatAdministrators": profile.get_chat_administrators,
}
# Telegram ignores the case of method names.
NAMES = {name.lower(): name for name in METHODS}
