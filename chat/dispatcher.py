"""Dispatcher, command menu, webhook handler."""

import asyncio
import secrets
from typing import Final

from aiogram import Bot, Dispatcher
from aiogram.exceptions import AiogramError
from aiogram.types import BotCommand, Update
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web

from chat.context import ChatContext
from chat.handlers import approval, operator, user
from chat.i18n import LANGUAGES, translator
from chat.middleware import AccessMiddleware, UpdateTraces
from telemetry.logs import get_logger

log = get_logger(__name__)

MENU: Final = ("create", "status", "quota", "history", "cancel", "help")
_HANDLER_TIMEOUT_S: Final = 50
"""Telegram waits 60 s for a webhook's answer. An update that takes longer answers 500 and is redelivered."""


def build_dispatcher(ctx: ChatContext) -> Dispatcher:
    """Return a dispatcher with all routers behind access control and tracing."""
    dispatcher = Dispatcher(disable_fsm=True)
    dispatcher.include_routers(operator.build_router(), user.build_router(), approval.build_router())
    dispatcher.update.outer_middleware(UpdateTraces(ctx.ledger))
    access = AccessMiddleware(ctx)
    dispatcher.message.outer_middleware(access)
    dispatcher.callback_query.outer_middleware(access)
    return dispatcher


async def publish_menu(bot: Bot) -> None:
    """Publish the command menu in every language. A failure is logged: a bot without a menu still works."""
    try:
        for language in (None, *LANGUAGES):
            t = translator(language or "en")
            menu = [BotCommand(command=name, description=t(f"menu_{name}")) for name in MENU]
            await bot.set_my_commands(menu, language_code=language)
    except AiogramError as error:
        log.warning("command menu not published", error=type(error).__name__)


def webhook_handler(dispatcher: Dispatcher, bot: Bot, secret: str) -> SimpleRequestHandler:
    """Return the HTTP handler for Telegram's webhook; it checks the secret in constant time.

    The update is handled before the answer: a failure answers 500, and Telegram delivers the update again.
    """
    return _Webhook(dispatcher, bot, handle_in_background=False, secret_token=secret)


class _Webhook(SimpleRequestHandler):
    def verify_secret(self, telegram_secret_token: str, bot: Bot) -> bool:
        """Compare as bytes: aiogram compares strings, which raises on a header that is not ASCII."""
        del bot
        given = telegram_secret_token.encode("utf-8", "surrogateescape")
        return bool(self.secret_token) and secrets.compare_digest(given, (self.secret_token or "").encode())

    async def _handle_request(self, bot: Bot, request: web.Request) -> web.Response:
        """Handle one update, then answer; aiogram itself would answer 200 after 55 s while still running."""
        try:
            raw = await request.json(loads=bot.session.json_loads)
            update = Update.model_validate(raw, context={"bot": bot})
        except ValueError as error:  # pydantic's ValidationError is one
            log.error("unreadable update dropped", error=type(error).__name__)
            return web.json_response({})
        try:
            async with asyncio.timeout(_HANDLER_TIMEOUT_S):
                await self.dispatcher.feed_update(bot, update)
        except Exception as error:  # noqa: BLE001 - whatever the error is, Telegram must deliver the update again
            log.error("update not handled", error=type(error).__name__)
            return web.Response(status=500)
        return web.json_response({})
