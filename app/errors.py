"""Expected errors and their one-line messages for the person who started the bot."""

import sys
from typing import Final

from ledger import sqlstates
from telemetry.redaction import redact

EXPECTED_ERRORS: Final = (
    "aiogram.exceptions.TelegramAPIError",
    "aiogram.utils.token.TokenValidationError",
    "app.backup_files.BackupError",
    "app.demo.DemoError",
    "app.doctor.DoctorError",
    "app.embedded_redis.EmbeddedError",
    "app.operator_commands.OperatorCommandError",
    "app.prune_command.PruneError",
    "app.settings.SettingsError",
    "chat.i18n.LocaleError",
    "guardrails.redis_url.RedisUrlError",
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


_DEFECTS: Final = (
    "sqlalchemy.exc.CompileError",
    "sqlalchemy.exc.DataError",
    "sqlalchemy.exc.IntegrityError",
    "sqlalchemy.exc.InvalidRequestError",
    "sqlalchemy.exc.ProgrammingError",
)
"""Of those classes, the errors of a defect of ours, unless PostgreSQL's own code says otherwise."""


def is_expected(error: BaseException) -> bool:
    """Whether one sentence says all about `error`. Of a group, every error must be expected.

    Of a defect the class and the traceback are the answer.
    """
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_expected, error.exceptions))
    return isinstance(error, OSError) or (_is(error, *EXPECTED_ERRORS) and not _is_defect(error))


def _is_defect(error: BaseException) -> bool:
    state = sqlstates.sqlstate_of(error)
    return sqlstates.is_defect(state) if state else _is(error, *_DEFECTS)


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
    elif _is(error, "redis.exceptions.RedisError", "guardrails.redis_url.RedisUrlError"):
        message = f"REDIS_URL cannot be used: {message}"
    elif _is(error, "sqlalchemy.exc.SQLAlchemyError"):
        message = f"DATABASE_URL cannot be used: {message}"
    return redact(message)
