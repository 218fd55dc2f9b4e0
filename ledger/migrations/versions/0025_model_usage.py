"""What language models used and cost: one row for each attempt at a run and each model.

A new table, which the version before neither reads nor writes.
"""

from functools import partial
from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, String

from ledger.migrations.steps import alone

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

_TABLE: Final = "model_usage"


def upgrade() -> None:
    alone(op, _create)


def downgrade() -> None:
    alone(op, partial(op.execute, f"DROP TABLE IF EXISTS {_TABLE}"))


def _create() -> None:
    op.create_table(
        _TABLE,
        Column("request_id", String(200), nullable=False),
        Column("attempt", Integer, autoincrement=False, nullable=False),
        Column("model", String(100), nullable=False),
        Column("user_id", BigInteger, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("calls", Integer, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("cached_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("micros", BigInteger),
        PrimaryKeyConstraint("request_id", "attempt", "model", name="pk_model_usage"),
        if_not_exists=True,
    )
    op.create_index("ix_model_usage_at", _TABLE, ["at"], if_not_exists=True)
    op.create_index("ix_model_usage_user_id_at", _TABLE, ["user_id", "at"], if_not_exists=True)
