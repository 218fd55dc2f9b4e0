"""Who was invited and who is banned (`members`, `invites`), and what people report (`user_reports`).

New tables only: the version before neither reads nor writes them. While it runs next to this one it does not
know of a ban, so upgrade every bot before you rely on one.
"""

from functools import partial

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, Text, UniqueConstraint, text

from ledger.migrations.steps import alone, create_index, drop_index

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for create in (_create_members, _create_invites, _create_reports):
        alone(op, create)
    banned, is_open = text("banned_at IS NOT NULL"), text("state = 'open'")
    create_index(
        op, "ix_members_banned", "members", ["banned_at"], sqlite_where=banned, postgresql_where=banned
    )
    create_index(
        op, "ix_user_reports_open", "user_reports", ["request_id"],
        sqlite_where=is_open, postgresql_where=is_open,
    )  # fmt: skip
    create_index(op, "ix_user_reports_reporter_id_at", "user_reports", ["reporter_id", "at"])


def downgrade() -> None:
    drop_index(op, "ix_user_reports_reporter_id_at", "user_reports")
    drop_index(op, "ix_user_reports_open", "user_reports")
    drop_index(op, "ix_members_banned", "members")
    for name in ("user_reports", "invites", "members"):
        alone(op, partial(op.execute, f"DROP TABLE IF EXISTS {name}"))


def _create_members() -> None:
    op.create_table(
        "members",
        Column("user_id", BigInteger, primary_key=True, autoincrement=False),
        Column("joined_at", BigInteger),
        Column("joined_by", String(64)),
        Column("banned_at", BigInteger),
        Column("banned_by", String(80)),
        Column("ban_reason", Text),
        if_not_exists=True,
    )


def _create_invites() -> None:
    op.create_table(
        "invites",
        Column("digest", String(64), primary_key=True),
        Column("made_by", String(80), nullable=False),
        Column("made_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("uses", Integer, nullable=False),
        Column("used", Integer, nullable=False, server_default="0"),
        if_not_exists=True,
    )


def _create_reports() -> None:
    op.create_table(
        "user_reports",
        Column("report_id", Integer, primary_key=True, autoincrement=True),
        Column("source", String(200), nullable=False),
        Column("bot_id", BigInteger, nullable=False),
        Column("request_id", String(200)),
        Column("reporter_id", BigInteger, nullable=False),
        Column("words", Text, nullable=False),
        Column("state", String(20), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("decided_by", String(80)),
        Column("decided_at", BigInteger),
        UniqueConstraint("source", name="uq_user_reports_source"),
        if_not_exists=True,
    )
