"""SQLSTATEs of PostgreSQL and of poolers in front of it, grouped by what the caller must do."""

from typing import Final

RETRYABLE: Final = frozenset({"40001", "40P01"})
"""The server rolled everything back: serialization failure, deadlock."""

_REFUSING: Final = frozenset({"25006", "26000", "42P05", "57P01", "57P02", "57P03", "57P04", "57P05"})
"""The server answers and takes nothing more on this connection.

Read-only (a primary that was demoted keeps its connections), being shut down, crashed, starting, dropped,
idle for too long. A prepared statement that is unknown, or known already, belongs to another session: a
pooler gave this connection another server. 53xxx (out of memory, disk, connections) is not among them: the
connection works, and a new one would only cost such a server more.
"""

_CONNECTION_CLASS: Final = "08"
"""Connection exceptions; PgBouncer's own messages come as 08P01."""

_DEFECT_CLASSES: Final = frozenset({"21", "22", "23", "42", "P0"})
"""Cardinality, data, constraints, syntax and names, errors raised by functions: the statement is wrong."""

_NOT_OURS: Final = frozenset({"42P05", "42501"})
"""Codes of those classes that come from how the server is run: another session, a missing right."""

_CONFIGURATION: Final = frozenset({"28000", "28P01", "3D000", "3F000", "42501"})
"""User, password, database, schema or right: no waiting mends it."""


def sqlstate_of(error: BaseException | None) -> str:
    """Return the SQLSTATE of an error, or of what it was raised from; empty if there is none."""
    while error is not None:
        for one in (error, getattr(error, "orig", None)):
            state = getattr(one, "sqlstate", None)
            if isinstance(state, str):
                return state
        error = error.__cause__
    return ""


def refuses(sqlstate: str) -> bool:
    """Whether this code means that the connection is of no more use and must be dropped."""
    return sqlstate in _REFUSING or sqlstate[:2] == _CONNECTION_CLASS


def is_defect(sqlstate: str) -> bool:
    """Whether the statement itself is wrong: the same statement will fail again."""
    return sqlstate[:2] in _DEFECT_CLASSES and sqlstate not in _NOT_OURS


def is_configuration(sqlstate: str) -> bool:
    """Whether the server refuses what DATABASE_URL says: a person must change something."""
    return sqlstate in _CONFIGURATION
