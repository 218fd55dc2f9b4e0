"""Outages of the stores: what is unavailable now and ends by itself, apart from a defect of ours."""

import re
from typing import Final

from redis.exceptions import (
    AuthenticationError,
    ClusterCrossSlotError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import DataError as RedisDataError
from sqlalchemy.exc import (
    ArgumentError,
    CompileError,
    DataError,
    DBAPIError,
    IntegrityError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from ledger import sqlstates

_SQL_DEFECTS: Final = (IntegrityError, ProgrammingError, DataError, ArgumentError, CompileError)
_REDIS_DEFECTS: Final = (RedisDataError, ClusterCrossSlotError)
_WRONG_COMMAND: Final = re.compile(
    r"WRONGTYPE |(?![A-Z]{3,} ).*(user_script|wrong number of arguments|syntax error|not an integer)",
    re.DOTALL,
)
"""Answers of Redis to a command that is wrong at any time; redis-py removes the prefix ERR, but no other.

Proxies answer ERR for their own trouble.
"""


_SQLITE_PASSING: Final = frozenset({5, 6, 13})
"""SQLite's codes for a file that others use (BUSY, LOCKED), and for a full disk."""


def is_outage(error: BaseException) -> bool:
    """Whether a store is unavailable, so that the same call can succeed later.

    False for a defect of ours, and for errors of anything but a store.

    Every error of a store, or of the way to it, is an outage unless it is known to be a defect of ours: a
    server has more ways to be unavailable (too many connections, read-only, shutting down, a pooler's own
    messages) than anyone lists.
    """
    match error:
        case BaseExceptionGroup():
            return all(map(is_outage, error.exceptions))
        case SQLAlchemyError():
            return not _is_sql_defect(error)
        case RedisError():
            return not _is_redis_defect(error)
        case RedisClusterException() | OSError() | EOFError():
            return True
    # asyncpg's own classes, where SQLAlchemy did not translate them
    state = sqlstates.sqlstate_of(error)
    return bool(state) and not sqlstates.is_defect(state)


def ends_by_itself(error: BaseException) -> bool:
    """Whether waiting can end this outage: not where a person must change a password or a file."""
    code = getattr(getattr(error, "orig", error), "sqlite_errorcode", None)
    if isinstance(code, int):
        return code & 0xFF in _SQLITE_PASSING
    if isinstance(
        error, (ValueError, AuthenticationError)
    ):  # a certificate that is not trusted is a ValueError
        return False
    if isinstance(
        getattr(error, "orig", error).__cause__, ValueError
    ):  # what asyncpg cannot be configured with
        return False
    if "unsupported startup parameter" in str(error):  # PgBouncer's, to what DATABASE_URL says
        return False
    return is_outage(error) and not sqlstates.is_configuration(sqlstates.sqlstate_of(error))


def _is_sql_defect(error: SQLAlchemyError) -> bool:
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return False
        if state := sqlstates.sqlstate_of(error):
            return sqlstates.is_defect(state)
        return isinstance(error, _SQL_DEFECTS)
    if isinstance(error, StatementError) and error.orig is not None:
        return not is_outage(error.orig)
    return isinstance(error, _SQL_DEFECTS)


def _is_redis_defect(error: RedisError) -> bool:
    if isinstance(error, _REDIS_DEFECTS):
        return True
    return type(error) is ResponseError and _WRONG_COMMAND.match(str(error)) is not None
