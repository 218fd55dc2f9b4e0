"""Methods by which the bot gets its updates: getUpdates, or a webhook."""

import re
from typing import Any
from urllib.parse import urlsplit

from chat.rehearsal.errors import ApiError, bad_request, conflict
from chat.rehearsal.forms import Params
from chat.rehearsal.loopback import is_loopback
from chat.rehearsal.redelivery import Webhook
from chat.rehearsal.world import World

SECRET = re.compile(r"[A-Za-z0-9_-]{0,256}")
LARGEST_POOL = 100


async def get_updates(world: World, params: Params) -> Any:
    if world.courier.webhook is not None:
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
    await world.courier.open(webhook)
    kept = {"url": url, "secret": webhook.secret, "max_connections": webhook.max_connections}
    world.archive.put("setting", "webhook", kept)
    return True


async def delete_webhook(world: World, params: Params) -> Any:
    await world.courier.close()
    world.archive.drop("setting", "webhook")
    if params.flag("drop_pending_updates"):
        world.updates.clear()
    return True


async def get_webhook_info(world: World, params: Params) -> Any:  # noqa: ARG001  # every method has one form
    webhook, error = world.courier.webhook, world.courier.last_error
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
    """Telegram wants https and the open internet; the rehearsal wants the opposite, and says so."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        return bad_request("bad webhook: An HTTPS URL must be provided for webhook")
    if not is_loopback(parts.hostname):
        return bad_request(f"bad webhook: the rehearsal calls loopback only, not {parts.hostname}")
    return None
