"""What is due stands in SQL: `videos.due_at` for the worker's steps, `requests.notify_at` for the chat's.

`due_at` says when the worker acts next on an order, whatever its state means: submit it, poll its job, ask
about an unknown outcome, expire it. `notify_at` says when its user has something new to read. Both are NULL
where nothing is due, so their partial indexes hold the work in progress and never the history.

Triggers set `notify_at` with each change of a state, of the attempts or of the progress: no writer can forget
it, and the version before, which may run on during an upgrade, needs not know it. It is never before
`told_after`, the end of a lease or of a postponement. For rows of that version a trigger sets
`due_at` too: due at once, and the step that comes decides when to come again.

The triggers come first and rows of before are filled in after them, so nothing that is written meanwhile is
missed. Each step can be interrupted and is then done again.
"""

from functools import partial
from typing import Any

from alembic import op
from sqlalchemy import BigInteger, Column, Connection, Integer, String, text

from ledger.migrations.steps import (
    add_column,
    alone,
    create_index,
    drop_column,
    drop_index,
    drop_trigger,
    has_trigger,
    in_batches,
)

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


_COUNT = {"type_": Integer, "server_default": "0", "nullable": False}
_COLUMNS: dict[str, dict[str, dict[str, Any]]] = {
    "requests": {
        "notify_at": {"type_": BigInteger},
        "notify_failures": _COUNT,
        "edit_after": {"type_": BigInteger, "server_default": "0", "nullable": False},
        "shown": {"type_": String(16), "server_default": "", "nullable": False},
    },
    "videos": {"due_at": {"type_": BigInteger}, "due_failures": _COUNT, "bad_assets": _COUNT},
}
_INDEXES = (
    # name, table, columns, condition
    ("ix_videos_due", "videos", ["state", "due_at"], "due_at IS NOT NULL"),
    ("ix_requests_notify", "requests", ["bot_id", "notify_at"], "notify_at IS NOT NULL"),
    ("ix_requests_notify_user", "requests", ["user_id"], "notify_at IS NOT NULL"),
    ("ix_requests_run", "requests", ["run_until"], "state = 'OPEN'"),
    # Alerts read the few that are open.
    ("ix_breaker_state", "breaker", ["state", "at"], None),
)

_FILL_DUE = (
    f"UPDATE videos SET due_at = {_DUE.format(row='videos')} WHERE request_id BETWEEN :low AND :high"
    f" AND due_at IS NULL AND (state IN ({_ACTIVE}) OR (state = 'FAILED_UNPAID' AND submits > 0))"
)
_FILL_NOTIFY = (
    "UPDATE requests SET notify_at = CASE WHEN told_after > updated_at THEN told_after ELSE updated_at END"
    " WHERE request_id BETWEEN :low AND :high AND notify_at IS NULL AND told <> COALESCE("
    "(SELECT state FROM videos WHERE videos.request_id = requests.request_id), state)"
)


def upgrade() -> None:
    for table in _COLUMNS:  # requests first: the triggers of videos write there
        alone(op, partial(_extend, table))
    in_batches(op, "requests", "request_id", _fill)
    for name, table, columns, where in _INDEXES:
        condition = None if where is None else text(where)
        create_index(op, name, table, columns, sqlite_where=condition, postgresql_where=condition)


def downgrade() -> None:
    for name, table, _, _ in _INDEXES:
        drop_index(op, name, table)
    for table in reversed(_COLUMNS):
        alone(op, partial(_take_back, table))


def _extend(table: str) -> None:
    for name, kind in _COLUMNS[table].items():
        add_column(op, table, Column(name, **kind))
    for name, (event, on, condition, body) in _TRIGGERS.items():
        if on == table and not has_trigger(op, name):
            _create_trigger(name, event, on, condition, body)


def _take_back(table: str) -> None:
    for name, (_, on, _, _) in _TRIGGERS.items():
        if on == table:
            drop_trigger(op, name, table)
    for name in _COLUMNS[table]:
        drop_column(op, table, name)


def _fill(conn: Connection, found: dict[str, Any]) -> None:
    # What a writer changes meanwhile has its trigger's time: neither statement touches it.
    conn.execute(text(_FILL_DUE), found)
    conn.execute(text(_FILL_NOTIFY), found)


def _create_trigger(name: str, event: str, table: str, condition: str | None, body: str) -> None:
    when = f"WHEN ({condition.format(same=_same())})" if condition else ""
    body = body.format(due=_DUE.format(row="NEW"), later=_later(), paced=_PACED)
    if _on_sqlite():
        op.execute(f"CREATE TRIGGER {name} AFTER {event} ON {table} {when} BEGIN {body}; END")
        return
    op.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql"
        f" AS $$ BEGIN {body}; RETURN NULL; END $$"
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
