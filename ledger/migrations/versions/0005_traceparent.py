"""One request is one trace: its traceparent, and the final state that was last written into the trace."""

from alembic import op
from sqlalchemy import Column, String, text

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("requests", Column("traceparent", String(60)))
    op.add_column("requests", Column("reported", String(20), server_default="", nullable=False))
    # What ended before has no trace to be written into.
    op.execute(text("UPDATE requests SET reported = state WHERE state <> 'ORDERED'"))
    op.execute(
        text(
            "UPDATE requests SET reported = (SELECT state FROM videos"
            " WHERE videos.request_id = requests.request_id) WHERE state = 'ORDERED'"
        )
    )


def downgrade() -> None:
    op.drop_column("requests", "reported")
    op.drop_column("requests", "traceparent")
