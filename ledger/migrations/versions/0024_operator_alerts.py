"""What operators are told and who has taken it on (`operator_alerts`); which processes live (`heartbeats`).

New tables, and an index: the version before neither reads nor writes them. What it tells while it runs next
to this one is in `news` alone, and is not told again. Its processes are not seen in `heartbeats`: until they
are replaced, a bot of this one may say that no worker is running.
"""

from functools import partial

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, Text, UniqueConstraint, text

from ledger.migrations.steps import alone, create_index, drop_index

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for create in (_create_alerts, _create_heartbeats):
        alone(op, create)
    missed = text("reached = 0")
    create_index(op, "ix_news_missed", "news", ["reader"], sqlite_where=missed, postgresql_where=missed)
    create_index(op, "ix_operator_alerts_created_at", "operator_alerts", ["created_at"])


def downgrade() -> None:
    drop_index(op, "ix_operator_alerts_created_at", "operator_alerts")
    drop_index(op, "ix_news_missed", "news")
    for name in ("heartbeats", "operator_alerts"):
        alone(op, partial(op.execute, f"DROP TABLE IF EXISTS {name}"))


def _create_alerts() -> None:
    op.create_table(
        "operator_alerts",
        Column("alert_id", Integer, primary_key=True, autoincrement=True),
        Column("subject", String(240), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("request_id", String(200)),
        Column("text", Text, nullable=False),
        Column("buttons", Text, nullable=False, server_default=""),
        Column("standing", Integer, nullable=False, server_default="0"),
        Column("created_at", BigInteger, nullable=False),
        Column("seen_at", BigInteger, nullable=False),
        Column("ack_who", String(80)),
        Column("ack_at", BigInteger),
        UniqueConstraint("subject", "at", name="uq_operator_alerts_subject_at"),
        if_not_exists=True,
    )


def _create_heartbeats() -> None:
    op.create_table(
        "heartbeats",
        Column("process_id", String(120), primary_key=True),
        Column("role", String(10), nullable=False),
        Column("bot_id", BigInteger, nullable=False),
        Column("started_at", BigInteger, nullable=False),
        Column("seen_at", BigInteger, nullable=False),
        if_not_exists=True,
    )
