"""The dispatcher behind both ways in, the menu, and the webhook."""

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
"""Telegram waits 60 s for a webhook's answer; what took longer was not persisted, and must come again."""


def build_dispatcher(ctx: ChatContext) -> Dispatcher:
    """Return a dispatcher with every router behind the gate."""
    dispatcher = Dispatcher(disable_fsm=True)
    dispatcher.include_routers(operator.build_router(), user.build_router(), approval.build_router())
    dispatcher.update.outer_middleware(UpdateTraces(ctx.ledger))
    gate = AccessMiddleware(ctx)
    dispatcher.message.outer_middleware(gate)
    dispatcher.callback_query.outer_middleware(gate)
    return dispatcher


async def publish_menu(bot: Bot) -> None:
    """Tell Telegram the commands, in every language. A bot without a menu still works."""
    try:
        for language in (None, *LANGUAGES):
            t = translator(language or "en")
            menu = [BotCommand(command=name, description=t(f"menu_{name}")) for name in MENU]
            await bot.set_my_commands(menu, language_code=language)
    except AiogramError as error:
        log.warning("the menu was not published", error=type(error).__name__)


def webhook_handler(dispatcher: Dispatcher, bot: Bot, secret: str) -> SimpleRequestHandler:
    """Return the HTTP handler for Telegram's webhook; it checks the secret in constant time.

    The update is handled before the answer: a failure answers 500 and Telegram delivers it again.
    """
    return _Webhook(dispatcher, bot, handle_in_background=False, secret_token=secret)


class _Webhook(SimpleRequestHandler):
    def verify_secret(self, telegram_secret_token: str, bot: Bot) -> bool:
        """Compare as bytes: aiogram's comparison of texts raises on a header that is not ASCII."""
        del bot
        given = telegram_secret_token.encode("utf-8", "surrogateescape")
        return bool(self.secret_token) and secrets.compare_digest(given, (self.secret_token or "").encode())

    async def _handle_request(self, bot: Bot, request: web.Request) -> web.Response:
        """Handle one update, then answer. aiogram's own would answer 200 after 55 s and go on behind it."""
        try:
            raw = await request.json(loads=bot.session.json_loads)
            update = Update.model_validate(raw, context={"bot": bot})
        except ValueError as error:  # pydantic's is one
            log.error("an update cannot be read and is let go", error=type(error).__name__)
            return web.json_response({})
        try:
            async with asyncio.timeout(_HANDLER_TIMEOUT_S):
                await self.dispatcher.feed_update(bot, update)
        except Exception as error:  # noqa: BLE001 - whatever it is, the update was not handled and comes again
            log.error("an update was not handled and comes again", error=type(error).__name__)
            return web.Response(status=500)
        return web.json_response({})
