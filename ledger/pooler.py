"""A connection pooler in front of PostgreSQL, as PgBouncer: found out by the first connection.

In transaction mode a pooler gives each transaction another session of the server. So nothing may outlive a
transaction: no prepared statement, no SET, no advisory lock of a session.
"""

from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

from telemetry.logs import get_logger

log = get_logger(__name__)


class Pooler:
    """Whether a pooler is in front of one database.

    Attributes:
        present: None until the first connection.
    """

    def __init__(self, *, present: bool | None) -> None:
        self.present = present

    def listen(self, engine: AsyncEngine) -> None:
        """Have an engine's connections opened as the pooler needs them, if there is one."""
        event.listen(engine.sync_engine, "do_connect", self._prepare)
        # Two questions outside a transaction at each connection, for JSON, which the ledger does not use.
        engine.sync_engine.dialect.setup_asyncpg_json_codec = _set_up_nothing  # type: ignore[attr-defined]
        engine.sync_engine.dialect.setup_asyncpg_jsonb_codec = _set_up_nothing  # type: ignore[attr-defined]

    def _prepare(self, _dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        if self.present is None:
            self.present = await_only(_detect(options))
        if self.present:
            # Unnamed statements: a named one stays behind in a session that this connection never sees again.
            options |= {
                "statement_cache_size": 0, "prepared_statement_cache_size": 0,
                "prepared_statement_name_func": str,
            }  # fmt: skip


async def _set_up_nothing(_conn: Any) -> None:
    pass


async def _detect(options: dict[str, Any]) -> bool | None:
    """Return whether a pooler answers; None where nothing could be asked.

    A pooler gives its clients process ids of its own, for the requests by which they cancel.
    """
    import asyncpg  # type: ignore[import-untyped]  # noqa: PLC0415 - a bot on SQLite does not load it

    try:
        conn = await asyncpg.connect(**options | {"statement_cache_size": 0})
        try:
            async with conn.transaction():
                found = bool(await conn.fetchval("SELECT pg_backend_pid()") != conn.get_server_pid())
        finally:
            await conn.close()
    except Exception:  # noqa: BLE001 - the connection that is opened next raises it, in SQLAlchemy's words
        return None
    if found:
        log.info("a connection pooler is in front of the ledger: no statement is kept prepared")
    return found
