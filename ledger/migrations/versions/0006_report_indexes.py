"""Indexes for reports of a span of time: by creation of a request, and by time of a transition."""

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
