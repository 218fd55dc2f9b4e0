"""Job ids of up to 512 characters: a gateway's ids hold the provider's, LiteLLM's have 242 and more.

PostgreSQL changes the type without reading a row. But while the table is locked it would build every index
again whose condition names the column, or that has an expression; so those are dropped before and built
afterwards, concurrently. What `uq_entries_no_job` promises, the unique key on `cause` promises too meanwhile;
and whose job it is, each writer asks before it books one.

A prepared statement that reads such a column fails once on each connection of the version before, and works
when it is sent again. SQLite keeps no lengths: there is nothing to change.
"""

from functools import partial

from alembic import op
from sqlalchemy import String, inspect, text

from ledger.migrations.steps import alone, create_index, drop_index

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_LONG = {"videos": {"job_id": 512}, "entries": {"job_id": 512, "cause": 540}}
_SHORT = {"videos": {"job_id": 200}, "entries": {"job_id": 200, "cause": 220}}
_PARTIAL = (
    # name, table, columns, condition, unique
    ("ix_videos_unknown_job", "videos", ["substr(prompt, 1, 100)"], "submits > 0 AND job_id IS NULL", False),
    ("ix_videos_job", "videos", ["job_id", "account", "provider"], "job_id IS NOT NULL", False),
    ("uq_videos_account_job", "videos", ["coalesce(account, provider)", "job_id"], None, True),
    ("ix_entries_job_id", "entries", ["job_id"], "kind = 'charge' AND job_id IS NOT NULL", False),
    ("uq_entries_no_job", "entries", ["request_id", "kind", "n"], "job_id IS NULL", True),
)


def upgrade() -> None:
    _change(_LONG)


def downgrade() -> None:
    """Fails where an id is longer than the version before has room for: nothing is cut."""
    _change(_SHORT)


def _change(lengths: dict[str, dict[str, int]]) -> None:
    if op.get_bind().dialect.name == "sqlite":
        return
    for table, columns in lengths.items():
        if not _has_lengths(table, columns):
            for name, on, _, _, _ in _PARTIAL:
                if on == table:
                    drop_index(op, name, table)
            alone(op, partial(_alter, table, columns))
    # Also after an interruption between the two.
    for name, table, columns_of, where, unique in _PARTIAL:
        found = [text(one) if "(" in one else one for one in columns_of]
        condition = None if where is None else text(where)
        create_index(op, name, table, found, unique=unique, postgresql_where=condition)


def _has_lengths(table: str, columns: dict[str, int]) -> bool:
    found = {one["name"]: one["type"] for one in inspect(op.get_bind()).get_columns(table)}
    return all(getattr(found[name], "length", None) == length for name, length in columns.items())


def _alter(table: str, columns: dict[str, int]) -> None:
    # The view of migration 0010 reads `job_id`. Triggers read the view; they wait for the lock of the table.
    view = _definition("entry_effects") if table == "entries" else None
    if view is not None:
        op.execute("DROP VIEW entry_effects")
    for name, length in columns.items():
        op.alter_column(table, name, type_=String(length))
    if view is not None:
        op.execute(f"CREATE VIEW entry_effects AS {view}")


def _definition(view: str) -> str | None:
    query = text("SELECT pg_get_viewdef(to_regclass(:name))")
    found: str | None = op.get_bind().scalar(query, {"name": view})
    return found
