"""Totals are written with the entries, and what was found by reading history is found by an index.

- `cost_totals` holds sums and counts by hour, day, 30 days and ever, of everyone, by user and by model.
  Triggers write it with each entry, request, order and repeated call, so the version before, which may run on
  during an upgrade, keeps it right too (docs/decisions/0019-totals-are-written-with-the-entries.md).
- `videos` gets the net cost of a request and what the tables of a report are sorted by.
- `requests` gets its six letters, and `report_at`: its outcome is not in its trace yet.

On PostgreSQL the triggers of money are deferred: they run during COMMIT, one transaction after the other, so
their lock is held neither while a client thinks nor while it waits for another lock.

Old rows are filled in while the version before writes. A video's costs come first, because totals are counted
from them: each request's are summed from its entries while its row is locked, and with each entry that is
written meanwhile. Totals are then added from a snapshot that was taken as their triggers came into force
(`steps.add_sums`). Each step can be interrupted and is then done again.
"""

from functools import partial
from typing import Any, Final

from alembic import op
from sqlalchemy import BigInteger, Column, Connection, Integer, PrimaryKeyConstraint, String, text

from ledger.migrations.steps import (
    add_column,
    add_sums,
    alone,
    create_index,
    drop_column,
    drop_index,
    drop_trigger,
    has_trigger,
    in_batches,
)
from telemetry.redaction import short_id

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_FIGURES: Final = (
    "charged", "credited", "reserved", "released", "held", "videos", "paid_for", "commands", "duplicates",
)  # fmt: skip
_SUMS: Final = (*_FIGURES, "net", "days")
_TOOL: Final = "generate_video"
_ENDS: Final = (
    "'DELIVERED', 'FAILED_PAID', 'FAILED_UNPAID', 'CANCELLED', 'EXPIRED', 'HOLD', 'REFUSED', 'NO_ORDER'"
)
_ACTIVE: Final = "'AWAITING_APPROVAL', 'QUEUED', 'SUBMITTING', 'ACCEPTED', 'IN_DOUBT', 'HOLD', 'SUCCEEDED'"
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_WINDOW_DAYS: Final = 30
_LOCK: Final = 0x546F74616C73
"""PostgreSQL's advisory lock of everyone who writes totals; `ledger.totals` takes it too."""

_INDEXES: Final = (
    # name, table, columns, condition
    ("ix_requests_short_id", "requests", ("short_id",), None),
    ("ix_requests_unnamed", "requests", ("created_at",), "short_id IS NULL"),
    ("ix_requests_report", "requests", ("report_at",), "report_at IS NOT NULL"),
    ("ix_requests_open", "requests", ("user_id",), "state = 'OPEN'"),
    ("ix_videos_active", "videos", ("ordered_at",), f"state IN ({_ACTIVE})"),
    ("ix_videos_cancellable", "videos", ("user_id",), "state IN ('AWAITING_APPROVAL', 'QUEUED')"),
    ("ix_videos_charged", "videos", ("charged_day", "cost_micros", "request_id"), None),
    ("ix_videos_unknown_job", "videos", ("substr(prompt, 1, 100)",), "submits > 0 AND job_id IS NULL"),
    ("ix_videos_twice_paid", "videos", ("last_charged_at",), "paid_jobs > 1"),
    ("ix_entries_job_id", "entries", ("job_id",), "kind = 'charge' AND job_id IS NOT NULL"),
    ("ix_entries_user_id_at", "entries", ("user_id", "at"), None),
    (
        "ix_transitions_replay", "transitions", ("at", "request_id"),
        "subject = 'call' AND to_state = 'replay'",
    ),
)  # fmt: skip

# What one entry changes, from the entries before it. So every entry can be counted by itself, in order, even
# where the later ones of its transaction are stored already.
_SAME_JOB = (
    "o.request_id = e.request_id AND o.kind IN ('charge', 'credit')"
    " AND (o.job_id = e.job_id OR (o.job_id IS NULL AND e.job_id IS NULL))"
)
_PAID = (
    "(SELECT CASE WHEN count(CASE WHEN o.kind = 'charge' THEN 1 END) > 0 AND ("
    "sum(CASE WHEN o.kind = 'charge' THEN o.micros ELSE -o.micros END) > 0"
    " OR sum(CASE WHEN o.kind = 'credit' THEN o.micros ELSE 0 END) = 0) THEN 1 ELSE 0 END"
    f" FROM entries o WHERE {_SAME_JOB} AND o.entry_id {{bound}} e.entry_id)"
)
_ENDED = (
    "EXISTS (SELECT 1 FROM entries o WHERE o.request_id = e.request_id"
    " AND o.kind IN ('charge', 'release') AND o.entry_id < e.entry_id)"
)
_EFFECTS = f"""
SELECT e.entry_id, e.request_id, e.user_id, e.kind, e.micros, e.at,
  CASE WHEN e.kind IN ('charge', 'credit')
    THEN {_PAID.format(bound="<=")} - {_PAID.format(bound="<")} ELSE 0 END AS job_change,
  CASE WHEN e.kind IN ('charge', 'credit') THEN
    (SELECT min(o.at) FROM entries o WHERE {_SAME_JOB} AND o.kind = 'charge' AND o.entry_id <= e.entry_id)
  END AS job_at,
  CASE WHEN e.kind = 'hold' AND NOT {_ENDED} THEN e.micros ELSE 0 END AS opened,
  CASE WHEN e.kind IN ('charge', 'release') AND NOT {_ENDED} THEN
    (SELECT sum(o.micros) FROM entries o
     WHERE o.request_id = e.request_id AND o.kind = 'hold' AND o.entry_id < e.entry_id)
  END AS closed,
  (SELECT min(o.at) FROM entries o WHERE o.request_id = e.request_id AND o.kind = 'hold') AS hold_at
FROM entries e
"""

_COST_VIDEO = f"""
UPDATE videos SET
  cost_micros = videos.cost_micros + CASE WHEN f.kind = 'charge' THEN f.micros ELSE -f.micros END,
  paid_jobs = videos.paid_jobs + f.job_change,
  charged_at = COALESCE(videos.charged_at, CASE WHEN f.kind = 'charge' THEN f.at END),
  charged_day = COALESCE(videos.charged_day, CASE WHEN f.kind = 'charge' THEN f.at / {_DAY_MS} END),
  last_charged_at = CASE WHEN f.kind = 'charge' THEN f.at ELSE videos.last_charged_at END
FROM entry_effects f
WHERE f.entry_id = NEW.entry_id AND f.kind IN ('charge', 'credit') AND videos.request_id = f.request_id
"""

_MODEL = "v.provider || '/' || v.model"


def _amount(kind: str) -> str:
    return f"CASE WHEN f.kind = '{kind}' THEN f.micros ELSE 0 END"


def _change(at: str, where: str, **figures: str) -> str:
    columns = ", ".join(figures.get(name, "0") for name in _FIGURES[:-2])
    return (
        f"SELECT {at} / {_HOUR_MS} AS hour, f.user_id, {_MODEL} AS model, {columns}"
        f" FROM entry_effects f JOIN videos v ON v.request_id = f.request_id"
        f" WHERE f.entry_id = NEW.entry_id AND {where}"
    )


_COUNT_ENTRY = f"""
INSERT INTO cost_changes (tool, hour, user_id, model, {", ".join(_FIGURES)})
SELECT '{_TOOL}', c.hour, c.user_id, c.model, {", ".join(f"sum(c.{name})" for name in _FIGURES[:-2])}, 0, 0
FROM (
  SELECT 0 AS hour, 0 AS user_id, '' AS model, {", ".join(f"0 AS {name}" for name in _FIGURES[:-2])}
  WHERE 1 = 0
  UNION ALL {
    _change(
        "f.at", "1 = 1", charged=_amount("charge"), credited=_amount("credit"), reserved=_amount("hold"),
        released=_amount("release"), held="f.opened",
    )
}
  UNION ALL {_change("f.hold_at", "f.closed <> 0", held="-f.closed")}
  UNION ALL {_change("f.job_at", "f.job_change <> 0", videos="f.job_change")}
  UNION ALL {
    _change(
        "v.charged_at",
        "((f.job_change = 1 AND v.paid_jobs = 1) OR (f.job_change = -1 AND v.paid_jobs = 0))",
        paid_for="f.job_change",
    )
}
) c GROUP BY c.hour, c.user_id, c.model
"""  # fmt: skip

_COUNT_REQUEST = f"""
INSERT INTO cost_changes (tool, hour, user_id, model, {", ".join(_FIGURES)})
VALUES ('{_TOOL}', NEW.created_at / {_HOUR_MS}, NEW.user_id, NULL, 0, 0, 0, 0, 0, 0, 0, 1, 0)
"""

# Its model was not known when its command came, nor with calls that were repeated before there was an order.
_COUNT_VIDEO = f"""
INSERT INTO cost_changes (tool, hour, user_id, model, {", ".join(_FIGURES)})
SELECT '{_TOOL}', c.hour, NULL, NEW.provider || '/' || NEW.model, 0, 0, 0, 0, 0, 0, 0,
  sum(c.commands), sum(c.duplicates)
FROM (
  SELECT r.created_at / {_HOUR_MS} AS hour, 1 AS commands, 0 AS duplicates
  FROM requests r WHERE r.request_id = NEW.request_id
  UNION ALL
  SELECT t.at / {_HOUR_MS}, 0, 1 FROM transitions t
  WHERE t.request_id = NEW.request_id AND t.subject = 'call' AND t.to_state = 'replay'
) c GROUP BY c.hour
"""

_COUNT_REPLAY = f"""
INSERT INTO cost_changes (tool, hour, user_id, model, {", ".join(_FIGURES)})
SELECT '{_TOOL}', NEW.at / {_HOUR_MS}, r.user_id, {_MODEL}, 0, 0, 0, 0, 0, 0, 0, 0, 1
FROM requests r LEFT JOIN videos v ON v.request_id = r.request_id WHERE r.request_id = NEW.request_id
"""

_ADD = ", ".join(f"{name} = cost_totals.{name} + excluded.{name}" for name in _SUMS)
_KEY = "tool, period, start, dimension, key"
_DAY_START = f"NEW.hour / 24 * {_DAY_MS}"
_SPREAD = f"""
INSERT INTO cost_totals ({_KEY}, {", ".join(_SUMS)})
SELECT NEW.tool, p.period, p.start, p.dimension, p.key,
  {", ".join(f"NEW.{name}" for name in _FIGURES)}, NEW.charged - NEW.credited, p.days
FROM (
  SELECT 'ever' AS period, 0 AS start, 'all' AS dimension, '' AS key, 0 AS days WHERE NEW.user_id IS NOT NULL
  UNION ALL SELECT 'ever', 0, 'user', CAST(NEW.user_id AS VARCHAR(200)), 0
  UNION ALL SELECT 'hour', NEW.hour * {_HOUR_MS}, 'all', '', 0 WHERE NEW.user_id IS NOT NULL
  UNION ALL SELECT 'day', {_DAY_START}, 'all', '', 0 WHERE NEW.user_id IS NOT NULL
  UNION ALL SELECT 'day', {_DAY_START}, 'user', CAST(NEW.user_id AS VARCHAR(200)), 1
  UNION ALL SELECT 'day', {_DAY_START}, 'model', NEW.model, 1
) p WHERE p.key IS NOT NULL
ON CONFLICT ({_KEY}) DO UPDATE SET {_ADD.replace("cost_totals.days + excluded.days", "cost_totals.days")}
"""


def _window(after: str, before: str) -> str:
    return f"""
INSERT INTO cost_totals ({_KEY}, {", ".join(_SUMS)})
SELECT NEW.tool, '30d', 0, NEW.dimension, NEW.key, {
        ", ".join(f"NEW.{name} * {after} - {before.format(name=name)}" for name in _SUMS[:-1])
    }, {after} - {before.format(name="days")}
WHERE 1 = 1
ON CONFLICT ({_KEY}) DO UPDATE SET {_ADD}
"""


# A day counts into its key's 30 days while its `days` is 1.
_ADD_DAY = _window("1", "0")
_CHANGE_DAY = _window("NEW.days", "OLD.{name} * OLD.days").replace("OLD.days * OLD.days", "OLD.days")
_END_KEY = """
DELETE FROM cost_totals WHERE tool = NEW.tool AND period = '30d' AND start = 0 AND dimension = NEW.dimension
  AND key = NEW.key AND days <= 0
"""

_REPORT_VIDEO = f"""
UPDATE requests SET report_at =
  CASE WHEN NEW.state IN ({_ENDS}) AND reported <> NEW.state THEN NEW.updated_at END
WHERE request_id = NEW.request_id AND (NEW.state IN ({_ENDS}) OR report_at IS NOT NULL)
"""
_REPORTED = """
UPDATE requests SET report_at = NULL WHERE request_id = NEW.request_id AND NEW.reported = COALESCE(
  (SELECT state FROM videos WHERE videos.request_id = NEW.request_id), NEW.state)
"""

# name, event, table, condition, body, deferred on PostgreSQL
_TRIGGERS: Final = (
    ("count_entry", "AFTER INSERT", "entries", "NEW.n > 0", (_COST_VIDEO, _COUNT_ENTRY), True),
    # The trigger of migration 0007 gives an entry of the first edition its job and number.
    (
        "count_entry_of_old_versions", "AFTER UPDATE OF n", "entries", "OLD.n = 0 AND NEW.n > 0",
        (_COST_VIDEO, _COUNT_ENTRY), True,
    ),
    ("count_request", "AFTER INSERT", "requests", None, (_COUNT_REQUEST,), True),
    ("count_video", "AFTER INSERT", "videos", None, (_COUNT_VIDEO,), True),
    (
        "count_replay", "AFTER INSERT", "transitions", "NEW.subject = 'call' AND NEW.to_state = 'replay'",
        (_COUNT_REPLAY,), True,
    ),
    ("add_day", "AFTER INSERT", "cost_totals", "NEW.period = 'day' AND NEW.days = 1", (_ADD_DAY,), False),
    (
        "change_day", "AFTER UPDATE", "cost_totals", "NEW.period = 'day' AND OLD.days = 1",
        (_CHANGE_DAY, _END_KEY), False,
    ),
    ("report_video", "AFTER UPDATE OF state", "videos", "NEW.state <> OLD.state", (_REPORT_VIDEO,), False),
    ("report_request", "AFTER UPDATE OF state", "requests",
     "NEW.state <> OLD.state AND NEW.state IN ('REFUSED', 'NO_ORDER', 'CANCELLED')",
     ("UPDATE requests SET report_at = NEW.updated_at WHERE request_id = NEW.request_id",), False),
    ("reported", "AFTER UPDATE OF reported", "requests", "NEW.reported <> OLD.reported", (_REPORTED,), False),
)  # fmt: skip
_REPORT_TRIGGERS: Final = ("report_video", "report_request", "reported")


def upgrade() -> None:
    for table in _COLUMNS:
        alone(op, partial(_extend, table))
    if not has_trigger(op, "count_entry"):  # else an upgrade was interrupted after this
        alone(op, _cost_videos_meanwhile)
        in_batches(op, "requests", "request_id", _fill)
    alone(op, _create_totals)
    tables = ["requests", "videos", "entries", "transitions"]
    take_lock = f"SELECT pg_advisory_xact_lock({_LOCK})"
    add_sums(op, tables, _begin_counting, _before(), "period, dimension, start, key", _ADD_BEFORE, take_lock)
    for name, table, columns, where in _INDEXES:
        condition = None if where is None else text(where)
        create_index(
            op,
            name,
            table,
            [text(one) if "(" in one else one for one in columns],
            sqlite_where=condition,
            postgresql_where=condition,
        )


def downgrade() -> None:
    for name, table, _, _ in _INDEXES:
        drop_index(op, name, table)
    for name, _, table, _, _, _ in _TRIGGERS:
        drop_trigger(op, name, table)
    op.execute("DROP VIEW entry_effects")
    op.execute("DROP VIEW cost_changes")  # and its trigger
    if not _on_sqlite():
        op.execute("DROP FUNCTION spread_change()")
    op.drop_table("cost_totals")
    for table, columns in _COLUMNS.items():
        for name in columns:
            drop_column(op, table, name)


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


_COLUMNS: Final[dict[str, dict[str, dict[str, Any]]]] = {
    "requests": {"short_id": {"type_": String(6)}, "report_at": {"type_": BigInteger}},
    "videos": {
        "cost_micros": {"type_": BigInteger, "server_default": "0", "nullable": False},
        "paid_jobs": {"type_": Integer, "server_default": "0", "nullable": False},
        "charged_at": {"type_": BigInteger},
        "charged_day": {"type_": Integer},
        "last_charged_at": {"type_": BigInteger},
    },
}


def _extend(table: str) -> None:
    """Add a table's columns, and its triggers that sum nothing."""
    for name, kind in _COLUMNS[table].items():
        add_column(op, table, Column(name, **kind))
    for trigger in _TRIGGERS:
        if trigger[0] in _REPORT_TRIGGERS and trigger[2] == table:
            _create_trigger(*trigger)


def _create_totals() -> None:
    op.create_table(
        "cost_totals",
        Column("tool", String(64), nullable=False),
        Column("period", String(4), nullable=False),
        Column("start", BigInteger, nullable=False),
        Column("dimension", String(5), nullable=False),
        Column("key", String(200), nullable=False),
        *(Column(name, BigInteger, server_default="0", nullable=False) for name in (*_FIGURES, "net")),
        Column("days", Integer, server_default="0", nullable=False),
        PrimaryKeyConstraint(*_KEY.split(", "), name="pk_cost_totals"),
        if_not_exists=True,
    )
    op.create_index(
        "ix_cost_totals_net",
        "cost_totals",
        ["tool", "period", "start", "dimension", "net", "key"],
        if_not_exists=True,
    )
    counted = text("period = 'day' AND days = 1")
    op.create_index(
        "ix_cost_totals_counted",
        "cost_totals",
        ["start"],
        sqlite_where=counted,
        postgresql_where=counted,
        if_not_exists=True,
    )
    if not _on_sqlite():
        # A few rows are updated with every entry: their dead versions must not wait for a fifth of the table.
        op.execute("ALTER TABLE cost_totals SET (autovacuum_vacuum_scale_factor = 0.01)")
    _create_view(
        "cost_changes",
        "SELECT tool, start AS hour, start AS user_id, key AS model, "
        f"{', '.join(_FIGURES)} FROM cost_totals WHERE 1 = 0",
    )
    _create_view("entry_effects", _EFFECTS)


def _create_view(name: str, query: str) -> None:
    op.execute(f"CREATE {'VIEW IF NOT EXISTS' if _on_sqlite() else 'OR REPLACE VIEW'} {name} AS {query}")


def _begin_counting() -> None:
    """Empty the totals; from here on each entry is counted, instead of the costs of its request summed up."""
    for name, _ in _MEANWHILE:
        drop_trigger(op, name, "entries")
    op.execute("DELETE FROM cost_totals")
    _create_trigger("spread_change", "INSTEAD OF INSERT", "cost_changes", None, (_SPREAD,))
    for trigger in _TRIGGERS:
        _create_trigger(*trigger)


def _fill(conn: Connection, found: dict[str, Any]) -> None:
    if not _on_sqlite():
        # A writer of a state or of costs has to have the row. Later statements see what came before.
        conn.execute(
            text(
                "SELECT count(*) FROM (SELECT 1 FROM videos WHERE request_id BETWEEN :low AND :high"
                " ORDER BY request_id FOR UPDATE) locked"
            ),
            found,
        )
    conn.execute(text(_sum_costs("BETWEEN :low AND :high")), found)
    conn.execute(text(_DUE_REPORTS), found)
    _name_requests(conn, found)


def _name_requests(conn: Connection, found: dict[str, Any]) -> None:
    """Write the six letters of requests; they are a hash that no database computes."""
    page = "SELECT request_id FROM requests WHERE request_id BETWEEN :low AND :high AND short_id IS NULL"
    names = {one: short_id(one) for one in conn.scalars(text(page), found)}
    if names and _on_sqlite():
        rows = [{"id": one, "name": name} for one, name in names.items()]
        conn.execute(text("UPDATE requests SET short_id = :name WHERE request_id = :id"), rows)
    elif names:
        conn.execute(
            text(
                "UPDATE requests SET short_id = named.name"
                " FROM unnest(CAST(:ids AS text[]), CAST(:names AS text[])) AS named (id, name)"
                " WHERE requests.request_id = named.id"
            ),
            {"ids": list(names), "names": list(names.values())},
        )


_OUTCOME: Final = (
    "COALESCE((SELECT v.state FROM videos v WHERE v.request_id = requests.request_id), requests.state)"
)
_DUE_REPORTS: Final = f"""
UPDATE requests SET report_at = updated_at
WHERE request_id BETWEEN :low AND :high AND report_at IS NULL AND {_OUTCOME} IN ({_ENDS})
  AND reported <> {_OUTCOME}
"""

_JOBS: Final = """
SELECT request_id, job_id, min(CASE WHEN kind = 'charge' THEN at END) AS at,
  max(CASE WHEN kind = 'charge' THEN at END) AS last_at,
  sum(CASE WHEN kind = 'charge' THEN micros ELSE -micros END) AS net,
  CASE WHEN count(CASE WHEN kind = 'charge' THEN 1 END) > 0 AND (
    sum(CASE WHEN kind = 'charge' THEN micros ELSE -micros END) > 0
    OR sum(CASE WHEN kind = 'credit' THEN micros ELSE 0 END) = 0) THEN 1 ELSE 0 END AS paid
FROM entries WHERE kind IN ('charge', 'credit') AND {which} GROUP BY request_id, job_id
"""


def _sum_costs(which: str) -> str:
    """Return the statement that writes the costs of videos from their entries; right rows stay untouched."""
    return f"""
UPDATE videos SET cost_micros = sums.net, paid_jobs = sums.paid, charged_at = sums.at,
  charged_day = sums.at / {_DAY_MS}, last_charged_at = sums.last_at
FROM (
  SELECT request_id, min(at) AS at, max(last_at) AS last_at, CAST(sum(net) AS BIGINT) AS net,
    sum(paid) AS paid
  FROM ({_JOBS.format(which=f"request_id {which}")}) jobs GROUP BY request_id
) sums
WHERE videos.request_id = sums.request_id AND (
  videos.cost_micros <> sums.net OR videos.paid_jobs <> sums.paid
  OR COALESCE(videos.charged_at, -1) <> COALESCE(sums.at, -1)
  OR COALESCE(videos.last_charged_at, -1) <> COALESCE(sums.last_at, -1))
"""


# Until totals are counted. The second one is for the trigger of 0007, which gives an entry its job later.
_MEANWHILE: Final = (("cost_meanwhile", "INSERT"), ("cost_meanwhile_of_job", "UPDATE OF n"))


def _cost_videos_meanwhile() -> None:
    lock = "" if _on_sqlite() else "PERFORM 1 FROM videos WHERE request_id = NEW.request_id FOR UPDATE; "
    body = lock + _sum_costs("= NEW.request_id")
    for name, event in _MEANWHILE:
        _create_trigger(name, f"AFTER {event}", "entries", None, (body,))


def _line(at: str, source: str, where: str = "1 = 1", **figures: str) -> str:
    """Return one part of what history adds up to: `v` is the video, `source` names the rows to count."""
    columns = ", ".join(f"{figures.get(name, '0')} AS {name}" for name in _FIGURES)
    user = "r.user_id" if source.startswith("requests") else "v.user_id"
    key = f"{at} / {_HOUR_MS} AS hour, {user} AS user_id, {_MODEL} AS model"
    return f"SELECT {key}, {columns} FROM {source} WHERE {where}"


def _of(kind: str) -> str:
    return f"CASE WHEN e.kind = '{kind}' THEN e.micros ELSE 0 END"


_BY_VIDEO: Final = "JOIN videos v ON v.request_id = {0}.request_id"
_LINES: Final = (
    _line(
        "e.at", "entries e " + _BY_VIDEO.format("e"), charged=_of("charge"), credited=_of("credit"),
        reserved=_of("hold"), released=_of("release"),
    ),
    _line(
        "e.at", "entries e " + _BY_VIDEO.format("e"),
        "e.kind = 'hold' AND NOT EXISTS (SELECT 1 FROM entries o WHERE o.request_id = e.request_id"
        " AND o.kind IN ('charge', 'release'))",
        held="e.micros",
    ),
    _line("j.at", f"({_JOBS.format(which='1 = 1')}) j " + _BY_VIDEO.format("j"), "j.paid = 1", videos="1"),
    _line("v.charged_at", "videos v", "v.paid_jobs > 0", paid_for="1"),
    _line("r.created_at", "requests r LEFT " + _BY_VIDEO.format("r"), commands="1"),
    _line(
        "t.at",
        "requests r JOIN transitions t ON t.request_id = r.request_id LEFT " + _BY_VIDEO.format("r"),
        "t.subject = 'call' AND t.to_state = 'replay'", duplicates="1",
    ),
)  # fmt: skip


_NOW: Final = {
    True: "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    False: "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}


_FIRST_DAY: Final = f"({{now}} / {_DAY_MS} - {_WINDOW_DAYS - 1}) * {_DAY_MS}"
_PERIODS: Final = (
    # period, start, dimension, key
    ("ever", "0", "all", "''"),
    ("ever", "0", "user", "CAST(user_id AS VARCHAR(200))"),
    ("hour", f"hour * {_HOUR_MS}", "all", "''"),
    ("day", f"hour / 24 * {_DAY_MS}", "all", "''"),
    ("day", f"hour / 24 * {_DAY_MS}", "user", "CAST(user_id AS VARCHAR(200))"),
    ("day", f"hour / 24 * {_DAY_MS}", "model", "model"),
)


def _before() -> str:
    """Return the question for the totals of all that was stored before; triggers sum the 30 days from it."""
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in _FIGURES)
    first = _FIRST_DAY.format(now=f"(SELECT {_NOW[_on_sqlite()]})")  # read once for all rows
    parts = []
    for period, start, dimension, key in _PERIODS:
        is_day = period == "day" and dimension != "all"
        days = f"CASE WHEN {start} >= {first} THEN 1 ELSE 0 END" if is_day else "0"
        parts.append(
            f"SELECT '{period}' AS period, {start} AS start, '{dimension}' AS dimension, {key} AS key,"
            f" {days} AS days, {sums} FROM history WHERE {key} IS NOT NULL GROUP BY 1, 2, 3, 4, 5"
        )
    return (
        f"WITH history AS (SELECT hour, user_id, model, {sums} FROM ({' UNION ALL '.join(_LINES)}) line"
        f" GROUP BY hour, user_id, model) {' UNION ALL '.join(parts)}"
    )


_ADD_BEFORE: Final = f"""
INSERT INTO cost_totals ({_KEY}, {", ".join(_SUMS)})
SELECT '{_TOOL}', period, start, dimension, key, {", ".join(_FIGURES)}, charged - credited, days
FROM summed WHERE n BETWEEN :low AND :high ORDER BY n
ON CONFLICT ({_KEY}) DO UPDATE SET {_ADD.replace("cost_totals.days + excluded.days", "cost_totals.days")}
"""


def _create_trigger(
    name: str, event: str, table: str, condition: str | None, body: tuple[str, ...], deferred: bool = False
) -> None:
    if has_trigger(op, name):
        return
    statements = [f"{_once(one.strip())};" for one in body]
    when = f"WHEN ({condition})" if condition else ""
    if _on_sqlite():
        op.execute(
            f"CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW {when} BEGIN {' '.join(statements)} END"
        )
        return
    if deferred:  # after the row of the video is locked: in this order everywhere
        statements.insert(-1, f"PERFORM pg_advisory_xact_lock({_LOCK});")
    op.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {' '.join(statements)} RETURN NEW; END $$"
    )
    constraint, later = ("CONSTRAINT", "DEFERRABLE INITIALLY DEFERRED") if deferred else ("", "")
    op.execute(
        f"CREATE {constraint} TRIGGER {name} {event} ON {table} {later} FOR EACH ROW {when}"
        f" EXECUTE FUNCTION {name}()"
    )


def _once(statement: str) -> str:
    """Evaluate the effects of an entry once on PostgreSQL; SQLite takes no WITH in a trigger."""
    if _on_sqlite() or "FROM entry_effects f JOIN" not in statement:
        return statement
    effect = "WITH effect AS MATERIALIZED (SELECT * FROM entry_effects WHERE entry_id = NEW.entry_id)"
    return f"{effect} {statement.replace('FROM entry_effects f JOIN', 'FROM effect f JOIN')}"
