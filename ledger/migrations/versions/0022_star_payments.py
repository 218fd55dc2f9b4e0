"""Credits: videos above the quota, bought with Telegram Stars or granted by an admin.

`credit_lots` holds them. `videos.credit` says whether a video holds one, and `videos.credit_lot` of which
lot. Triggers keep `credit_lots.used`, and give a credit back where its video ends in a state that frees the
quota, so the version before, which may run next to this one and ends such videos too, does so as well.

The triggers of 0009, 0011 and 0016 count every order in a counted state toward the quota. From here on they
leave out those that hold a credit. No order of before holds one, so no sum changes.

The states are written out: a migration does not change when the code's sets do.
"""

from functools import partial
from typing import Final

from alembic import op
from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    PrimaryKeyConstraint,
    String,
    Text,
    text,
)

from ledger.migrations.steps import add_column, alone, drop_column, drop_trigger, has_trigger

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

_UNCOUNTED: Final = "('AWAITING_APPROVAL', 'FAILED_UNPAID', 'CANCELLED', 'EXPIRED')"
_QUOTA_FREE: Final = "('AWAITING_APPROVAL', 'FAILED_UNPAID', 'CANCELLED', 'EXPIRED', 'FAILED_PAID')"
_WIDTHS_S: Final = (1, 60, 900)
_MARK: Final = "credit_of_new_videos"
_TRIGGERS: Final = ("credit_of_ended_videos", "credit_of_changed_videos", _MARK)
_TABLES: Final = ("star_checks", "credit_notices", "star_payments", "credit_lots")


def upgrade() -> None:
    for column in (
        Column("credit", String(10), server_default="", nullable=False),
        Column("credit_lot", String(240)),
    ):
        alone(op, partial(add_column, op, "videos", column))
    alone(op, _create_lots)
    alone(op, _create_payments)
    alone(op, _create_notices)
    alone(op, _begin_counting)


def downgrade() -> None:
    alone(op, _stop_counting)
    for name in _TABLES:
        alone(op, partial(op.execute, f"DROP TABLE IF EXISTS {name}"))
    for name in ("credit", "credit_lot"):
        alone(op, partial(drop_column, op, "videos", name))


def _create_lots() -> None:
    op.create_table(
        "credit_lots",
        Column("lot_id", String(240), nullable=False),
        Column("user_id", BigInteger, nullable=False),
        Column("kind", String(10), nullable=False),
        Column("credits", Integer, nullable=False),
        Column("used", Integer, server_default="0", nullable=False),
        Column("refunded", Integer, server_default="0", nullable=False),
        Column("revoked", Integer, server_default="0", nullable=False),
        Column("who", String(80), nullable=False),
        Column("why", Text, server_default="", nullable=False),
        Column("at", BigInteger, nullable=False),
        PrimaryKeyConstraint("lot_id", name="pk_credit_lots"),
        CheckConstraint(
            "used >= 0 AND refunded >= 0 AND used + refunded <= credits", name="ck_credit_lots_left"
        ),
        if_not_exists=True,
    )
    op.create_index(
        "ix_credit_lots_user_id_kind_at", "credit_lots", ["user_id", "kind", "at"], if_not_exists=True
    )


def _create_payments() -> None:
    op.create_table(
        "star_payments",
        Column("charge_id", String(200), nullable=False),
        Column("bot_id", BigInteger, nullable=False),
        Column("user_id", BigInteger, nullable=False),
        Column("pack", String(40), nullable=False),
        Column("invoice", String(128), nullable=False),
        Column("stars", Integer, nullable=False),
        Column("credits", Integer, nullable=False),
        Column("paid_at", BigInteger, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("found_by", String(10), nullable=False),
        Column("refund", String(10), server_default="", nullable=False),
        Column("refund_who", String(80)),
        Column("refund_at", BigInteger),
        Column("refund_due_at", BigInteger),
        Column("refund_asks", Integer, server_default="0", nullable=False),
        Column("refunded_at", BigInteger),
        PrimaryKeyConstraint("charge_id", name="pk_star_payments"),
        if_not_exists=True,
    )
    for name in ("user_id", "bot_id"):
        op.create_index(
            f"ix_star_payments_{name}_paid_at", "star_payments", [name, "paid_at"], if_not_exists=True
        )
    due = text("refund_due_at IS NOT NULL")
    op.create_index(
        "ix_star_payments_refunds", "star_payments", ["bot_id", "refund_due_at"],
        sqlite_where=due, postgresql_where=due, if_not_exists=True,
    )  # fmt: skip


def _create_notices() -> None:
    op.create_table(
        "credit_notices",
        Column("notice_id", String(240), nullable=False),
        Column("bot_id", BigInteger, nullable=False),
        Column("user_id", BigInteger, nullable=False),
        Column("language", String(2), nullable=False),
        Column("kind", String(20), nullable=False),
        Column("credits", Integer, nullable=False),
        Column("stars", Integer, nullable=False),
        Column("why", Text, server_default="", nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("free_at", BigInteger, server_default="0", nullable=False),
        Column("told_at", BigInteger, server_default="0", nullable=False),
        Column("reached", Integer, server_default="0", nullable=False),
        PrimaryKeyConstraint("notice_id", name="pk_credit_notices"),
        if_not_exists=True,
    )
    untold = text("told_at = 0")
    op.create_index(
        "ix_credit_notices_untold", "credit_notices", ["bot_id", "free_at"],
        sqlite_where=untold, postgresql_where=untold, if_not_exists=True,
    )  # fmt: skip
    op.create_table(
        "star_checks",
        Column("bot_id", BigInteger, autoincrement=False, nullable=False),
        Column("day", Integer, autoincrement=False, nullable=False),
        Column("free_at", BigInteger, server_default="0", nullable=False),
        Column("done_at", BigInteger, server_default="0", nullable=False),
        Column("listed", BigInteger, server_default="0", nullable=False),
        Column("stored", BigInteger, server_default="0", nullable=False),
        Column("findings", Text, server_default="", nullable=False),
        PrimaryKeyConstraint("bot_id", "day", name="pk_star_checks"),
        if_not_exists=True,
    )


def _begin_counting() -> None:
    if has_trigger(op, _MARK):  # an upgrade was interrupted after this
        return
    _lock()
    _count(held="{row}.credit = 'held'", watched="credit")
    _create_triggers()


def _stop_counting() -> None:
    """Count as migration 0016 did. Orders that hold a credit count toward the quota from here on."""
    if not has_trigger(op, _MARK):
        return
    _lock()
    for name in _TRIGGERS:
        drop_trigger(op, name, "videos")
    # By the triggers that are still there, so that the sums follow.
    op.execute("UPDATE videos SET credit = '' WHERE credit <> ''")
    _count()


def _on_sqlite() -> bool:
    return op.get_bind().dialect.name == "sqlite"


def _lock() -> None:
    if not _on_sqlite():  # there one writes at a time
        op.execute("LOCK TABLE videos IN SHARE ROW EXCLUSIVE MODE")


def _rows(row: str, sign: str, held: str) -> str:
    """Return one order (`NEW` or `OLD`) as a row of each of its buckets."""
    free = f"{row}.state IN {_QUOTA_FREE}" + (f" OR {held.format(row=row)}" if held else "")
    return ", ".join(
        f"('generate_video', {scope}, {width_s}, {row}.ordered_at / {width_s * 1000}, "
        f"{sign}CASE WHEN {free} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNCOUNTED} THEN 0 ELSE 1 END, "
        f"{sign}CASE WHEN {row}.state IN {_UNCOUNTED} THEN 0 ELSE {row}.quote_micros + {row}.over_micros END)"
        for scope in ("'everyone'", f"'user:' || {row}.user_id")
        for width_s in _WIDTHS_S
    )


_INTO: Final = "INSERT INTO usage_buckets (tool, scope, width_s, bucket, takes, starts, micros)"
_ADD: Final = (
    "ON CONFLICT (tool, scope, width_s, bucket) DO UPDATE SET"
    " takes = usage_buckets.takes + excluded.takes, starts = usage_buckets.starts + excluded.starts,"
    " micros = usage_buckets.micros + excluded.micros"
)


def _count(held: str = "", watched: str = "") -> None:
    """Let the sums leave out of the quota what `held` says, from the end of this transaction on."""
    add = f"{_INTO} VALUES {_rows('NEW', '', held)} {_ADD};"
    take_back = f"{_INTO} VALUES {_rows('OLD', '-', held)} {_ADD};"
    numbers = ("ordered_at", "quote_micros", "over_micros", *([watched] if watched else []))
    changed = " OR ".join(
        [f"(NEW.state IN {states}) <> (OLD.state IN {states})" for states in (_UNCOUNTED, _QUOTA_FREE)]
        + [f"NEW.{name} <> OLD.{name}" for name in numbers]
    )
    columns = ", ".join(("state", "cost_micros", *numbers))
    new = (
        "CREATE TRIGGER usage_of_new_videos AFTER INSERT ON videos {each}"
        f" WHEN (NEW.state NOT IN {_UNCOUNTED})"
    )
    moved = (
        f"CREATE TRIGGER usage_of_changed_videos AFTER UPDATE OF {columns} ON videos {{each}}"
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


_TAKE: Final = "UPDATE credit_lots SET used = used + 1 WHERE lot_id = NEW.credit_lot"
_GIVE_BACK: Final = (
    "UPDATE credit_lots SET used = used - 1, refunded = refunded + revoked WHERE lot_id = OLD.credit_lot"
)
_ENDED: Final = f"NEW.credit = 'held' AND NEW.state IN {_QUOTA_FREE}"
_TAKEN: Final = "NEW.credit = 'held'"
_CHANGED: Final = "(NEW.credit = 'held') <> (OLD.credit = 'held')"


def _create_triggers() -> None:
    if _on_sqlite():
        op.execute(
            f"CREATE TRIGGER credit_of_ended_videos AFTER UPDATE OF state ON videos WHEN {_ENDED}"
            " BEGIN UPDATE videos SET credit = 'back' WHERE request_id = NEW.request_id; END"
        )
        op.execute(
            f"CREATE TRIGGER credit_of_changed_videos AFTER UPDATE OF credit ON videos WHEN {_CHANGED}"
            f" BEGIN {_TAKE} AND {_TAKEN}; {_GIVE_BACK} AND OLD.credit = 'held'; END"
        )
        op.execute(f"CREATE TRIGGER {_MARK} AFTER INSERT ON videos WHEN {_TAKEN} BEGIN {_TAKE}; END")
        return
    _create_function("credit_of_ended_videos", "NEW.credit := 'back'; RETURN NEW;")
    op.execute(
        f"CREATE TRIGGER credit_of_ended_videos BEFORE UPDATE OF state ON videos FOR EACH ROW WHEN ({_ENDED})"
        " EXECUTE FUNCTION credit_of_ended_videos()"
    )
    # Not of a column: what the trigger above changes was not named by the statement.
    _create_function(
        "credit_of_changed_videos",
        f"IF {_TAKEN} THEN {_TAKE}; ELSE {_GIVE_BACK}; END IF; RETURN NULL;",
    )
    op.execute(
        f"CREATE TRIGGER credit_of_changed_videos AFTER UPDATE ON videos FOR EACH ROW WHEN ({_CHANGED})"
        " EXECUTE FUNCTION credit_of_changed_videos()"
    )
    _create_function(_MARK, f"{_TAKE}; RETURN NULL;")
    op.execute(
        f"CREATE TRIGGER {_MARK} AFTER INSERT ON videos FOR EACH ROW WHEN ({_TAKEN})"
        f" EXECUTE FUNCTION {_MARK}()"
    )


def _create_function(name: str, body: str) -> None:
    op.execute(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
    )
