"""Operator alerts: one row for each recipient of each alert, in place of the breaker's own column."""

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, String

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "news",
        Column("subject", String(240), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("reader", BigInteger, nullable=False),
        Column("free_at", BigInteger, server_default="0", nullable=False),
        Column("told_at", BigInteger, server_default="0", nullable=False),
        PrimaryKeyConstraint("subject", "at", "reader", name="pk_news"),
    )
    op.drop_column("breaker", "told_at")


def downgrade() -> None:
    op.add_column("breaker", Column("told_at", BigInteger, server_default="0", nullable=False))
    op.drop_table("news")
