"""Every order carries the provider account that quoted it; a job id is unique within its account.

The version before writes no account. Its orders go by their provider's name until `ledger.accounts` gives
them the account of their bot: the unique key is over both, so it holds for its orders as it did before.

SQLite cannot drop a table's constraint: there the table is built again, in one transaction. On PostgreSQL the
new key is built while writers run, then the old one dropped. Each step can be interrupted and is then done
again.
"""

from functools import partial

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, String, inspect, text

from ledger.migrations.steps import (
    add_column,
    alone,
    create_index,
    drop_column,
    drop_index,
    rebuild_sqlite_table,
)

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_videos_job", ("job_id", "account", "provider"), "job_id IS NOT NULL"),
    ("ix_videos_no_account", ("provider",), "account IS NULL"),
)
_OLD_KEY = "uq_videos_provider_job_id"
_OLD_SQL = f"CONSTRAINT {_OLD_KEY} UNIQUE (provider, job_id)"


def upgrade() -> None:
    alone(op, _create_accounts)
    alone(op, partial(add_column, op, "videos", Column("account", String(200))))
    create_index(
        op, "uq_videos_account_job", "videos", [text("coalesce(account, provider)"), "job_id"], unique=True
    )
    for name, columns, condition in _INDEXES:
        where = text(condition)
        create_index(op, name, "videos", list(columns), sqlite_where=where, postgresql_where=where)
    _drop_old_key()


def downgrade() -> None:
    _add_old_key()
    for name in ("uq_videos_account_job", *(name for name, _, _ in _INDEXES)):
        drop_index(op, name, "videos")
    alone(op, partial(drop_column, op, "videos", "account"))
    alone(op, partial(op.drop_table, "accounts", if_exists=True))


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        Column("bot_id", BigInteger, nullable=False, autoincrement=False),
        Column("account", String(200), nullable=False),
        Column("provider", String(40), nullable=False),
        Column("seen_at", BigInteger, nullable=False),
        Column("adopts", Integer, nullable=False, server_default="0"),
        PrimaryKeyConstraint("bot_id", "account", name="pk_accounts"),
        if_not_exists=True,
    )
    op.create_index("ix_accounts_account_seen_at", "accounts", ["account", "seen_at"], if_not_exists=True)
    where = text("adopts = 1")
    op.create_index(
        "uq_accounts_adopts", "accounts", ["bot_id", "provider"], unique=True, if_not_exists=True,
        sqlite_where=where, postgresql_where=where,
    )  # fmt: skip


def _drop_old_key() -> None:
    if op.get_bind().dialect.name == "sqlite":
        rebuild_sqlite_table(op, "videos", _without_old_key)
        return
    alone(op, lambda: op.execute(f"ALTER TABLE videos DROP CONSTRAINT IF EXISTS {_OLD_KEY}"))


def _add_old_key() -> None:
    if op.get_bind().dialect.name == "sqlite":
        rebuild_sqlite_table(op, "videos", _with_old_key)
        return
    alone(op, _add_constraint)


def _add_constraint() -> None:
    known = {one["name"] for one in inspect(op.get_bind()).get_unique_constraints("videos")}
    if _OLD_KEY not in known:
        op.create_unique_constraint(_OLD_KEY, "videos", ["provider", "job_id"])


def _without_old_key(sql: str) -> str:
    """Return the table's SQL without the key; unchanged where it is gone already."""
    head, found, tail = sql.partition(_OLD_SQL)
    return head.rstrip().removesuffix(",") + tail if found else sql


def _with_old_key(sql: str) -> str:
    if _OLD_SQL in sql:
        return sql
    head, _, tail = sql.rpartition(")")
    return f"{head.rstrip()}, {_OLD_SQL}\n){tail}"
