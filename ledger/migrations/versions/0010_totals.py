"""Totals are written with the entries, and what was found by reading history is found by an index.

- `cost_totals` holds sums and counts by hour, day, 30 days and ever, of everyone, by user and by model.
  Triggers write it with each entry, request, order and repeated call, so the version before, which may run on
  during an upgrade, keeps it right too (docs/decisions/0019-totals-are-written-with-the-entries.md).
- `videos` gets the net cost of a request and what the tables of a report are sorted by.
- `requests` gets its six letters, and `report_at`: its outcome is not in its trace yet.

On PostgreSQL the triggers of money are deferred: they run during COMMIT, one transaction after the other, so
their lock is held neither while a client thinks nor while it waits for another lock.
"""

from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, String, text

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
_BATCH: Final = 5000
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
CREATE VIEW entry_effects AS
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
    ("count_entry", "INSERT", "entries", "NEW.n > 0", (_COST_VIDEO, _COUNT_ENTRY), True),
    # The trigger of migration 0007 gives an entry of the first edition its job and number.
    (
        "count_entry_of_old_versions", "UPDATE OF n", "entries", "OLD.n = 0 AND NEW.n > 0",
        (_COST_VIDEO, _COUNT_ENTRY), True,
    ),
    ("count_request", "INSERT", "requests", None, (_COUNT_REQUEST,), True),
    ("count_video", "INSERT", "videos", None, (_COUNT_VIDEO,), True),
    (
        "count_replay", "INSERT", "transitions", "NEW.subject = 'call' AND NEW.to_state = 'replay'",
        (_COUNT_REPLAY,), True,
    ),
    ("add_day", "INSERT", "cost_totals", "NEW.period = 'day' AND NEW.days = 1", (_ADD_DAY,), False),
    (
        "change_day", "UPDATE", "cost_totals", "NEW.period = 'day' AND OLD.days = 1", (_CHANGE_DAY, _END_KEY),
        False,
    ),
    ("report_video", "UPDATE OF state", "videos", "NEW.state <> OLD.state", (_REPORT_VIDEO,), False),
    ("report_request", "UPDATE OF state", "requests",
     "NEW.state <> OLD.state AND NEW.state IN ('REFUSED', 'NO_ORDER', 'CANCELLED')",
     ("UPDATE requests SET report_at = NEW.updated_at WHERE request_id = NEW.request_id",), False),
    ("reported", "UPDATE OF reported", "requests", "NEW.reported <> OLD.reported", (_REPORTED,), False),
)  # fmt: skip


def upgrade() -> None:
    _add_columns()
    _create_totals()
    _name_requests()
    op.execute(text(_DUE_REPORTS))
    _cost_videos()
    _sum_history()
    for name, table, columns, where in _INDEXES:
        condition = None if where is None else text(where)
        op.create_index(
            name,
            table,
            [text(one) if "(" in one else one for one in columns],
            sqlite_where=condition,
            postgresql_where=condition,
        )
    op.execute(_EFFECTS)
    _create_trigger("spread_change", "INSTEAD OF INSERT", "cost_changes", None, (_SPREAD,), deferred=False)
    for name, event, on, when, body, deferred in _TRIGGERS:
        _create_trigger(name, f"AFTER {event}", on, when, body, deferred=deferred)


def downgrade() -> None:
    for name, _, table, _, _, _ in _TRIGGERS:
        _drop_trigger(name, table)
    _drop_trigger("spread_change", "cost_changes")
    op.execute("DROP VIEW entry_effects")
    op.execute("DROP VIEW cost_changes")
    for name, table, _, _ in _INDEXES:
        op.drop_index(name, table)
    op.drop_table("cost_totals")
    for name in ("last_charged_at", "charged_day", "charged_at", "paid_jobs", "cost_micros"):
        op.drop_column("videos", name)
    for name in ("report_at", "short_id"):
        op.drop_column("requests", name)


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _add_columns() -> None:
    op.add_column("requests", Column("short_id", String(6)))
    op.add_column("requests", Column("report_at", BigInteger))
    op.add_column("videos", Column("cost_micros", BigInteger, server_default="0", nullable=False))
    op.add_column("videos", Column("paid_jobs", Integer, server_default="0", nullable=False))
    op.add_column("videos", Column("charged_at", BigInteger))
    op.add_column("videos", Column("charged_day", Integer))
    op.add_column("videos", Column("last_charged_at", BigInteger))
    if not _on_sqlite():
        # No old process may write between the sums below and the triggers that continue them.
        op.execute("LOCK TABLE requests, videos, entries, transitions IN SHARE ROW EXCLUSIVE MODE")


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
    )
    op.create_index(
        "ix_cost_totals_net", "cost_totals", ["tool", "period", "start", "dimension", "net", "key"]
    )
    counted = text("period = 'day' AND days = 1")
    op.create_index(
        "ix_cost_totals_counted", "cost_totals", ["start"], sqlite_where=counted, postgresql_where=counted
    )
    if not _on_sqlite():
        # A few rows are updated with every entry: their dead versions must not wait for a fifth of the table.
        op.execute("ALTER TABLE cost_totals SET (autovacuum_vacuum_scale_factor = 0.01)")
    op.execute(
        "CREATE VIEW cost_changes AS SELECT tool, start AS hour, start AS user_id, key AS model, "
        f"{', '.join(_FIGURES)} FROM cost_totals WHERE 1 = 0"
    )


def _name_requests() -> None:
    """Write the six letters of every request; they are a hash that no database computes."""
    bind, last = op.get_bind(), ""
    page = text("SELECT request_id FROM requests WHERE request_id > :last ORDER BY request_id LIMIT :most")
    while ids := list(bind.scalars(page, {"last": last, "most": _BATCH})):
        last, names = ids[-1], [short_id(one) for one in ids]
        if _on_sqlite():
            rows = [{"id": one, "name": name} for one, name in zip(ids, names, strict=True)]
            bind.execute(text("UPDATE requests SET short_id = :name WHERE request_id = :id"), rows)
        else:
            bind.execute(
                text(
                    "UPDATE requests SET short_id = named.name"
                    " FROM unnest(CAST(:ids AS text[]), CAST(:names AS text[])) AS named (id, name)"
                    " WHERE requests.request_id = named.id"
                ),
                {"ids": ids, "names": names},
            )


_DUE_REPORTS: Final = f"""
UPDATE requests SET report_at = updated_at WHERE request_id IN (
  SELECT r.request_id FROM requests r LEFT JOIN videos v ON v.request_id = r.request_id
  WHERE COALESCE(v.state, r.state) IN ({_ENDS}) AND r.reported <> COALESCE(v.state, r.state))
"""

_JOBS: Final = """
SELECT request_id, job_id, min(CASE WHEN kind = 'charge' THEN at END) AS at,
  max(CASE WHEN kind = 'charge' THEN at END) AS last_at,
  sum(CASE WHEN kind = 'charge' THEN micros ELSE -micros END) AS net,
  CASE WHEN count(CASE WHEN kind = 'charge' THEN 1 END) > 0 AND (
    sum(CASE WHEN kind = 'charge' THEN micros ELSE -micros END) > 0
    OR sum(CASE WHEN kind = 'credit' THEN micros ELSE 0 END) = 0) THEN 1 ELSE 0 END AS paid
FROM entries WHERE kind IN ('charge', 'credit') GROUP BY request_id, job_id
"""


def _cost_videos() -> None:
    op.execute(
        text(
            f"""
            UPDATE videos SET cost_micros = sums.net, paid_jobs = sums.paid, charged_at = sums.at,
              charged_day = sums.at / {_DAY_MS}, last_charged_at = sums.last_at
            FROM (
              SELECT request_id, min(at) AS at, max(last_at) AS last_at, sum(net) AS net, sum(paid) AS paid
              FROM ({_JOBS}) jobs GROUP BY request_id
            ) sums WHERE videos.request_id = sums.request_id
            """
        )
    )


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
    _line("j.at", f"({_JOBS}) j " + _BY_VIDEO.format("j"), "j.paid = 1", videos="1"),
    _line("v.charged_at", "videos v", "v.paid_jobs > 0", paid_for="1"),
    _line("r.created_at", "requests r LEFT " + _BY_VIDEO.format("r"), commands="1"),
    _line(
        "t.at",
        "requests r JOIN transitions t ON t.request_id = r.request_id LEFT " + _BY_VIDEO.format("r"),
        "t.subject = 'call' AND t.to_state = 'replay'", duplicates="1",
    ),
)  # fmt: skip


def _sum_history() -> None:
    """Fill the totals from all that was stored before, in one pass over each table."""
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in _FIGURES)
    op.execute(
        text(
            f"CREATE TEMPORARY TABLE cost_history AS SELECT hour, user_id, model, {sums}"
            f" FROM ({' UNION ALL '.join(_LINES)}) line GROUP BY hour, user_id, model"
        )
    )
    first = f"({_NOW[_on_sqlite()]} / {_DAY_MS} - {_WINDOW_DAYS - 1}) * {_DAY_MS}"
    hour, day, user = f"hour * {_HOUR_MS}", f"hour / 24 * {_DAY_MS}", "CAST(user_id AS VARCHAR(200))"
    for period, start, dimension, key in (
        ("ever", "0", "all", "''"),
        ("ever", "0", "user", user),
        ("hour", hour, "all", "''"),
        ("day", day, "all", "''"),
        ("day", day, "user", user),
        ("day", day, "model", "model"),
    ):
        counted = f"CASE WHEN {start} >= {first} THEN 1 ELSE 0 END" if _counts(period, dimension) else "0"
        op.execute(
            text(
                f"INSERT INTO cost_totals ({_KEY}, {', '.join(_SUMS)})"
                f" SELECT '{_TOOL}', '{period}', begun, '{dimension}', name, {', '.join(_FIGURES)},"
                f" charged - credited, {counted.replace(start, 'begun')} FROM ("
                f"SELECT {start} AS begun, {key} AS name, {sums} FROM cost_history"
                f" WHERE {key} IS NOT NULL GROUP BY 1, 2) found"
            )
        )
    op.execute(
        text(
            f"INSERT INTO cost_totals ({_KEY}, {', '.join(_SUMS)}) SELECT tool, '30d', 0, dimension, key,"
            f" {', '.join(f'sum({name})' for name in _SUMS)} FROM cost_totals WHERE period = 'day'"
            " AND days = 1 GROUP BY tool, dimension, key"
        )
    )
    op.execute("DROP TABLE cost_history")


_NOW: Final = {
    True: "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    False: "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
}


def _counts(period: str, dimension: str) -> bool:
    return period == "day" and dimension != "all"


def _create_trigger(
    name: str, event: str, table: str, condition: str | None, body: tuple[str, ...], *, deferred: bool
) -> None:
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
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
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


def _drop_trigger(name: str, table: str) -> None:
    if _on_sqlite():
        op.execute(f"DROP TRIGGER {name}")
        return
    op.execute(f"DROP TRIGGER {name} ON {table}")
    op.execute(f"DROP FUNCTION {name}()")
