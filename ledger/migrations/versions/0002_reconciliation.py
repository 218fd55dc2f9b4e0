"""Reconciliation: the next check of an order, its first "absent", and when an open breaker was notified."""

from alembic import op
from sqlalchemy import BigInteger, Column

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("videos", Column("look_at", BigInteger, server_default="0", nullable=False))
    op.add_column("videos", Column("absent_at", BigInteger))
    op.add_column("breaker", Column("told_at", BigInteger, server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("breaker", "told_at")
    op.drop_column("videos", "absent_at")
    op.drop_column("videos", "look_at")
