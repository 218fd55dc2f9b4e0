"""The errors that are answers: each is one sentence for the person who started the bot."""

from typing import Final

from aiogram.exceptions import TelegramAPIError, TelegramUnauthorizedError
from aiogram.utils.token import TokenValidationError
from redis.exceptions import RedisError
from rich.markup import escape
from sqlalchemy.exc import SQLAlchemyError

from app.demo import DemoError
from app.doctor import DoctorError
from app.embedded_redis import EmbeddedError
from app.operator_commands import OperatorCommandError
from app.settings import SettingsError
from chat.i18n import LocaleError
from ledger.database import LedgerError
from sandbox.telegram.base import SandboxError
from telemetry.redaction import redact
from tools.agent_spec import DeclarationError
from web.server import WebError

EXPECTED_ERRORS: Final = (
    DeclarationError,
    DemoError,
    DoctorError,
    EmbeddedError,
    LedgerError,
    OperatorCommandError,
    SandboxError,
    SettingsError,
    SQLAlchemyError,
    TelegramAPIError,
    RedisError,
    LocaleError,
    TokenValidationError,
    WebError,
    OSError,
    ExceptionGroup,
)

_UNKNOWN_BOT: Final = (
    "TELEGRAM_BOT_TOKEN is not a token that Telegram knows; copy it from @BotFather, or leave it out and "
    "run `python -m bot chat`"
)


def describe_error(error: BaseException) -> str:
    """Return one line about `error` for a terminal: what is wrong and where to look, without secrets."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    words = (str(error).splitlines() or [""])[0] or type(error).__name__
    if isinstance(error, TelegramUnauthorizedError | TokenValidationError):
        words = _UNKNOWN_BOT
    elif isinstance(error, TelegramAPIError):
        words = f"Telegram does not do what it was asked to: {words}"
    elif isinstance(error, RedisError):
        words = f"REDIS_URL cannot be used: {words}"
    elif isinstance(error, SQLAlchemyError):
        words = f"DATABASE_URL cannot be used: {words}"
    return escape(redact(words))
