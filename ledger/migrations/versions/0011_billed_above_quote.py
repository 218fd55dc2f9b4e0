"""Budgets count what an order was billed above its quote: max(quote, net booked).

`videos.over_micros` is what its entries sum up to above the quote, and `over_at` when that last changed. A
trigger writes both, with another version, as `cost_micros` changes (migration 0010 keeps that one), so they
follow every entry, those of the version before too. The sums of `usage_buckets` (migration 0009) count
`quote_micros + over_micros` from here on.

Orders of before get their `over_micros` in batches, by which the same triggers correct the sums: an order is
corrected once, however often the migration is interrupted, and no recount ever sees less than the quotes.
"""

from typing import Any, Final

from alembic import op
from sqlalchemy import BigInteger, Column, text

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

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_UNPAID: Final = "('FAILED_UNPAID', 'CANCELLED', 'EXPIRED')"
_QUOTA_FREE: Final = "('FAILED_UNPAID', 'CANCELLED', 'EXPIRED', 'FAILED_PAID')"
_WIDTHS_S: Final = (1, 60, 900)

_OVER: Final = (
    "CASE WHEN NEW.cost_micros > NEW.quote_micros THEN NEW.cost_micros - NEW.quote_micros ELSE 0 END"
)
_LAST_ENTRY: Final = (
    "COALESCE((SELECT max(at) FROM entries WHERE entries.request_id = NEW.request_id), NEW.updated_at)"
)
_FILL: Final = """
UPDATE videos SET over_micros = cost_micros - quote_micros, over_at = COALESCE(last_charged_at, updated_at)
WHERE request_id BETWEEN :low AND :high AND cost_micros > quote_micros AND over_at IS NULL
"""


def upgrade() -> None:
    alone(op, _begin_counting)
    in_batches(op, "videos", "request_id", _FILL)
    condition = text("over_at IS NOT NULL")
    create_index(
        op, "ix_videos_over", "videos", ["over_at", "request_id"],
        sqlite_where=condition, postgresql_where=condition,
    )  # fmt: skip


def downgrade() -> None:
    drop_index(op, "ix_videos_over", "videos")
    drop_trigger(op, "over_of_videos", "videos")
    in_batches(
        op,
        "videos",
        "request_id",
        "UPDATE videos SET over_micros = 0, over_at = NULL"
        " WHERE request_id BETWEEN :low AND :high AND over_at IS NOT NULL",
    )
    alone(op, _stop_counting)


def _begin_counting() -> None:
    for name, kind in _COLUMNS.items():
        add_column(op, "videos", Column(name, **kind))
    if has_trigger(op, "over_of_videos"):  # an upgrade was interrupted after this
        return
    _count_by("quote_micros + {row}.over_micros", "state, ordered_at, quote_micros, cost_micros, over_micros")
    if _on_sqlite():
        op.execute(
            "CREATE TRIGGER over_of_videos AFTER UPDATE OF cost_micros ON videos"
            f" WHEN NEW.over_micros <> {_OVER} BEGIN"
            f" UPDATE videos SET over_micros = {_OVER}, over_at = {_LAST_ENTRY}, version = NEW.version + 1"
            " WHERE request_id = NEW.request_id; END"
        )
        return
    op.execute(
        "CREATE OR REPLACE FUNCTION over_of_videos() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" NEW.over_micros := {_OVER}; NEW.over_at := {_LAST_ENTRY}; NEW.version := OLD.version + 1;"
        " RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER over_of_videos BEFORE UPDATE OF cost_micros ON videos FOR EACH ROW"
        f" WHEN (NEW.over_micros <> {_OVER}) EXECUTE FUNCTION over_of_videos()"
    )


def _stop_counting() -> None:
    """Count as migration 0009 did; the columns are zero by now."""
    _count_by("quote_micros", "state, ordered_at, quote_micros")
    for name in _COLUMNS:
        drop_column(op, "videos", name)


_COLUMNS: Final[dict[str, dict[str, Any]]] = {
    "over_micros": {"type_": BigInteger, "server_default": "0", "nullable": False},
    "over_at": {"type_": BigInteger},
}


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _upsert(row: str, sign: str, money: str) -> str:
    """Return the statement that adds or subtracts one order (`NEW` or `OLD`) in all of its buckets."""
    micros = f"{row}.{money.format(row=row)}"
    rows = ", ".join(
        f"('generate_video', {scope}, {width_s}, {row}.ordered_at / {width_s * 1000}, "
        f"{sign}CASE WHEN {row}.state IN {_QUOTA_FREE} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNPAID} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNPAID} THEN 0 ELSE {micros} END)"
        for scope in ("'everyone'", f"'user:' || {row}.user_id")
        for width_s in _WIDTHS_S
    )
    return (
        "INSERT INTO usage_buckets (tool, scope, width_s, bucket, takes, starts, micros)"
        f" VALUES {rows} ON CONFLICT (tool, scope, width_s, bucket) DO UPDATE SET"
        " takes = usage_buckets.takes + excluded.takes, starts = usage_buckets.starts + excluded.starts,"
        " micros = usage_buckets.micros + excluded.micros;"
    )


def _count_by(money: str, watched: str) -> None:
    """Let the sums count `money`, columns of an order, from the end of this transaction on."""
    add, take_back = _upsert("NEW", "", money), _upsert("OLD", "-", money)
    counted = money.split(" + {row}.")
    changed = " OR ".join(
        [f"(NEW.state IN {states}) <> (OLD.state IN {states})" for states in (_UNPAID, _QUOTA_FREE)]
        + [f"NEW.{name} <> OLD.{name}" for name in ("ordered_at", *counted)]
    )
    event = f"AFTER UPDATE OF {watched} ON videos"
    if _on_sqlite():
        for name in ("usage_of_new_videos", "usage_of_changed_videos"):
            op.execute(f"DROP TRIGGER {name}")
        op.execute(
            f"CREATE TRIGGER usage_of_new_videos AFTER INSERT ON videos WHEN NEW.state NOT IN {_UNPAID}"
            f" BEGIN {add} END"
        )
        op.execute(
            f"CREATE TRIGGER usage_of_changed_videos {event} WHEN ({changed}) BEGIN {take_back} {add} END"
        )
        return
    op.execute("DROP TRIGGER usage_of_changed_videos ON videos")
    op.execute(
        "CREATE OR REPLACE FUNCTION count_usage_of_videos() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF TG_OP = 'UPDATE' THEN {take_back} END IF; {add} RETURN NULL; END $$"
    )
    op.execute(
        f"CREATE TRIGGER usage_of_changed_videos {event} FOR EACH ROW WHEN ({changed})"
        " EXECUTE FUNCTION count_usage_of_videos()"
    )
