"""An order belongs to a tool: sums, totals and limits are kept for each, and no other version pays for it.

`videos.tool` and `requests.tool` name the tool; all that was stored before is of `generate_video`. An order
of another tool has a request of its own, whose id is the user's request's with `#` and the tool's name behind
it
(docs/decisions/0038-a-paid-tool-is-one-module.md).

The triggers of 0010, 0016 and 0022 named one tool. From here on they take it from the row, so the version
before, which may run next to this one and names none, counts as it did. A repeated call is written with the
user's request; where an order of its tool stands beside that request, it counts for that tool.

The version before knows one tool, and must not send the order of another one as a video. Its claims do not
find such an order, because no account of its is the order's; and a trigger refuses SUBMITTING to a worker
whose fence does not say that it reads the tool (`ledger.transitions.TOOL_FENCE`).

On the way down the sums of all tools are added up as that version reads them, and orders of other tools end
or wait for a person, because nothing that is left knows how to make them. Up again, ids say whose they are,
and what limits count moves with them; what they cost stays with the other tool, and reports add up both.
"""

from functools import partial
from typing import Final

from alembic import op
from sqlalchemy import Column, String, text

from ledger.migrations.steps import (
    add_column,
    alone,
    create_index,
    drop_column,
    drop_index,
    drop_trigger,
    has_trigger,
)

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

_VIDEO: Final = "generate_video"
_MARK: Final = "send_as_its_tool"
_WORDS: Final = "this worker knows no tool but generate_video"
_OTHER: Final = f"tool <> '{_VIDEO}'"
_INDEX: Final = "ix_videos_other_tools"
_LOCK: Final = 0x546F74616C73
"""PostgreSQL's advisory lock of everyone who writes totals (0010)."""

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 86_400_000
_WIDTHS_S: Final = (1, 60, 900)
_UNCOUNTED: Final = "('AWAITING_APPROVAL', 'FAILED_UNPAID', 'CANCELLED', 'EXPIRED')"
_QUOTA_FREE: Final = "('AWAITING_APPROVAL', 'FAILED_UNPAID', 'CANCELLED', 'EXPIRED', 'FAILED_PAID')"
_FIGURES: Final = (
    "charged", "credited", "reserved", "released", "held", "videos", "paid_for", "commands", "duplicates",
)  # fmt: skip
_SUMS: Final = (*_FIGURES, "net", "days")


def upgrade() -> None:
    for table in ("requests", "videos"):
        column = Column("tool", String(60), server_default=_VIDEO, nullable=False)
        alone(op, partial(add_column, op, table, column))
    alone(op, _name_tools)
    other = text(_OTHER)
    create_index(
        op, _INDEX, "videos", ["tool", "ordered_at", "request_id"],
        sqlite_where=other, postgresql_where=other,
    )  # fmt: skip


def downgrade() -> None:
    drop_index(op, _INDEX, "videos")
    alone(op, _name_one_tool)
    for table in ("videos", "requests"):
        alone(op, partial(drop_column, op, table, "tool"))


def _name_tools() -> None:
    if has_trigger(op, _MARK):  # an upgrade was interrupted after this
        return
    _lock()
    _count_by(row_tool="{row}.tool")
    _restore_tools()
    _create_guard()


def _name_one_tool() -> None:
    if not has_trigger(op, _MARK):
        return
    _lock()
    drop_trigger(op, _MARK, "videos")
    _end_other_orders()
    _merge_sums()
    _count_by(row_tool=f"'{_VIDEO}'")


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _lock() -> None:
    if not _on_sqlite():  # there one writes at a time
        op.execute("LOCK TABLE requests, videos, entries, transitions IN SHARE ROW EXCLUSIVE MODE")
        op.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _restore_tools() -> None:
    """Read the tool of orders that were stored before a way down out of their ids."""
    cut = "instr(request_id, '#')" if _on_sqlite() else "strpos(request_id, '#')"
    for table in ("requests", "videos"):
        op.execute(f"UPDATE {table} SET tool = substr(request_id, {cut} + 1) WHERE {cut} > 0")


def _end_other_orders() -> None:
    """Expire what is not paid; hold what may be: the version before would ask a video provider about it."""
    what = f"{_OTHER} AND state"
    op.execute(
        "UPDATE videos SET state = 'EXPIRED', due_at = NULL, version = version + 1"
        f" WHERE {what} IN ('AWAITING_APPROVAL', 'QUEUED')"
    )
    op.execute(
        "UPDATE videos SET state = 'HOLD', failure = 'no_provider', due_at = NULL, version = version + 1"
        f" WHERE {what} IN ('SUBMITTING', 'ACCEPTED', 'IN_DOUBT', 'SUCCEEDED')"
    )
    # What was held for those that ended unpaid is given back, as the worker does it.
    op.execute(
        "INSERT INTO entries (request_id, user_id, kind, cause, micros, at, n)"
        " SELECT request_id, user_id, 'release', 'order', micros, at, 1 FROM entries held"
        " WHERE held.kind = 'hold' AND held.request_id IN"
        f" (SELECT request_id FROM videos WHERE {what} = 'EXPIRED')"
        " AND NOT EXISTS (SELECT 1 FROM entries ended WHERE ended.request_id = held.request_id"
        " AND ended.kind IN ('release', 'charge'))"
    )


def _merge_sums() -> None:
    """Add the sums of every tool to those that the version before reads."""
    added = {
        "usage_buckets": ("scope, width_s, bucket", ("takes", "starts", "micros")),
        "cost_totals": ("period, start, dimension, key", _SUMS),
    }
    for table, (key, sums) in added.items():
        if not _on_sqlite() and table == "cost_totals":
            op.execute("SET CONSTRAINTS ALL IMMEDIATE")  # what was written above is counted first
        columns = f"tool, {key}, {', '.join(sums)}"
        chosen = ", ".join(f"CAST(sum({one}) AS BIGINT)" for one in sums)
        if table == "cost_totals":
            # A trigger keeps the 30 days of a key from its days, so those are not added twice.
            chosen = chosen.replace("CAST(sum(days) AS BIGINT)", "max(days)")
        add = ", ".join(f"{one} = {table}.{one} + excluded.{one}" for one in sums if one != "days")
        period = " AND period <> '30d'" if table == "cost_totals" else ""
        op.execute(
            f"INSERT INTO {table} ({columns}) SELECT '{_VIDEO}', {key}, {chosen} FROM {table}"
            f" WHERE {_OTHER}{period} GROUP BY {key} ON CONFLICT (tool, {key}) DO UPDATE SET {add}"
        )
        op.execute(f"DELETE FROM {table} WHERE {_OTHER}")


def _create_guard() -> None:
    event = f"CREATE TRIGGER {_MARK} BEFORE UPDATE OF state ON videos FOR EACH ROW"
    when = (
        f"WHEN (NEW.state = 'SUBMITTING' AND NEW.tool <> '{_VIDEO}'"
        " AND COALESCE(NEW.fence, '') NOT LIKE 'tool-%')"
    )
    if _on_sqlite():
        op.execute(f"{event} {when} BEGIN SELECT RAISE(ABORT, '{_WORDS}'); END")
        return
    op.execute(
        f"CREATE OR REPLACE FUNCTION {_MARK}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN RAISE EXCEPTION '{_WORDS}'; END $$"
    )
    op.execute(f"{event} {when} EXECUTE FUNCTION {_MARK}()")


def _count_by(row_tool: str) -> None:
    """Let every trigger that sums count for `row_tool`, an expression of the row, from here on."""
    _replace_usage(row_tool)
    _replace_totals(row_tool)


_INTO: Final = "INSERT INTO usage_buckets (tool, scope, width_s, bucket, takes, starts, micros)"
_ADD: Final = (
    "ON CONFLICT (tool, scope, width_s, bucket) DO UPDATE SET"
    " takes = usage_buckets.takes + excluded.takes, starts = usage_buckets.starts + excluded.starts,"
    " micros = usage_buckets.micros + excluded.micros"
)


def _rows(row: str, sign: str, row_tool: str) -> str:
    """Return one order (`NEW` or `OLD`) as a row of each of its buckets."""
    free, money = f"{row}.state IN {_QUOTA_FREE} OR {row}.credit = 'held'", f"{row}.quote_micros"
    return ", ".join(
        f"({row_tool.format(row=row)}, {scope}, {width_s}, {row}.ordered_at / {width_s * 1000}, "
        f"{sign}CASE WHEN {free} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNCOUNTED} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNCOUNTED} THEN 0 ELSE {money} + {row}.over_micros END)"
        for scope in ("'everyone'", f"'user:' || {row}.user_id")
        for width_s in _WIDTHS_S
    )


def _replace_usage(row_tool: str) -> None:
    """Replace the triggers of 0022. An order whose tool is restored is counted for that one from then on."""
    add = f"{_INTO} VALUES {_rows('NEW', '', row_tool)} {_ADD};"
    take_back = f"{_INTO} VALUES {_rows('OLD', '-', row_tool)} {_ADD};"
    numbers = ["ordered_at", "quote_micros", "over_micros", "credit"]
    if not row_tool.startswith("'"):
        numbers.append("tool")
    changed = " OR ".join(
        [f"(NEW.state IN {states}) <> (OLD.state IN {states})" for states in (_UNCOUNTED, _QUOTA_FREE)]
        + [f"NEW.{name} <> OLD.{name}" for name in numbers]
    )
    new = (
        "CREATE TRIGGER usage_of_new_videos AFTER INSERT ON videos {each}"
        f" WHEN (NEW.state NOT IN {_UNCOUNTED})"
    )
    moved = (
        f"CREATE TRIGGER usage_of_changed_videos AFTER UPDATE OF state, cost_micros, {', '.join(numbers)}"
        f" ON videos {{each}} WHEN ({changed})"
    )
    on = "" if _on_sqlite() else " ON videos"
    for name in ("usage_of_new_videos", "usage_of_changed_videos"):
        op.execute(f"DROP TRIGGER {name}{on}")
    if _on_sqlite():
        op.execute(f"{new.format(each='')} BEGIN {add} END")
        op.execute(f"{moved.format(each='')} BEGIN {take_back} {add} END")
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION count_usage_of_videos() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF TG_OP = 'UPDATE' THEN {take_back} END IF; {add} RETURN NULL; END $$"
    )
    for trigger in (new, moved):
        op.execute(f"{trigger.format(each='FOR EACH ROW')} EXECUTE FUNCTION count_usage_of_videos()")


_MODEL: Final = "v.provider || '/' || v.model"
_CHANGES: Final = f"INSERT INTO cost_changes (tool, hour, user_id, model, {', '.join(_FIGURES)})"
_COST_VIDEO: Final = f"""
UPDATE videos SET
  cost_micros = videos.cost_micros + CASE WHEN f.kind = 'charge' THEN f.micros ELSE -f.micros END,
  paid_jobs = videos.paid_jobs + f.job_change,
  charged_at = COALESCE(videos.charged_at, CASE WHEN f.kind = 'charge' THEN f.at END),
  charged_day = COALESCE(videos.charged_day, CASE WHEN f.kind = 'charge' THEN f.at / {_DAY_MS} END),
  last_charged_at = CASE WHEN f.kind = 'charge' THEN f.at ELSE videos.last_charged_at END
FROM entry_effects f
WHERE f.entry_id = NEW.entry_id AND f.kind IN ('charge', 'credit') AND videos.request_id = f.request_id
"""


def _amount(kind: str) -> str:
    return f"CASE WHEN f.kind = '{kind}' THEN f.micros ELSE 0 END"


def _change(tool: str, at: str, where: str, **figures: str) -> str:
    columns = ", ".join(figures.get(name, "0") for name in _FIGURES[:-2])
    return (
        f"SELECT {tool} AS tool, {at} / {_HOUR_MS} AS hour, f.user_id, {_MODEL} AS model, {columns}"
        f" FROM entry_effects f JOIN videos v ON v.request_id = f.request_id"
        f" WHERE f.entry_id = NEW.entry_id AND {where}"
    )


def _count_entry(row_tool: str) -> str:
    tool, zeros = row_tool.format(row="v"), ", ".join(f"0 AS {name}" for name in _FIGURES[:-2])
    first = "((f.job_change = 1 AND v.paid_jobs = 1) OR (f.job_change = -1 AND v.paid_jobs = 0))"
    parts = (
        f"SELECT '' AS tool, 0 AS hour, 0 AS user_id, '' AS model, {zeros} WHERE 1 = 0",
        _change(
            tool, "f.at", "1 = 1", charged=_amount("charge"), credited=_amount("credit"),
            reserved=_amount("hold"), released=_amount("release"), held="f.opened",
        ),
        _change(tool, "f.hold_at", "f.closed <> 0", held="-f.closed"),
        _change(tool, "f.job_at", "f.job_change <> 0", videos="f.job_change"),
        _change(tool, "v.charged_at", first, paid_for="f.job_change"),
    )  # fmt: skip
    sums = ", ".join(f"sum(c.{name})" for name in _FIGURES[:-2])
    return (
        f"{_CHANGES} SELECT c.tool, c.hour, c.user_id, c.model, {sums}, 0, 0"
        f" FROM ({' UNION ALL '.join(parts)}) c GROUP BY c.tool, c.hour, c.user_id, c.model"
    )


def _count_request(row_tool: str) -> str:
    tool = row_tool.format(row="NEW")
    hour, none = f"NEW.created_at / {_HOUR_MS}", "0, 0, 0, 0, 0, 0, 0"
    return f"{_CHANGES} VALUES ({tool}, {hour}, NEW.user_id, NULL, {none}, 1, 0)"


def _counts_of_model(row: str, sign: str, row_tool: str) -> str:
    """Return the statement that counts a command, and its repeated calls, for its order's model."""
    # Repeated calls of another tool count for the order that stands beside this one.
    mine = "" if row_tool.startswith("'") else (
        " AND NOT EXISTS (SELECT 1 FROM requests o WHERE o.request_id = t.request_id || '#' || t.who)"
    )  # fmt: skip
    return (
        f"{_CHANGES} SELECT {row_tool.format(row=row)}, c.hour, NULL,"
        f" {row}.provider || '/' || {row}.model, 0, 0, 0, 0, 0, 0, 0,"
        f" {sign}sum(c.commands), {sign}sum(c.duplicates) FROM ("
        f"SELECT r.created_at / {_HOUR_MS} AS hour, 1 AS commands, 0 AS duplicates FROM requests r"
        f" WHERE r.request_id = NEW.request_id UNION ALL SELECT t.at / {_HOUR_MS}, 0, 1 FROM transitions t"
        f" WHERE t.request_id = NEW.request_id AND t.subject = 'call' AND t.to_state = 'replay'{mine}"
        ") c GROUP BY c.hour"
    )


def _count_replay(row_tool: str) -> str:
    which = "NEW.request_id"
    if not row_tool.startswith("'"):
        beside = "NEW.request_id || '#' || NEW.who"
        which = (
            f"CASE WHEN EXISTS (SELECT 1 FROM requests o WHERE o.request_id = {beside})"
            f" THEN {beside} ELSE NEW.request_id END"
        )
    return (
        f"{_CHANGES} SELECT {row_tool.format(row='r')}, NEW.at / {_HOUR_MS}, r.user_id, {_MODEL},"
        " 0, 0, 0, 0, 0, 0, 0, 0, 1 FROM requests r LEFT JOIN videos v ON v.request_id = r.request_id"
        f" WHERE r.request_id = {which}"
    )


def _replace_totals(row_tool: str) -> None:
    """Replace the triggers of 0010 and 0016 that write totals; their conditions and effects stay."""
    entry = (_COST_VIDEO, _count_entry(row_tool))
    model = (_counts_of_model("OLD", "-", row_tool), _counts_of_model("NEW", "", row_tool))
    for name, event, table, condition, body in (
        ("count_entry", "AFTER INSERT", "entries", "NEW.n > 0", entry),
        ("count_entry_of_old_versions", "AFTER UPDATE OF n", "entries", "OLD.n = 0 AND NEW.n > 0", entry),
        ("count_request", "AFTER INSERT", "requests", "", (_count_request(row_tool),)),
        ("count_video", "AFTER INSERT", "videos", "", (_counts_of_model("NEW", "", row_tool),)),
        (
            "count_replay", "AFTER INSERT", "transitions",
            "NEW.subject = 'call' AND NEW.to_state = 'replay'", (_count_replay(row_tool),),
        ),
        (
            "count_changed_model", "AFTER UPDATE OF provider, model", "videos",
            "NEW.provider <> OLD.provider OR NEW.model <> OLD.model", model,
        ),
    ):  # fmt: skip
        statements = [f"{_once(one.strip())};" for one in body]
        if not _on_sqlite():
            lock = f"PERFORM pg_advisory_xact_lock({_LOCK});"
            at = 0 if name == "count_changed_model" else len(statements) - 1
            statements.insert(at, lock)
            op.execute(
                f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ BEGIN {' '.join(statements)} RETURN NEW; END $$"
            )
            continue
        when = f"WHEN ({condition})" if condition else ""
        op.execute(f"DROP TRIGGER {name}")
        op.execute(
            f"CREATE TRIGGER {name} {event} ON {table} FOR EACH ROW {when} BEGIN {' '.join(statements)} END"
        )


def _once(statement: str) -> str:
    """Evaluate the effects of an entry once on PostgreSQL; SQLite takes no WITH in a trigger."""
    if _on_sqlite() or "FROM entry_effects f JOIN" not in statement:
        return statement
    effect = "WITH effect AS MATERIALIZED (SELECT * FROM entry_effects WHERE entry_id = NEW.entry_id)"
    return f"{effect} {statement.replace('FROM entry_effects f JOIN', 'FROM effect f JOIN')}"
