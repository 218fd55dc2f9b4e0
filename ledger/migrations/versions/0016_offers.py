"""An offer counts toward nothing until its user taps; what a person has set is kept in `people`.

The triggers of 0009 and 0011 count every order that has not ended unpaid. From here on they leave out those
in AWAITING_APPROVAL too, and what they had counted of such orders is taken back in the same transaction.
Offers of the version before keep their `hold` entry, which is released at their end as before.

`videos.approved_nonce` keeps the nonce of an approved offer, so that a second tap is known for what it is.
`videos.offered_micros` is the price that a changed offer had before. As an offer may now change its model,
the totals of a model (0010) follow it.

The version before may run next to this one. It writes an offer with a `hold` entry, and approves one without
the recount; the triggers count it from then on.
"""

from functools import partial
from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, text

from ledger.migrations.steps import (
    add_column,
    alone,
    create_index,
    drop_column,
    drop_index,
    drop_trigger,
    has_trigger,
)

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

_OFFER: Final = "AWAITING_APPROVAL"
_UNPAID: Final = "('FAILED_UNPAID', 'CANCELLED', 'EXPIRED')"
_QUOTA_FREE: Final = "('FAILED_UNPAID', 'CANCELLED', 'EXPIRED', 'FAILED_PAID')"
_WIDTHS_S: Final = (1, 60, 900)
_LOCK: Final = 0x546F74616C73
"""PostgreSQL's advisory lock of everyone who writes totals (0010)."""

_MODEL_TRIGGER: Final = "count_changed_model"
_WATCHED: Final = "state, ordered_at, quote_micros, cost_micros, over_micros"
_TAPPED: Final = "approved_nonce IS NOT NULL"
_OPEN: Final = f"state = '{_OFFER}'"


def upgrade() -> None:
    for column in (Column("offered_micros", BigInteger), Column("approved_nonce", String(40))):
        alone(op, partial(add_column, op, "videos", column))
    alone(op, _create_people)
    alone(op, _stop_counting_offers)
    tapped = text(_TAPPED)
    create_index(
        op, "uq_videos_approved_nonce", "videos", ["approved_nonce"], unique=True,
        sqlite_where=tapped, postgresql_where=tapped,
    )  # fmt: skip


def downgrade() -> None:
    drop_index(op, "uq_videos_approved_nonce", "videos")
    alone(op, _count_offers_again)
    alone(op, lambda: op.execute("DROP TABLE IF EXISTS people"))
    for name in ("offered_micros", "approved_nonce"):
        alone(op, partial(drop_column, op, "videos", name))


def _create_people() -> None:
    op.create_table(
        "people",
        Column("user_id", BigInteger, primary_key=True, autoincrement=False),
        Column("language", String(2)),
        Column("ask_below_micros", BigInteger),
        Column("default_seconds", Integer),
        Column("default_size", String(20)),
        Column("sound", Integer),
        Column("style", String(40)),
        Column("updated_at", BigInteger, nullable=False),
        if_not_exists=True,
    )


def _stop_counting_offers() -> None:
    if has_trigger(op, _MODEL_TRIGGER):  # an upgrade was interrupted after this
        return
    _lock()
    _count_without(f"('{_OFFER}', {_UNPAID[1:]}", f"('{_OFFER}', {_QUOTA_FREE[1:]}")
    _change_buckets("-")
    _create_model_trigger()


def _count_offers_again() -> None:
    if not has_trigger(op, _MODEL_TRIGGER):
        return
    _lock()
    _count_without(_UNPAID, _QUOTA_FREE)
    _change_buckets("")
    drop_trigger(op, _MODEL_TRIGGER, "videos")
    # The version before releases a hold at the end of every offer.
    op.execute(
        "INSERT INTO entries (request_id, user_id, kind, cause, micros, at, n)"
        " SELECT request_id, user_id, 'hold', 'order', quote_micros, ordered_at, 1 FROM videos"
        f" WHERE {_OPEN} AND NOT EXISTS (SELECT 1 FROM entries"
        " WHERE entries.request_id = videos.request_id AND entries.kind = 'hold')"
    )


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _lock() -> None:
    if not _on_sqlite():  # there one writes at a time
        op.execute("LOCK TABLE videos IN SHARE ROW EXCLUSIVE MODE")


def _rows(row: str, sign: str, unpaid: str, quota_free: str) -> str:
    """Return one order (`NEW` or `OLD`) as a row of each of its buckets."""
    return ", ".join(
        f"('generate_video', {scope}, {width_s}, {row}.ordered_at / {width_s * 1000}, "
        f"{sign}CASE WHEN {row}.state IN {quota_free} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {unpaid} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {unpaid} THEN 0 ELSE {row}.quote_micros + {row}.over_micros END)"
        for scope in ("'everyone'", f"'user:' || {row}.user_id")
        for width_s in _WIDTHS_S
    )


_INTO: Final = "INSERT INTO usage_buckets (tool, scope, width_s, bucket, takes, starts, micros)"
_ADD: Final = (
    "ON CONFLICT (tool, scope, width_s, bucket) DO UPDATE SET"
    " takes = usage_buckets.takes + excluded.takes, starts = usage_buckets.starts + excluded.starts,"
    " micros = usage_buckets.micros + excluded.micros"
)


def _count_without(unpaid: str, quota_free: str) -> None:
    """Let the sums leave out orders in these states, from the end of this transaction on."""
    add = f"{_INTO} VALUES {_rows('NEW', '', unpaid, quota_free)} {_ADD};"
    take_back = f"{_INTO} VALUES {_rows('OLD', '-', unpaid, quota_free)} {_ADD};"
    changed = " OR ".join(
        [f"(NEW.state IN {states}) <> (OLD.state IN {states})" for states in (unpaid, quota_free)]
        + [f"NEW.{name} <> OLD.{name}" for name in ("ordered_at", "quote_micros", "over_micros")]
    )
    new = (
        f"CREATE TRIGGER usage_of_new_videos AFTER INSERT ON videos {{each}} WHEN (NEW.state NOT IN {unpaid})"
    )
    moved = (
        f"CREATE TRIGGER usage_of_changed_videos AFTER UPDATE OF {_WATCHED} ON videos {{each}}"
        f" WHEN ({changed})"
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


def _change_buckets(sign: str) -> None:
    """Take the open offers from the sums, or add them."""
    # One bucket after the other, everyone before the users: the order in which the triggers lock them.
    for scope in ("'everyone'", "'user:' || user_id"):
        for width_s in _WIDTHS_S:
            op.execute(
                f"{_INTO} SELECT 'generate_video', {scope}, {width_s}, ordered_at / {width_s * 1000},"
                f" {sign}count(*), {sign}count(*), {sign}CAST(sum(quote_micros + over_micros) AS BIGINT)"
                f" FROM videos WHERE {_OPEN} GROUP BY 2, 4 {_ADD}"
            )


_FIGURES: Final = (
    "charged", "credited", "reserved", "released", "held", "videos", "paid_for", "commands", "duplicates",
)  # fmt: skip


def _model_counts(row: str, sign: str) -> str:
    """Return the statement of 0010 that counts a command, and its repeated calls, for a model."""
    return (
        f"INSERT INTO cost_changes (tool, hour, user_id, model, {', '.join(_FIGURES)})"
        f" SELECT 'generate_video', c.hour, NULL, {row}.provider || '/' || {row}.model, 0, 0, 0, 0, 0, 0, 0,"
        f" {sign}sum(c.commands), {sign}sum(c.duplicates) FROM ("
        "SELECT r.created_at / 3600000 AS hour, 1 AS commands, 0 AS duplicates FROM requests r"
        " WHERE r.request_id = NEW.request_id UNION ALL SELECT t.at / 3600000, 0, 1 FROM transitions t"
        " WHERE t.request_id = NEW.request_id AND t.subject = 'call' AND t.to_state = 'replay'"
        ") c GROUP BY c.hour;"
    )


def _create_model_trigger() -> None:
    event = "AFTER UPDATE OF provider, model ON videos"
    when = "WHEN (NEW.provider <> OLD.provider OR NEW.model <> OLD.model)"
    body = f"{_model_counts('OLD', '-')} {_model_counts('NEW', '')}"
    if _on_sqlite():
        op.execute(f"CREATE TRIGGER {_MODEL_TRIGGER} {event} FOR EACH ROW {when} BEGIN {body} END")
        return
    op.execute(
        f"CREATE OR REPLACE FUNCTION {_MODEL_TRIGGER}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" PERFORM pg_advisory_xact_lock({_LOCK}); {body} RETURN NEW; END $$"
    )
    op.execute(
        f"CREATE CONSTRAINT TRIGGER {_MODEL_TRIGGER} {event} DEFERRABLE INITIALLY DEFERRED FOR EACH ROW"
        f" {when} EXECUTE FUNCTION {_MODEL_TRIGGER}()"
    )
