"""Dispatcher, command menu, webhook handler."""

import asyncio
import secrets
from collections.abc import Collection, Iterable
from typing import Any, Final

from aiogram import Bot, Dispatcher
from aiogram.exceptions import AiogramError
from aiogram.types import BotCommand, BotCommandScopeAllGroupChats, BotCommandScopeChat
from aiogram.webhook.aiohttp_server import SimpleRequestHandler
from aiohttp import web

from chat.context import ChatContext
from chat.handlers import (
    after,
    alerts,
    approval,
    create,
    groups,
    history,
    inline,
    members,
    operator,
    options,
    payments,
    pictures,
    privacy,
    report,
    settings,
    stats,
    stills,
    user,
)
from chat.handlers.groups import MigrationMiddleware
from chat.handlers.payments import STAR_MENU, CheckoutMiddleware
from chat.i18n import LANGUAGES, translator
from chat.message_checks import AccountCheck, FreeLimitCheck
from chat.middleware import AccessMiddleware, ConversationMiddleware, UpdateTraces
from chat.poison import MAX_TRIES, FailureCounts, give_up, waits
from chat.updates import parse_update
from ledger.models import Language
from telemetry.logs import get_logger

log = get_logger(__name__)

MENU: Final = (
    "create", "status", "quota", "history", "cancel", "settings", "report", "privacy", "forget", "help",
)  # fmt: skip
ADMIN_MENU: Final = ("stats", "invite", "ban", "unban", "grant", "resolve", "correct", "breaker", "alerts")
FOR_ONE: Final = frozenset(
    {"status", "quota", "history", "settings", "privacy", "forget", "buy", "balance", "paysupport"}
)
"""Commands whose answers concern their sender alone."""

_HANDLER_TIMEOUT_S: Final = 50
"""Telegram waits 60 s for a webhook's answer. An update that takes longer answers 500 and is redelivered."""


def build_dispatcher(ctx: ChatContext) -> Dispatcher:
    """Return a dispatcher with all routers behind access control and tracing."""
    dispatcher = Dispatcher(disable_fsm=True)
    dispatcher.include_routers(
        groups.build_router(ctx), members.build_router(publish_admin_menu), report.build_router(),
        payments.build_router(sells=ctx.stars is not None), stats.build_router(), operator.build_router(),
        alerts.build_router(),
        pictures.build_router(), create.build_router(), settings.build_router(), privacy.build_router(),
        history.build_router(), after.build_router(), user.build_router(), options.build_router(),
        stills.build_router(), approval.build_router(), inline.build_router(),
        pictures.build_message_router(), create.build_text_router(),
    )  # fmt: skip
    dispatcher.update.outer_middleware(UpdateTraces(ctx.ledger))
    dispatcher.message.outer_middleware(MigrationMiddleware(ctx))
    access = AccessMiddleware(ctx)
    dispatcher.inline_query.outer_middleware(access)
    dispatcher.message.outer_middleware(access)
    dispatcher.callback_query.outer_middleware(access)
    dispatcher.pre_checkout_query.outer_middleware(CheckoutMiddleware(ctx))
    conversation = ConversationMiddleware(ctx.conversations)
    dispatcher.message.outer_middleware(conversation)
    dispatcher.callback_query.outer_middleware(conversation)
    dispatcher.message.middleware(AccountCheck())
    dispatcher.message.middleware(FreeLimitCheck(ctx))
    return dispatcher


async def publish_menu(bot: Bot, admins: Collection[int] = (), *, sells: bool = False) -> None:
    """Publish the command menus in every language: for private chats, for groups, and for each admin.

    With `sells`, the commands of credits are in it too. In groups, answers for one person alone are ephemeral
    where the client can show that. A failure is logged: a bot without a menu still works.
    """
    names = (*MENU[:-1], *STAR_MENU, MENU[-1]) if sells else MENU
    try:
        for language in (None, *LANGUAGES):
            menu = _menu(names, language)
            hidden = [one.model_copy(update={"is_ephemeral": one.command in FOR_ONE or None}) for one in menu]
            await bot.set_my_commands(menu, language_code=language)
            await bot.set_my_commands(hidden, BotCommandScopeAllGroupChats(), language_code=language)
    except AiogramError as error:
        log.warning("command menu not published", error=type(error).__name__)
    for admin in admins:
        await publish_admin_menu(bot, admin)


async def publish_admin_menu(bot: Bot, admin: int) -> None:
    """Publish the menu of one admin's private chat; who never pressed Start has none, and gets it then."""
    try:
        for language in (None, *LANGUAGES):
            menu = _menu((*MENU, *ADMIN_MENU), language)
            await bot.set_my_commands(menu, BotCommandScopeChat(chat_id=admin), language_code=language)
    except AiogramError as error:
        log.info("admin's command menu not published", error=type(error).__name__)


def _menu(names: Iterable[str], language: Language | None) -> list[BotCommand]:
    t = translator(language or "en")
    return [BotCommand(command=name, description=t(f"menu_{name}")) for name in names]


async def publish_descriptions(bot: Bot) -> None:
    """Publish what a person reads before they press Start, and on the bot's profile, in every language.

    Only what differs is written: Telegram takes few such changes. A failure is logged.
    """
    try:
        for language in (None, *LANGUAGES):
            t = translator(language or "en")
            long, short = t("bot_description"), t("bot_short_description")
            if (await bot.get_my_description(language)).description != long:
                await bot.set_my_description(long, language)
            if (await bot.get_my_short_description(language)).short_description != short:
                await bot.set_my_short_description(short, language)
    except AiogramError as error:
        log.warning("descriptions not published", error=type(error).__name__)


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
