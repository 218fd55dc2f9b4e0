"""What a person chooses on an offer: style, sound, what must not be seen; and which of it they tapped.

The version before may run next to this one. It writes none of these columns, and sends the prompt as it is,
which holds the sentence of its style. A silent order that costs less than one with sound it does not send:
to it the price has changed.
"""

from functools import partial
from typing import Final

from alembic import op
from sqlalchemy import Column, Integer, String, Text

from ledger.migrations.steps import add_column, alone, drop_column

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_NAMES: Final = ("style", "style_prompt", "sound", "avoid", "chosen", "options_open")


def upgrade() -> None:
    for column in (
        Column("style", String(40)),
        Column("style_prompt", String(200)),
        Column("sound", Integer),
        Column("avoid", Text),
        Column("chosen", String(60)),
        Column("options_open", Integer, server_default="0", nullable=False),
    ):
        alone(op, partial(add_column, op, "videos", column))


def downgrade() -> None:
    for name in _NAMES:
        alone(op, partial(drop_column, op, "videos", name))
