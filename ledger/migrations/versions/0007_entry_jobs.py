"""Entries name their job and its number in two columns, which `cause` held in one text.

`cause` was "order" (hold, release), "unknown" (paid, and no job is known), a job id, or "JOB (2)" for the
second entry of its kind for one job. Now `job_id` is the job or NULL, and `n` is the number.

The version before this one may run on during the upgrade, so for one release

- `cause` is filled as before and keeps its unique constraint: old processes read it, and an entry that both
  versions write is one row;
- a trigger fills `job_id` and `n` of the rows that an old process writes: it names neither, so `n` is 0.

A later migration drops trigger, default and `cause`. `downgrade` drops what this one added and loses nothing.
"""

from alembic import op
from sqlalchemy import Column, Integer, String, text

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# A row is numbered only where the first entry of its job is there and the text is exactly what the old code
# made: `JOB (n)` with n counted. Any other cause is an id as it is: `door(2)`, and a lone `door (2)` too.
# "unknown" was written where the video itself had no job; a job that is called so stays a job.
_FILL = """
UPDATE entries SET
  n = CASE WHEN found.numbered THEN found.place ELSE 1 END,
  job_id = CASE
    WHEN found.kind NOT IN ('charge', 'credit') THEN NULL
    WHEN CASE WHEN found.numbered THEN found.base ELSE found.cause END = 'unknown'
      AND (SELECT videos.job_id FROM videos WHERE videos.request_id = found.request_id) IS NULL THEN NULL
    WHEN found.numbered THEN found.base
    ELSE found.cause
  END
FROM (
  SELECT counted.*, counted.cause = counted.base || ' (' || counted.place || ')' AND EXISTS (
    SELECT 1 FROM entries AS first
    WHERE first.request_id = counted.request_id AND first.kind = counted.kind AND first.cause = counted.base
  ) AS numbered
  FROM (
    SELECT split.*, (
      SELECT count(*) FROM entries AS other
      WHERE other.request_id = split.request_id AND other.kind = split.kind
        AND other.entry_id <= split.entry_id
        AND (other.cause = split.base
          OR substr(other.cause, 1, length(split.base) + 2) = split.base || ' (')
    ) AS place
    FROM (
      SELECT entry_id, request_id, kind, cause, CASE
        WHEN {find}(cause, ' (') > 0 THEN substr(cause, 1, {find}(cause, ' (') - 1) ELSE cause
      END AS base
      FROM entries WHERE {which}
    ) AS split
  ) AS counted
) AS found
WHERE entries.entry_id = found.entry_id
"""
_SQLITE_TRIGGER = """
CREATE TRIGGER entries_of_old_versions AFTER INSERT ON entries WHEN NEW.n = 0
BEGIN {fill}; END
"""
_POSTGRESQL_FUNCTION = """
CREATE FUNCTION entries_of_old_versions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN {fill}; RETURN NULL; END $$
"""
_POSTGRESQL_TRIGGER = """
CREATE TRIGGER entries_of_old_versions AFTER INSERT ON entries
FOR EACH ROW WHEN (NEW.n = 0) EXECUTE FUNCTION entries_of_old_versions()
"""


def upgrade() -> None:
    op.add_column("entries", Column("job_id", String(200)))
    op.add_column("entries", Column("n", Integer, server_default="0", nullable=False))
    op.execute(text(_fill("n = 0")))
    # Two indexes, because NULL is not equal to NULL in a unique key: the first holds for jobs, the second
    # where there is none.
    op.create_index("uq_entries_job", "entries", ["request_id", "kind", "job_id", "n"], unique=True)
    op.create_index(
        "uq_entries_no_job",
        "entries",
        ["request_id", "kind", "n"],
        unique=True,
        sqlite_where=text("job_id IS NULL"),
        postgresql_where=text("job_id IS NULL"),
    )
    fill = _fill("entry_id = NEW.entry_id")
    if _on_sqlite():
        op.execute(_SQLITE_TRIGGER.format(fill=fill))
    else:
        op.execute(_POSTGRESQL_FUNCTION.format(fill=fill))
        op.execute(_POSTGRESQL_TRIGGER)


def downgrade() -> None:
    if _on_sqlite():
        op.execute("DROP TRIGGER entries_of_old_versions")
    else:
        op.execute("DROP TRIGGER entries_of_old_versions ON entries")
        op.execute("DROP FUNCTION entries_of_old_versions()")
    op.drop_index("uq_entries_no_job", "entries")
    op.drop_index("uq_entries_job", "entries")
    op.drop_column("entries", "n")
    op.drop_column("entries", "job_id")


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _fill(which: str) -> str:
    return _FILL.format(find="instr" if _on_sqlite() else "strpos", which=which).strip()
