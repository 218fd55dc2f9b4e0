"""Dispatcher, command menu, webhook handler."""

import asyncio
import secrets
from typing import Any, Final

from aiogram import Bot, Dispatcher
from aiogram.exceptions import AiogramError
from aiogram.types import BotCommand, BotCommandScopeAllGroupChats
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web

from chat.context import ChatContext
from chat.handlers import approval, create, operator, payments, settings, user
from chat.handlers.payments import STAR_MENU, CheckoutMiddleware
from chat.i18n import LANGUAGES, translator
from chat.middleware import AccessMiddleware, ConversationMiddleware, UpdateTraces
from chat.poison import MAX_TRIES, FailureCounts, give_up, waits
from chat.updates import parse_update
from telemetry.logs import get_logger

log = get_logger(__name__)

MENU: Final = ("create", "status", "quota", "history", "cancel", "settings", "help")
FOR_ONE: Final = frozenset({"status", "quota", "history", "settings", "buy", "balance", "paysupport"})
"""Commands whose answers concern their sender alone."""

_HANDLER_TIMEOUT_S: Final = 50
"""Telegram waits 60 s for a webhook's answer. An update that takes longer answers 500 and is redelivered."""


def build_dispatcher(ctx: ChatContext) -> Dispatcher:
    """Return a dispatcher with all routers behind access control and tracing."""
    dispatcher = Dispatcher(disable_fsm=True)
    dispatcher.include_routers(
        payments.build_router(sells=ctx.stars is not None),
        operator.build_router(), create.build_router(), settings.build_router(), user.build_router(),
        approval.build_router(), create.build_text_router(),
    )  # fmt: skip
    dispatcher.update.outer_middleware(UpdateTraces(ctx.ledger))
    access = AccessMiddleware(ctx)
    dispatcher.message.outer_middleware(access)
    dispatcher.callback_query.outer_middleware(access)
    dispatcher.pre_checkout_query.outer_middleware(CheckoutMiddleware(ctx))
    conversation = ConversationMiddleware(ctx.conversations)
    dispatcher.message.outer_middleware(conversation)
    dispatcher.callback_query.outer_middleware(conversation)
    return dispatcher


async def publish_menu(bot: Bot, *, sells: bool = False) -> None:
    """Publish the command menus in every language: one for private chats, one for groups.

    With `sells`, the commands of credits are in it too. In groups, answers for one person alone are ephemeral
    where the client can show that. A failure is logged: a bot without a menu still works.
    """
    names = (*MENU[:-1], *STAR_MENU, MENU[-1]) if sells else MENU
    try:
        for language in (None, *LANGUAGES):
            t = translator(language or "en")
            menu = [BotCommand(command=name, description=t(f"menu_{name}")) for name in names]
            hidden = [one.model_copy(update={"is_ephemeral": one.command in FOR_ONE or None}) for one in menu]
            await bot.set_my_commands(menu, language_code=language)
            await bot.set_my_commands(hidden, BotCommandScopeAllGroupChats(), language_code=language)
    except AiogramError as error:
        log.warning("command menu not published", error=type(error).__name__)


def webhook_handler(dispatcher: Dispatcher, bot: Bot, secret: str) -> SimpleRequestHandler:
    """Return the HTTP handler for Telegram's webhook; it checks the secret in constant time.

    The update is handled before the answer: a failure answers 500, and Telegram delivers the update again.
    One that fails by a defect is given up after `MAX_TRIES` deliveries to this process, as with polling.
    """
    return _Webhook(dispatcher, bot, handle_in_background=False, secret_token=secret)


class _Webhook(SimpleRequestHandler):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failures = FailureCounts()

    def verify_secret(self, telegram_secret_token: str, bot: Bot) -> bool:
        """Compare as bytes: aiogram compares strings, which raises on a header that is not ASCII."""
        del bot
        given = telegram_secret_token.encode("utf-8", "surrogateescape")
        return bool(self.secret_token) and secrets.compare_digest(given, (self.secret_token or "").encode())

    async def _handle_request(self, bot: Bot, request: web.Request) -> web.Response:
        """Handle one update, then answer; aiogram itself would answer 200 after 55 s while still running."""
        try:
            update = parse_update(await request.json(loads=bot.session.json_loads), bot)
        except ValueError:
            update = None
        if update is None:
            log.error("unreadable update dropped")
            return web.json_response({})
        try:
            async with asyncio.timeout(_HANDLER_TIMEOUT_S):
                await self.dispatcher.feed_update(bot, update)
        except Exception as error:  # noqa: BLE001 - whatever the error is, Telegram must deliver the update again
            if waits(error):  # the handler's timeout does
                log.error("update not handled", error=type(error).__name__)
                return web.Response(status=500)
            tries = self._failures.add(update.update_id, error)
            log.error("update not handled", error=type(error).__name__, tries=tries)
            if tries < MAX_TRIES:
                return web.Response(status=500)
            await give_up(bot, update)
        self._failures.forget(update.update_id)
        return web.json_response({})
