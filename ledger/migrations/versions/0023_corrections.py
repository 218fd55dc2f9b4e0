"""What operators did is kept, and figures can be corrected.

- `operator_actions`: one row for each act of a person: a correction, a resolved HOLD, a breaker, a grant, a
  ban, a delivery that is tried again. Rows are added only. Acts of before are in `transitions` alone.
- `entries.action_id`: the correction that an entry belongs to. NULL: the worker booked it.
- `requests.corrected_at` and `correction_told`: when what its user had read was corrected, and the last
  such that they were told of.

The version before writes none of these, and reads none.
"""

from functools import partial

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, String, Text, UniqueConstraint, text

from ledger.migrations.steps import add_column, alone, drop_column

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("entries", "action_id", Integer),
    ("requests", "corrected_at", BigInteger),
    ("requests", "correction_told", BigInteger),
)


def upgrade() -> None:
    alone(op, _create_actions)
    for table, name, type_ in _COLUMNS:
        alone(op, partial(add_column, op, table, Column(name, type_)))


def downgrade() -> None:
    for table, name, _ in _COLUMNS:
        alone(op, partial(drop_column, op, table, name))
    alone(op, partial(op.execute, "DROP TABLE IF EXISTS operator_actions"))


def _create_actions() -> None:
    op.create_table(
        "operator_actions",
        Column("action_id", Integer, autoincrement=True, nullable=False),
        Column("source", String(240), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("who", String(80), nullable=False),
        Column("action", String(20), nullable=False),
        Column("request_id", String(200)),
        Column("user_id", BigInteger),
        Column("job_id", String(512)),
        Column("micros", BigInteger),
        Column("detail", Text, server_default="", nullable=False),
        Column("why", Text, server_default="", nullable=False),
        PrimaryKeyConstraint("action_id", name="pk_operator_actions"),
        UniqueConstraint("source", name="uq_operator_actions_source"),
        if_not_exists=True,
    )
    of_request = text("request_id IS NOT NULL")
    op.create_index(
        "ix_operator_actions_request", "operator_actions", ["request_id"],
        sqlite_where=of_request, postgresql_where=of_request, if_not_exists=True,
    )  # fmt: skip
