"""An index of delivered videos by model, so that a person reads how long one usually takes.

The version before does not use it.
"""

from alembic import op
from sqlalchemy import text

from ledger.migrations.steps import create_index, drop_index

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    delivered = text("state = 'DELIVERED'")
    create_index(
        op, "ix_videos_delivered", "videos", ["model", "accepted_at"],
        sqlite_where=delivered, postgresql_where=delivered,
    )  # fmt: skip


def downgrade() -> None:
    drop_index(op, "ix_videos_delivered", "videos")
