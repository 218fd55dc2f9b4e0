"""Store when the latest submit of an order began; drop a column that nothing read."""

from alembic import op
from sqlalchemy import BigInteger, Column, Text, text

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("videos", Column("sent_at", BigInteger))
    # No row said so before: a send was given a minute, and 15 s of slack.
    op.execute(text("UPDATE videos SET sent_at = deadline_at - 75000 WHERE submits > 0"))
    op.execute(text("UPDATE videos SET sent_at = submitted_at WHERE sent_at < submitted_at"))
    op.drop_column("videos", "thumbnail_path")


def downgrade() -> None:
    op.add_column("videos", Column("thumbnail_path", Text))
    op.drop_column("videos", "sent_at")
