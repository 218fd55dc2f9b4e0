"""The first ledger: requests, their videos, the ledger's entries, the transitions, the breaker."""

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Integer,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _breaker()
    _requests()
    _transitions()
    _videos()
    _entries()


def downgrade() -> None:
    for table in ("entries", "videos", "transitions", "requests", "breaker"):
        op.drop_table(table)


def _breaker() -> None:
    op.create_table(
        "breaker",
        Column("scope", String(40), nullable=False),
        Column("state", String(10), nullable=False),
        Column("why", Text, server_default="", nullable=False),
        Column("who", String(80), server_default="", nullable=False),
        Column("at", BigInteger, server_default="0", nullable=False),
        PrimaryKeyConstraint("scope", name="pk_breaker"),
    )


def _requests() -> None:
    op.create_table(
        "requests",
        Column("request_id", String(200), nullable=False),
        Column("bot_id", BigInteger, nullable=False),
        Column("chat_id", BigInteger, nullable=False),
        Column("message_id", BigInteger, nullable=False),
        Column("user_id", BigInteger, nullable=False),
        Column("language", String(2), nullable=False),
        Column("idea", Text, nullable=False),
        Column("state", String(20), nullable=False),
        Column("attempts", Integer, server_default="0", nullable=False),
        Column("run_until", BigInteger, server_default="0", nullable=False),
        Column("reason", String(40)),
        Column("reason_layer", String(20)),
        Column("reason_until", BigInteger),
        Column("reason_quote", Text),
        Column("caption", Text),
        Column("status_message_id", BigInteger),
        Column("told", String(60), server_default="", nullable=False),
        Column("told_after", BigInteger, server_default="0", nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("updated_at", BigInteger, nullable=False),
        PrimaryKeyConstraint("request_id", name="pk_requests"),
    )
    op.create_index("ix_requests_state", "requests", ["state"])
    op.create_index("ix_requests_user_id_created_at", "requests", ["user_id", "created_at"])


def _transitions() -> None:
    op.create_table(
        "transitions",
        Column("transition_id", Integer, autoincrement=True, nullable=False),
        Column("request_id", String(200), nullable=False),
        Column("subject", String(10), nullable=False),
        Column("from_state", String(20), nullable=False),
        Column("to_state", String(20), nullable=False),
        Column("who", String(80), nullable=False),
        Column("why", Text, nullable=False),
        Column("at", BigInteger, nullable=False),
        ForeignKeyConstraint(["request_id"], ["requests.request_id"], name="fk_transitions_request_id"),
        PrimaryKeyConstraint("transition_id", name="pk_transitions"),
    )
    op.create_index("ix_transitions_request_id", "transitions", ["request_id"])


def _videos() -> None:
    op.create_table(
        "videos",
        Column("request_id", String(200), nullable=False),
        Column("user_id", BigInteger, nullable=False),
        Column("state", String(20), nullable=False),
        Column("provider", String(40), nullable=False),
        Column("model", String(100), nullable=False),
        Column("prompt", Text, nullable=False),
        Column("seconds", Integer, nullable=False),
        Column("size", String(20), nullable=False),
        Column("quote_micros", BigInteger, nullable=False),
        Column("nonce", String(40)),
        Column("expires_at", BigInteger, nullable=False),
        Column("fence", String(40)),
        Column("deadline_at", BigInteger, server_default="0", nullable=False),
        Column("submits", Integer, server_default="0", nullable=False),
        Column("retry_at", BigInteger, server_default="0", nullable=False),
        Column("job_id", String(200)),
        Column("progress", Integer, server_default="0", nullable=False),
        Column("failure", String(40)),
        Column("failure_detail", Text),
        Column("asset_path", Text),
        Column("thumbnail_path", Text),
        Column("asset_seconds", Integer),
        Column("file_id", Text),
        Column("ordered_at", BigInteger, nullable=False),
        Column("submitted_at", BigInteger),
        Column("accepted_at", BigInteger),
        Column("updated_at", BigInteger, nullable=False),
        ForeignKeyConstraint(["request_id"], ["requests.request_id"], name="fk_videos_request_id"),
        PrimaryKeyConstraint("request_id", name="pk_videos"),
        UniqueConstraint("provider", "job_id", name="uq_videos_provider_job_id"),
        UniqueConstraint("nonce", name="uq_videos_nonce"),
    )
    op.create_index("ix_videos_ordered_at", "videos", ["ordered_at"])
    op.create_index("ix_videos_state_updated_at", "videos", ["state", "updated_at"])
    op.create_index("ix_videos_submitted_at", "videos", ["submitted_at"])
    op.create_index("ix_videos_user_id_ordered_at", "videos", ["user_id", "ordered_at"])


def _entries() -> None:
    op.create_table(
        "entries",
        Column("entry_id", Integer, autoincrement=True, nullable=False),
        Column("request_id", String(200), nullable=False),
        Column("user_id", BigInteger, nullable=False),
        Column("kind", String(10), nullable=False),
        Column("cause", String(220), nullable=False),
        Column("micros", BigInteger, nullable=False),
        Column("at", BigInteger, nullable=False),
        ForeignKeyConstraint(["request_id"], ["videos.request_id"], name="fk_entries_request_id"),
        PrimaryKeyConstraint("entry_id", name="pk_entries"),
        UniqueConstraint("request_id", "kind", "cause", name="uq_entries_request_id_kind_cause"),
    )
    op.create_index("ix_entries_at", "entries", ["at"])
