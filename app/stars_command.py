"""`python -m bot stars`: compares payments in Telegram Stars with Telegram's own list; changes nothing."""

from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.operator_commands import open_ledger
from app.settings import Settings, SettingsError
from chat.star_payments import compare_now


async def stars(settings: Settings, console: Console) -> None:
    """Print what Telegram lists, what is stored, and each difference.

    Raises:
        SettingsError: There is no token to ask Telegram with.
    """
    if settings.telegram_bot_token is None:
        raise SettingsError("TELEGRAM_BOT_TOKEN is not set: Telegram's list of Stars cannot be read")
    session = AiohttpSession(api=TelegramAPIServer.from_base(settings.telegram_api_url))
    token = settings.telegram_bot_token.get_secret_value()
    async with open_ledger(settings) as ledger, Bot(token, session=session) as bot:
        found, _ = await compare_now(ledger, bot)
    table = Table(title="Stars", title_justify="left")
    for name in ("listed by Telegram", "stored", "other", "differences"):
        table.add_column(name, justify="right")
    table.add_row(*map(str, (found.listed, found.stored, found.other, len(found.findings()))))
    console.print(table)
    for line in found.findings() or ["All Stars of payments that are older than 15 minutes agree."]:
        console.print(escape(line))
