"""Reports ask for what happened in a span of time: an index for a request's beginning and for each move."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_requests_created_at", "requests", ["created_at"])
    op.create_index("ix_transitions_at", "transitions", ["at"])


def downgrade() -> None:
    op.drop_index("ix_transitions_at", "transitions")
    op.drop_index("ix_requests_created_at", "requests")
