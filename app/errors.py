"""Expected errors and their one-line messages for the person who started the bot."""

import sys
from typing import Final

from rich.markup import escape

from telemetry.redaction import redact

EXPECTED_ERRORS: Final = (
    "aiogram.exceptions.TelegramAPIError",
    "aiogram.utils.token.TokenValidationError",
    "app.demo.DemoError",
    "app.doctor.DoctorError",
    "app.embedded_redis.EmbeddedError",
    "app.operator_commands.OperatorCommandError",
    "app.prune_command.PruneError",
    "app.settings.SettingsError",
    "chat.i18n.LocaleError",
    "ledger.database.LedgerError",
    "redis.exceptions.RedisError",
    "sandbox.telegram.base.SandboxError",
    "sqlalchemy.exc.SQLAlchemyError",
    "tools.agent_spec.DeclarationError",
    "web.server.WebError",
)
"""Errors whose message is the answer. They are kept as names: importing their modules takes seconds, and an
error whose module was never imported cannot have been raised.
"""

_UNKNOWN_BOT: Final = (
    "TELEGRAM_BOT_TOKEN is not a token that Telegram knows; copy it from @BotFather, or leave it out and "
    "run `python -m bot chat`"
)


def expected_errors() -> tuple[type[BaseException], ...]:
    """Return the classes of all expected errors that can have been raised in this process so far."""
    return (OSError, ExceptionGroup, *(found for name in EXPECTED_ERRORS if (found := _imported(name))))


def _imported(name: str) -> type[BaseException] | None:
    """Return the class of this dotted name; None if its module is not imported."""
    module, _, attribute = name.rpartition(".")
    found: type[BaseException] | None = getattr(sys.modules.get(module), attribute, None)
    return found


def _is(error: BaseException, *names: str) -> bool:
    return any(found is not None and isinstance(error, found) for found in map(_imported, names))


def describe_error(error: BaseException) -> str:
    """Return one line about `error` for a terminal: what is wrong and what to check, without secrets."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    message = (str(error).splitlines() or [""])[0] or type(error).__name__
    if _is(error, "aiogram.exceptions.TelegramUnauthorizedError", "aiogram.utils.token.TokenValidationError"):
        message = _UNKNOWN_BOT
    elif _is(error, "aiogram.exceptions.TelegramAPIError"):
        message = f"Telegram refuses the request: {message}"
    elif _is(error, "redis.exceptions.RedisError"):
        message = f"REDIS_URL cannot be used: {message}"
    elif _is(error, "sqlalchemy.exc.SQLAlchemyError"):
        message = f"DATABASE_URL cannot be used: {message}"
    return escape(redact(message))
