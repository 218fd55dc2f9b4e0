"""The limits' sums in buckets, kept by triggers; a version for each order's state.

`usage_buckets` holds what `ledger.limits` counts, for all users together and for each, in buckets of a
second, a minute and a quarter of an hour. Triggers on `videos` keep it, so the version before, which may run
on during the upgrade and knows nothing of it, keeps it too. A statement always changes the rows in the same
order (everyone, then the user), so two transactions cannot lock them crosswise.

`videos.version` grows by one with each change of the state. This version's code writes it; a trigger does it
for the version before.

Orders of before are added to the sums from a snapshot that was taken as the triggers came into force
(`steps.add_sums`), so each order is counted once whatever is written meanwhile.

The states are written out: a migration does not change when the code's sets do.
"""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String

from ledger.migrations.steps import add_column, add_sums, alone, create_index, drop_column, has_trigger

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_UNPAID = "('FAILED_UNPAID', 'CANCELLED', 'EXPIRED')"
_QUOTA_FREE = "('FAILED_UNPAID', 'CANCELLED', 'EXPIRED', 'FAILED_PAID')"
_WIDTHS = ((1, 2 * 3600), (60, 3 * 86_400), (900, 32 * 86_400))
"""Seconds of a bucket, and of the orders that are filled in: longer than any window that reads it."""

_UPSERT = """
INSERT INTO usage_buckets (tool, scope, width_s, bucket, takes, starts, micros) {rows}
ON CONFLICT (tool, scope, width_s, bucket) DO UPDATE SET
  takes = usage_buckets.takes + excluded.takes,
  starts = usage_buckets.starts + excluded.starts,
  micros = usage_buckets.micros + excluded.micros"""
_CHANGED = f"""(
  (NEW.state IN {_UNPAID}) <> (OLD.state IN {_UNPAID})
  OR (NEW.state IN {_QUOTA_FREE}) <> (OLD.state IN {_QUOTA_FREE})
  OR NEW.ordered_at <> OLD.ordered_at OR NEW.quote_micros <> OLD.quote_micros
)"""
_WATCHED = "state, ordered_at, quote_micros"


def upgrade() -> None:
    create_index(op, "ix_videos_updated_at_request_id", "videos", ["updated_at", "request_id"])
    alone(op, _create_sums)
    add_sums(op, ["videos"], _begin_counting, _BEFORE, "scope, width_s, bucket", _ADD)


def downgrade() -> None:
    for name in ("usage_of_new_videos", "usage_of_changed_videos", "version_of_videos"):
        op.execute(f"DROP TRIGGER {name}" + ("" if _on_sqlite() else " ON videos"))
    if not _on_sqlite():
        op.execute("DROP FUNCTION count_usage_of_videos()")
        op.execute("DROP FUNCTION raise_version_of_videos()")
    op.drop_table("usage_buckets")
    op.drop_index("ix_videos_updated_at_request_id", "videos")
    drop_column(op, "videos", "version")


def _create_sums() -> None:
    add_column(op, "videos", Column("version", Integer, server_default="0", nullable=False))
    op.create_table(
        "usage_buckets",
        Column("tool", String(60), primary_key=True),
        Column("scope", String(40), primary_key=True),
        Column("width_s", Integer, primary_key=True, autoincrement=False),
        Column("bucket", BigInteger, primary_key=True, autoincrement=False),
        Column("takes", Integer, nullable=False),
        Column("starts", Integer, nullable=False),
        Column("micros", BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_index(
        "ix_usage_buckets_width_s_bucket", "usage_buckets", ["width_s", "bucket"], if_not_exists=True
    )


def _begin_counting() -> None:
    op.execute("DELETE FROM usage_buckets")
    if not has_trigger(op, "usage_of_new_videos"):
        for statement in _SQLITE if _on_sqlite() else _POSTGRESQL:
            op.execute(statement)


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _upsert(row: str, sign: str) -> str:
    """Return the statement that adds or subtracts one order (`NEW` or `OLD`) in all of its buckets."""
    rows = [
        f"('generate_video', {scope}, {width_s}, {row}.ordered_at / {width_s * 1000}, "
        f"{sign}CASE WHEN {row}.state IN {_QUOTA_FREE} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNPAID} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNPAID} THEN 0 ELSE {row}.quote_micros END)"
        for scope in ("'everyone'", f"'user:' || {row}.user_id")
        for width_s, _ in _WIDTHS
    ]
    return _UPSERT.format(rows="VALUES " + ", ".join(rows)).strip()


def _orders(scope: str, width_s: int, keep_s: int) -> str:
    """Return the question that sums the orders there are; the newest one says what is old."""
    # PostgreSQL's sums of integers are wider than the columns that they are added to.
    takes, starts, micros = (
        f"CAST(sum({one}) AS BIGINT)"
        for one in (f"CASE WHEN state IN {_QUOTA_FREE} THEN 0 ELSE 1 END", "1", "quote_micros")
    )
    return f"""
SELECT 'generate_video' AS tool, {scope} AS scope, {width_s} AS width_s,
  ordered_at / {width_s * 1000} AS bucket, {takes} AS takes, {starts} AS starts, {micros} AS micros
FROM videos
WHERE ordered_at > (SELECT max(ordered_at) FROM videos) - {keep_s * 1000} AND state NOT IN {_UNPAID}
GROUP BY {"user_id, " if "user_id" in scope else ""}ordered_at / {width_s * 1000}
"""


_BEFORE = " UNION ALL ".join(
    _orders(scope, width_s, keep_s)
    for width_s, keep_s in _WIDTHS
    for scope in ("'everyone'", "'user:' || user_id")
)
_ADD = _UPSERT.format(
    rows="SELECT tool, scope, width_s, bucket, takes, starts, micros FROM summed"
    " WHERE n BETWEEN :low AND :high ORDER BY n"
)
_SQLITE_ORDERED = f"""
CREATE TRIGGER usage_of_new_videos AFTER INSERT ON videos WHEN NEW.state NOT IN {_UNPAID}
BEGIN {_upsert("NEW", "")}; END
"""
_SQLITE_CHANGED = f"""
CREATE TRIGGER usage_of_changed_videos AFTER UPDATE OF {_WATCHED} ON videos WHEN {_CHANGED}
BEGIN {_upsert("OLD", "-")}; {_upsert("NEW", "")}; END
"""
_SQLITE_VERSION = """
CREATE TRIGGER version_of_videos AFTER UPDATE OF state ON videos
WHEN NEW.state <> OLD.state AND NEW.version = OLD.version
BEGIN UPDATE videos SET version = OLD.version + 1 WHERE request_id = NEW.request_id; END
"""
_SQLITE = (_SQLITE_ORDERED, _SQLITE_CHANGED, _SQLITE_VERSION)
_POSTGRESQL = (
    f"""
CREATE FUNCTION count_usage_of_videos() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' THEN
    {_upsert("OLD", "-")};
  END IF;
  {_upsert("NEW", "")};
  RETURN NULL;
END $$
""",
    f"""
CREATE TRIGGER usage_of_new_videos AFTER INSERT ON videos
FOR EACH ROW WHEN (NEW.state NOT IN {_UNPAID}) EXECUTE FUNCTION count_usage_of_videos()
""",
    f"""
CREATE TRIGGER usage_of_changed_videos AFTER UPDATE OF {_WATCHED} ON videos
FOR EACH ROW WHEN {_CHANGED} EXECUTE FUNCTION count_usage_of_videos()
""",
    """
CREATE FUNCTION raise_version_of_videos() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN NEW.version := OLD.version + 1; RETURN NEW; END $$
""",
    """
CREATE TRIGGER version_of_videos BEFORE UPDATE OF state ON videos
FOR EACH ROW WHEN (NEW.state <> OLD.state AND NEW.version = OLD.version)
EXECUTE FUNCTION raise_version_of_videos()
""",
)
