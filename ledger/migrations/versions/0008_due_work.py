"""What is due stands in SQL: `videos.due_at` for the worker's steps, `requests.notify_at` for the chat's.

`due_at` says when the worker acts next on an order, whatever its state means: submit it, poll its job, ask
about an unknown outcome, expire it. `notify_at` says when its user has something new to read. Both are NULL
where nothing is due, so their partial indexes hold the work in progress and never the history.

Triggers set `notify_at` with each change of a state, of the attempts or of the progress: no writer can forget
it, and the version before, which may run on during an upgrade, needs not know it. It is never before
`told_after`, the end of a lease or of a postponement. For rows of that version a trigger sets
`due_at` too: due at once, and the step that comes decides when to come again.
"""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, column, table, text, update

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

# States in which the worker has something to do. FAILED_UNPAID and HOLD: a charge may turn up late.
_ACTIVE = "'AWAITING_APPROVAL', 'QUEUED', 'SUBMITTING', 'ACCEPTED', 'IN_DOUBT', 'HOLD'"
_DUE = (
    "CASE WHEN {row}.state IN (" + _ACTIVE + ")"
    " OR ({row}.state = 'FAILED_UNPAID' AND {row}.submits > 0) THEN {row}.updated_at END"
)

# In these states the message may wait until it may be edited again; all other states are shown at once.
_PACED = "'OPEN', 'ORDERED', 'QUEUED', 'SUBMITTING', 'ACCEPTED'"
# Not before the lease or the postponement ends, so a change while a user is being notified is seen after it:
# at the end of the lease, or a millisecond later where it may wait until the message may be edited.
_NOTIFY = (
    "UPDATE requests SET notify_failures = 0, notify_at = {later}({at}, CASE WHEN NEW.state IN ({paced})"
    " THEN {later}(edit_after, told_after + 1) ELSE told_after END) WHERE request_id = NEW.request_id"
)
_NOTIFY_OF_PROGRESS = (
    "UPDATE requests SET notify_at = {later}(edit_after, told_after + 1)"
    " WHERE request_id = NEW.request_id AND (notify_at IS NULL OR notify_at < told_after)"
)

# trigger name -> (event, table, condition, body); `{same}` is null-safe equality, `{later}` the greater.
_TRIGGERS = {
    "notify_of_new_request": (
        "INSERT", "requests", "NEW.notify_at IS NULL",
        "UPDATE requests SET notify_at = NEW.created_at WHERE request_id = NEW.request_id",
    ),
    "notify_of_request": (
        "UPDATE OF state", "requests", "NEW.state <> OLD.state", _NOTIFY.replace("{at}", "NEW.updated_at"),
    ),
    "notify_of_attempt": (
        "UPDATE OF attempts", "requests", "NEW.attempts > OLD.attempts AND NEW.attempts > 1",
        _NOTIFY.replace("{at}", "NEW.updated_at"),
    ),
    "notify_of_new_order": (
        "INSERT", "videos", None, _NOTIFY.replace("{at}", "NEW.ordered_at"),
    ),
    "notify_of_order": (
        "UPDATE OF state", "videos", "NEW.state <> OLD.state", _NOTIFY.replace("{at}", "NEW.updated_at"),
    ),
    "notify_of_progress": (
        "UPDATE OF progress", "videos", "NEW.progress <> OLD.progress AND NEW.state = OLD.state",
        _NOTIFY_OF_PROGRESS,
    ),
    "due_of_old_versions_insert": (
        "INSERT", "videos", "NEW.due_at IS NULL",
        "UPDATE videos SET due_at = {due} WHERE request_id = NEW.request_id",
    ),
    "due_of_old_versions_update": (
        "UPDATE OF state", "videos", "NEW.state <> OLD.state AND {same}",
        "UPDATE videos SET due_at = {due}, due_failures = 0 WHERE request_id = NEW.request_id",
    ),
}  # fmt: skip


videos = table("videos", column("state"), column("due_at"))


def upgrade() -> None:
    op.add_column("videos", Column("due_at", BigInteger))
    op.add_column("videos", Column("due_failures", Integer, server_default="0", nullable=False))
    op.add_column("videos", Column("bad_assets", Integer, server_default="0", nullable=False))
    op.add_column("requests", Column("notify_at", BigInteger))
    op.add_column("requests", Column("notify_failures", Integer, server_default="0", nullable=False))
    op.add_column("requests", Column("edit_after", BigInteger, server_default="0", nullable=False))
    op.add_column("requests", Column("shown", String(16), server_default="", nullable=False))
    op.execute(
        update(videos).where(videos.c.state != "DELIVERED").values(due_at=text(_DUE.format(row="videos")))
    )
    op.execute(
        text(
            "UPDATE requests SET notify_at = CASE WHEN told_after > updated_at THEN told_after"
            " ELSE updated_at END WHERE told <> COALESCE("
            "(SELECT state FROM videos WHERE videos.request_id = requests.request_id), state)"
        )
    )
    _partial_index("ix_videos_due", "videos", ["state", "due_at"], "due_at IS NOT NULL")
    _partial_index("ix_requests_notify", "requests", ["bot_id", "notify_at"], "notify_at IS NOT NULL")
    _partial_index("ix_requests_notify_user", "requests", ["user_id"], "notify_at IS NOT NULL")
    _partial_index("ix_requests_run", "requests", ["run_until"], "state = 'OPEN'")
    op.create_index("ix_breaker_state", "breaker", ["state", "at"])  # alerts read the few that are open
    for name, (event, on, condition, body) in _TRIGGERS.items():
        _create_trigger(name, event, on, condition, body)


def downgrade() -> None:
    for name, (_, on, _, _) in _TRIGGERS.items():
        if _on_sqlite():
            op.execute(f"DROP TRIGGER {name}")
        else:
            op.execute(f"DROP TRIGGER {name} ON {on}")
            op.execute(f"DROP FUNCTION {name}()")
    op.drop_index("ix_breaker_state", "breaker")
    op.drop_index("ix_requests_run", "requests")
    op.drop_index("ix_requests_notify_user", "requests")
    op.drop_index("ix_requests_notify", "requests")
    op.drop_index("ix_videos_due", "videos")
    for name in ("shown", "edit_after", "notify_failures", "notify_at"):
        op.drop_column("requests", name)
    for name in ("bad_assets", "due_failures", "due_at"):
        op.drop_column("videos", name)


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=text(where), postgresql_where=text(where))


def _create_trigger(name: str, event: str, table: str, condition: str | None, body: str) -> None:
    when = f"WHEN ({condition.format(same=_same())})" if condition else ""
    body = body.format(due=_DUE.format(row="NEW"), later=_later(), paced=_PACED)
    if _on_sqlite():
        op.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} {when} BEGIN {body}; END")
        return
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {name} AFTER {event} ON {table} FOR EACH ROW {when} EXECUTE FUNCTION {name}()"
    )


def _later() -> str:
    return "MAX" if _on_sqlite() else "GREATEST"


def _same() -> str:
    return "NEW.due_at IS OLD.due_at" if _on_sqlite() else "NEW.due_at IS NOT DISTINCT FROM OLD.due_at"


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"
