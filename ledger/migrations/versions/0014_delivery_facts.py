"""What is known of a finished film, of a job's own addresses, of denials, and of who read an alert.

Columns with a default or NULL, and an index of few rows: the version before, which may run on during the
upgrade, writes none of them and loses nothing.
"""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, text

from ledger.migrations.steps import add_column, alone, create_index, drop_column, drop_index

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    alone(op, _add_to_videos)
    alone(op, _add_to_news)
    blocked = text("failure = 'disk'")
    create_index(
        op,
        "ix_videos_blocked",
        "videos",
        ["updated_at"],
        sqlite_where=blocked,
        postgresql_where=blocked,
    )


def downgrade() -> None:
    drop_index(op, "ix_videos_blocked", "videos")
    for name in ("asset_width", "asset_height", "status_url", "result_url", "denied_at", "denials"):
        drop_column(op, "videos", name)
    drop_column(op, "news", "reached")


def _add_to_videos() -> None:
    for column in (
        Column("asset_width", Integer),
        Column("asset_height", Integer),
        Column("status_url", String(500)),
        Column("result_url", String(500)),
        Column("denied_at", BigInteger),
        Column("denials", Integer, server_default="0", nullable=False),
    ):
        add_column(op, "videos", column)


def _add_to_news() -> None:
    add_column(op, "news", Column("reached", Integer, server_default="0", nullable=False))
