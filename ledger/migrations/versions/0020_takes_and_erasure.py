"""Which video a request is another take of, and which requests their user wants erased.

`requests.parent_id` names the request whose video it follows. `requests.erasure` is NULL, `asked` (to be
erased as soon as it has ended) or `done`.

The version before may run next to this one. It writes neither and reads neither: what was asked is erased by
the processes of this version.
"""

from functools import partial

from alembic import op
from sqlalchemy import Column, String, text

from ledger.migrations.steps import add_column, alone, create_index, drop_column, drop_index

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

_INDEXES = (
    ("ix_requests_parent", ["parent_id"], "parent_id IS NOT NULL"),
    ("ix_requests_erasure", ["updated_at"], "erasure = 'asked'"),
)


def upgrade() -> None:
    for column in (Column("parent_id", String(200)), Column("erasure", String(8))):
        alone(op, partial(add_column, op, "requests", column))
    for name, columns, condition in _INDEXES:
        where = text(condition)
        create_index(op, name, "requests", columns, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name, _, _ in _INDEXES:
        drop_index(op, name, "requests")
    for column in ("parent_id", "erasure"):
        alone(op, partial(drop_column, op, "requests", column))
