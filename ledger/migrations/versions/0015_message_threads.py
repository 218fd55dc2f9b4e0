"""A request's topic: `requests.message_thread_id`, so that a forum reads its answers where it asked.

Rows of before have none, and the version before writes none: their messages go to the group's main topic, as
they did.
"""

from alembic import op
from sqlalchemy import BigInteger, Column

from ledger.migrations.steps import add_column, alone, drop_column

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    alone(op, lambda: add_column(op, "requests", Column("message_thread_id", BigInteger)))


def downgrade() -> None:
    alone(op, lambda: drop_column(op, "requests", "message_thread_id"))
