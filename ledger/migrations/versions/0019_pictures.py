"""A video may begin with its person's picture: its hash on the request and on the order.

The version before may run next to this one and knows no pictures. It may take such a request for one of words
alone and make its offer; but it must not send the order, which would be paid for without the picture. So a
trigger refuses SUBMITTING to a worker whose fence does not say that it sends pictures along
(`ledger.transitions.PICTURE_FENCE`); the order waits for a worker of this version, or expires unpaid.
"""

from functools import partial
from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, String

from ledger.migrations.steps import add_column, alone, drop_column, drop_trigger, has_trigger

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

_TRIGGER: Final = "send_pictures_along"
_WORDS: Final = "this worker sends no pictures along"
_COLUMNS: Final = (
    ("requests", "picture", String(64)),
    ("videos", "picture", String(64)),
    ("videos", "picture_format", String(10)),
    ("videos", "picture_allowed_at", BigInteger()),
)


def upgrade() -> None:
    for table, name, kind in _COLUMNS:
        alone(op, partial(add_column, op, table, Column(name, kind)))
    alone(op, _create_trigger)


def downgrade() -> None:
    alone(op, partial(drop_trigger, op, _TRIGGER, "videos"))
    for table, name, _ in reversed(_COLUMNS):
        alone(op, partial(drop_column, op, table, name))


def _create_trigger() -> None:
    if has_trigger(op, _TRIGGER):  # an upgrade was interrupted after this
        return
    event = f"CREATE TRIGGER {_TRIGGER} BEFORE UPDATE OF state ON videos FOR EACH ROW"
    when = "WHEN (NEW.state = 'SUBMITTING' AND NEW.fence NOT LIKE 'picture-%')"
    pictured = "FROM requests r WHERE r.request_id = NEW.request_id AND r.picture IS NOT NULL"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"{event} {when} BEGIN SELECT RAISE(ABORT, '{_WORDS}') {pictured}; END")
        return
    op.execute(
        f"CREATE OR REPLACE FUNCTION {_TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF EXISTS (SELECT 1 {pictured}) THEN RAISE EXCEPTION '{_WORDS}'; END IF; RETURN NEW; END $$"
    )
    op.execute(f"{event} {when} EXECUTE FUNCTION {_TRIGGER}()")
