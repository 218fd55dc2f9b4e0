"""The tables. Times are whole milliseconds since the epoch, amounts whole micro-dollars."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    text,
)

MAX_JOB_ID: Final = 512
"""Characters of a job id, as `providers.base.MAX_JOB_ID` says for adapters."""

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial(name: str, *columns: str | TextClause, where: str, unique: bool = False) -> Index:
    """Return an index of the rows that `where` names, the same on both databases."""
    return Index(name, *columns, unique=unique, sqlite_where=text(where), postgresql_where=text(where))


# Conditions of partial indexes. A question uses such an index only if it says the same words: a bound value
# proves nothing to a planner.
ACTIVE_ORDERS: Final = (
    "state IN ('AWAITING_APPROVAL', 'QUEUED', 'SUBMITTING', 'ACCEPTED', 'IN_DOUBT', 'HOLD', 'SUCCEEDED')"
)
CANCELLABLE_ORDERS: Final = "state IN ('AWAITING_APPROVAL', 'QUEUED')"
DELIVERED_ORDERS: Final = "state = 'DELIVERED'"
APPROVED_OFFERS: Final = "approved_nonce IS NOT NULL"
UNKNOWN_JOBS: Final = "submits > 0 AND job_id IS NULL"
OTHER_TOOLS: Final = "tool <> 'generate_video'"
PROMPT_START: Final = "substr(prompt, 1, 100)"
BLOCKED_BY_DISK: Final = "failure = 'disk'"
ERASURE_ASKED: Final = "erasure = 'asked'"
UNTOLD: Final = "told_at = 0"
MISSED: Final = "reached = 0"
REFUNDS_DUE: Final = "refund_due_at IS NOT NULL"
CONTENT_REFUSED: Final = "subject = 'call' AND from_state = 'content' AND to_state = 'content'"
"""Of `transitions`: the content policy refused a call, and with it the request."""

REPLAYS: Final = "subject = 'call' AND to_state = 'replay'"

requests: Final = Table(
    "requests",
    metadata,
    Column("request_id", String(200), primary_key=True),
    Column("bot_id", BigInteger, nullable=False),
    Column("chat_id", BigInteger, nullable=False),
    Column("message_id", BigInteger, nullable=False),
    # The topic of a forum in which the command was sent; every message of ours goes there.
    Column("message_thread_id", BigInteger),
    Column("user_id", BigInteger, nullable=False),
    Column("language", String(2), nullable=False),
    Column("idea", Text, nullable=False),
    Column("state", String(20), nullable=False),
    # The agent run: attempts so far; until when the current one may run, or when the next may begin.
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("run_until", BigInteger, nullable=False, server_default="0"),
    # Why there is no order: the verdict's word, when it will work again, the model's words.
    Column("reason", String(40)),
    # Neither read nor written: the version before writes it, and may run next to this one during an upgrade.
    # The migration that drops `entries.cause` drops it too.
    Column("reason_layer", String(20)),
    Column("reason_until", BigInteger),
    Column("reason_quote", Text),
    Column("caption", Text),
    # What the user was notified of: the message that is edited, the state that it shows, and until when
    # another notifier has the lease or the notification is postponed.
    Column("status_message_id", BigInteger),
    Column("told", String(60), nullable=False, server_default=""),
    Column("told_after", BigInteger, nullable=False, server_default="0"),
    # When the user has something new to read; NULL: nothing. Triggers set it with each change of a state, of
    # the attempts or of the progress (migration 0008). How often in a row that failed; no edit for progress
    # alone before `edit_after`; a digest of the text that the message shows.
    Column("notify_at", BigInteger),
    Column("notify_failures", Integer, nullable=False, server_default="0"),
    Column("edit_after", BigInteger, nullable=False, server_default="0"),
    Column("shown", String(16), nullable=False, server_default=""),
    # The trace that began with the user's command, and the outcome that was last written into it.
    Column("traceparent", String(60)),
    Column("reported", String(20), nullable=False, server_default=""),
    # Since when an outcome waits to be written there; NULL: none does. Triggers set it with each end of a
    # request or a video, and clear it with `reported` (migration 0010).
    Column("report_at", BigInteger),
    # The six letters by which people name it. NULL: written by the version before; `ledger.totals` fills it.
    Column("short_id", String(6)),
    # The request whose video it is another take of, or says in other words.
    Column("parent_id", String(200)),
    # Of an order beside another one: its paid tool (`ledger.models.order_id`). A command is of the usual one.
    Column("tool", String(60), nullable=False, server_default="generate_video"),
    # Its user wants its texts and files gone: `asked`, then `done` (`ledger.erasure`).
    Column("erasure", String(8)),
    # SHA-256 of the picture that the video begins with, whose file `worker.pictures` has; NULL: words alone.
    Column("picture", String(64)),
    # When an operator last corrected what its user had read of its cost, and the last such time that they
    # were told of (`ledger.corrections`).
    Column("corrected_at", BigInteger),
    Column("correction_told", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Index(None, "user_id", "created_at"),
    Index(None, "created_at"),
    Index(None, "state"),
    _partial("ix_requests_notify", "bot_id", "notify_at", where="notify_at IS NOT NULL"),
    _partial("ix_requests_notify_user", "user_id", where="notify_at IS NOT NULL"),
    _partial("ix_requests_run", "run_until", where="state = 'OPEN'"),
    _partial("ix_requests_open", "user_id", where="state = 'OPEN'"),
    Index("ix_requests_short_id", "short_id"),
    _partial("ix_requests_unnamed", "created_at", where="short_id IS NULL"),
    _partial("ix_requests_parent", "parent_id", where="parent_id IS NOT NULL"),
    _partial("ix_requests_erasure", "updated_at", where=ERASURE_ASKED),
    _partial("ix_requests_report", "report_at", where="report_at IS NOT NULL"),
)

videos: Final = Table(
    "videos",
    metadata,
    # The key that makes "one request, one order of each tool" true: a second order is the same row. It is
    # `ledger.models.order_id` of the user's request and the tool.
    Column("request_id", String(200), ForeignKey("requests.request_id"), primary_key=True),
    # The paid tool that ordered it: what limits and totals count it for, and what is made.
    Column("tool", String(60), nullable=False, server_default="generate_video"),
    Column("user_id", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),
    Column("provider", String(40), nullable=False),
    # The provider account that quoted it, the only one that is asked about it (`providers.accounts`). NULL:
    # written by the version before; `ledger.accounts` fills it.
    Column("account", String(200)),
    Column("model", String(100), nullable=False),
    Column("prompt", Text, nullable=False),
    Column("seconds", Integer, nullable=False),
    Column("size", String(20), nullable=False),
    # The request's picture and its format, as a provider gets it; when its person said that they may use it.
    Column("picture", String(64)),
    Column("picture_format", String(10)),
    Column("picture_allowed_at", BigInteger),
    Column("quote_micros", BigInteger, nullable=False),
    # AWAITING_APPROVAL: the nonce in its button, which moves to the second column when its user taps. And
    # the price that was shown before this one, where an open offer had to change.
    Column("nonce", String(40)),
    Column("approved_nonce", String(40)),
    Column("offered_micros", BigInteger),
    # What its user may choose on the offer (`ledger.options`): the word of a style, and the sentence for it
    # that ends the prompt; 0: without sound; what must not be seen, for providers that take that. Which of
    # them its user has tapped, words with spaces between; 1: the buttons are shown.
    Column("style", String(40)),
    Column("style_prompt", String(200)),
    Column("sound", Integer),
    Column("avoid", Text),
    Column("chosen", String(60)),
    Column("options_open", Integer, nullable=False, server_default="0"),
    Column("expires_at", BigInteger, nullable=False),
    # SUBMITTING: the fencing token of the one worker that may send, until when; how many sends began.
    Column("fence", String(40)),
    Column("deadline_at", BigInteger, nullable=False, server_default="0"),
    Column("submits", Integer, nullable=False, server_default="0"),
    Column("retry_at", BigInteger, nullable=False, server_default="0"),
    # Unknown outcome: when the provider may be asked next, and when its list first did not show the job.
    Column("look_at", BigInteger, nullable=False, server_default="0"),
    Column("absent_at", BigInteger),
    # The provider's job, and the addresses that the provider gave for it, if it asks that none are built.
    Column("job_id", String(MAX_JOB_ID)),
    Column("status_url", String(500)),
    Column("result_url", String(500)),
    Column("progress", Integer, nullable=False, server_default="0"),
    # Why, a word of `ledger.failures`; and the provider's own words, for operators.
    Column("failure", String(40)),
    Column("failure_detail", Text),
    Column("asset_path", Text),
    # The finished film's own, as it was probed: not always what was ordered.
    Column("asset_seconds", Integer),
    Column("asset_width", Integer),
    Column("asset_height", Integer),
    Column("file_id", Text),
    Column("ordered_at", BigInteger, nullable=False),
    # When its first send began, and when the latest did: the first counts as a start, the latest as its POST.
    Column("submitted_at", BigInteger),
    Column("sent_at", BigInteger),
    Column("accepted_at", BigInteger),
    Column("updated_at", BigInteger, nullable=False),
    # When the worker acts next on this order, whatever its state means; NULL: never. Written with each change
    # of the state. How often in a row that failed; how often a downloaded file was not a video.
    Column("due_at", BigInteger),
    Column("due_failures", Integer, nullable=False, server_default="0"),
    Column("bad_assets", Integer, nullable=False, server_default="0"),
    # ACCEPTED: since when the provider says that it has no such job or file, or refuses the question, and how
    # often in a row. A store that lags behind its own writes may say so for a while.
    Column("denied_at", BigInteger),
    Column("denials", Integer, nullable=False, server_default="0"),
    # Grows with each change of what limits count: of the state, by a trigger (migration 0009) where the
    # version before makes it, and of `over_micros`.
    Column("version", Integer, nullable=False, server_default="0"),
    # Written by triggers with each entry (migration 0010): what the request cost, less refunds; how many of
    # its jobs are charged and not refunded in full; its first charge, that one's UTC day since the epoch, and
    # its latest charge.
    Column("cost_micros", BigInteger, nullable=False, server_default="0"),
    Column("paid_jobs", Integer, nullable=False, server_default="0"),
    Column("charged_at", BigInteger),
    Column("charged_day", Integer),
    Column("last_charged_at", BigInteger),
    # And (migration 0011) what `cost_micros` is above the quote, which budgets count, and when that
    # last changed.
    Column("over_micros", BigInteger, nullable=False, server_default="0"),
    Column("over_at", BigInteger),
    # Whether it is above its user's quota, paid with a credit (`ledger.models.Credit`), and of which lot the
    # credit is. Triggers (migration 0022) give it back, and keep `credit_lots.used`.
    Column("credit", String(10), nullable=False, server_default=""),
    Column("credit_lot", String(240)),
    UniqueConstraint("nonce"),
    _partial("uq_videos_approved_nonce", "approved_nonce", where=APPROVED_OFFERS, unique=True),
    Index(None, "user_id", "ordered_at"),
    Index(None, "ordered_at"),
    Index(None, "submitted_at"),
    Index(None, "state", "updated_at"),
    _partial("ix_videos_blocked", "updated_at", where=BLOCKED_BY_DISK),
    _partial("ix_videos_due", "state", "due_at", where="due_at IS NOT NULL"),
    Index(None, "updated_at", "request_id"),
    _partial("ix_videos_over", "over_at", "request_id", where="over_at IS NOT NULL"),
    # Two accounts may give out the same job id. An order without an account counts as its provider's.
    Index("uq_videos_account_job", text("coalesce(account, provider)"), "job_id", unique=True),
    # For look-ups of many ids: PostgreSQL does not take an index of an expression, and reads this one alone.
    _partial("ix_videos_job", "job_id", "account", "provider", where="job_id IS NOT NULL"),
    _partial("ix_videos_no_account", "provider", where="account IS NULL"),
    _partial("ix_videos_active", "ordered_at", where=ACTIVE_ORDERS),
    _partial("ix_videos_cancellable", "user_id", where=CANCELLABLE_ORDERS),
    _partial("ix_videos_delivered", "model", "accepted_at", where=DELIVERED_ORDERS),
    Index("ix_videos_charged", "charged_day", "cost_micros", "request_id"),
    _partial("ix_videos_unknown_job", text(PROMPT_START), where=UNKNOWN_JOBS),
    _partial("ix_videos_twice_paid", "last_charged_at", where="paid_jobs > 1"),
    _partial("ix_videos_other_tools", "tool", "ordered_at", "request_id", where=OTHER_TOOLS),
)

# What the limits count, in buckets of `guardrails.limits.RollingWindow`: kept by triggers on `videos`
# (migrations 0009, 0011, 0016, 0022 and 0026), so that every version that writes an order keeps it. Derived
# data: old rows are deleted.
usage_buckets: Final = Table(
    "usage_buckets",
    metadata,
    Column("tool", String(60), primary_key=True),
    # `everyone` or `user:ID`.
    Column("scope", String(40), primary_key=True),
    Column("width_s", Integer, primary_key=True, autoincrement=False),
    # Time of the order in seconds, divided by the width.
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    # Orders that count toward the quota; orders and micro-dollars that count toward cooldown and budgets.
    Column("takes", Integer, nullable=False),
    Column("starts", Integer, nullable=False),
    Column("micros", BigInteger, nullable=False),
    Index(None, "width_s", "bucket"),
)

entries: Final = Table(
    "entries",
    metadata,
    Column("entry_id", Integer, primary_key=True, autoincrement=True),
    Column("request_id", String(200), ForeignKey("videos.request_id"), nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("kind", String(10), nullable=False),
    # The two below as one text ("order", "unknown", JOB, "JOB (2)"). Written and not read: for the version
    # before, which may run next to this one while a fleet is upgraded. A later migration drops it.
    Column("cause", String(MAX_JOB_ID + 28), nullable=False),
    Column("micros", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    # The provider's job. NULL: for a hold and its release, which belong to the order and not to a job; for a
    # charge or a credit where an operator found that it was paid and no job id is known.
    Column("job_id", String(MAX_JOB_ID)),
    # The nth entry of its kind for this job, from 1. The default marks a row of the version before; a trigger
    # (migration 0007) fills in both columns before anyone reads it.
    Column("n", Integer, nullable=False, server_default="0"),
    # The correction that it belongs to, in `operator_actions`; NULL: the worker booked it.
    Column("action_id", Integer),
    UniqueConstraint("request_id", "kind", "cause"),
    # Each entry at most once. Two indexes, because NULL is not equal to NULL in a unique key.
    Index("uq_entries_job", "request_id", "kind", "job_id", "n", unique=True),
    _partial("uq_entries_no_job", "request_id", "kind", "n", where="job_id IS NULL", unique=True),
    Index(None, "at"),
    Index(None, "user_id", "at"),
    _partial("ix_entries_job_id", "job_id", where="kind = 'charge' AND job_id IS NOT NULL"),
)

transitions: Final = Table(
    "transitions",
    metadata,
    Column("transition_id", Integer, primary_key=True, autoincrement=True),
    Column("request_id", String(200), ForeignKey("requests.request_id"), nullable=False),
    Column("subject", String(10), nullable=False),
    Column("from_state", String(20), nullable=False),
    Column("to_state", String(20), nullable=False),
    # The task, in the first edition's words because they are stored: direct is worker/run_agent.py, shoot is
    # submit.py, watch poll.py, sweep steps.py, reconcile and late reconcile.py, studio context.py; tell is
    # chat/delivery.py, chat a handler, tool ledger/orders.py. Or a person, as in user:7 or admin:9001. For a
    # refused call the tool's name.
    Column("who", String(80), nullable=False),
    Column("why", Text, nullable=False),
    Column("at", BigInteger, nullable=False),
    Index(None, "request_id"),
    Index(None, "at"),
    _partial("ix_transitions_replay", "at", "request_id", where=REPLAYS),
)

operator_actions: Final = Table(
    "operator_actions",
    metadata,
    # What operators did, by `ledger.operator_log`. Rows are added only, and are not pruned.
    Column("action_id", Integer, primary_key=True, autoincrement=True),
    # What asked for it, as the form or the message: delivered again, it is the same act.
    Column("source", String(240), nullable=False),
    Column("at", BigInteger, nullable=False),
    # Who, as in operator:eva, admin:9001 or web:Olga; a word of `ledger.operator_log.ActionWord`.
    Column("who", String(80), nullable=False),
    Column("action", String(20), nullable=False),
    Column("request_id", String(200)),
    Column("user_id", BigInteger),
    Column("job_id", String(MAX_JOB_ID)),
    Column("micros", BigInteger),
    # What it changed, in our words; and why, in theirs.
    Column("detail", Text, nullable=False, server_default=""),
    Column("why", Text, nullable=False, server_default=""),
    UniqueConstraint("source"),
    _partial("ix_operator_actions_request", "request_id", where="request_id IS NOT NULL"),
)

breaker: Final = Table(
    "breaker",
    metadata,
    # `everyone` or `user:ID`. Orders lock these rows too, so that two of one user wait for each other.
    Column("scope", String(40), primary_key=True),
    Column("state", String(10), nullable=False),
    Column("why", Text, nullable=False, server_default=""),
    Column("who", String(80), nullable=False, server_default=""),
    Column("at", BigInteger, nullable=False, server_default="0"),
    Index("ix_breaker_state", "state", "at"),
)

people: Final = Table(
    "people",
    metadata,
    # What a person has set; NULL: nothing, so the usual applies. See `ledger.people`.
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("language", String(2)),
    # No tap is asked for below this price.
    Column("ask_below_micros", BigInteger),
    Column("default_seconds", Integer),
    Column("default_size", String(20)),
    Column("sound", Integer),
    Column("style", String(40)),
    Column("updated_at", BigInteger, nullable=False),
)

accounts: Final = Table(
    "accounts",
    metadata,
    # Provider accounts that workers of a bot know, and when one said so last.
    Column("bot_id", BigInteger, primary_key=True, autoincrement=False),
    Column("account", String(200), primary_key=True),
    Column("provider", String(40), nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    # 1: the first account of this bot and provider, to which orders without an account belong.
    Column("adopts", Integer, nullable=False, server_default="0"),
    Index(None, "account", "seen_at"),
    _partial("uq_accounts_adopts", "bot_id", "provider", where="adopts = 1", unique=True),
)

members: Final = Table(
    "members",
    metadata,
    # Who may use the bot although no setting names them, and who may not. See `ledger.members`.
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    # When they opened an invitation, and the digest of its token.
    Column("joined_at", BigInteger),
    Column("joined_by", String(64)),
    # NULL: not banned.
    Column("banned_at", BigInteger),
    Column("banned_by", String(80)),
    Column("ban_reason", Text),
    _partial("ix_members_banned", "banned_at", where="banned_at IS NOT NULL"),
)

invites: Final = Table(
    "invites",
    metadata,
    # Of the token, which is in the link alone.
    Column("digest", String(64), primary_key=True),
    Column("made_by", String(80), nullable=False),
    Column("made_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    # How many people may join by it, and how many have.
    Column("uses", Integer, nullable=False),
    Column("used", Integer, nullable=False, server_default="0"),
)

user_reports: Final = Table(
    "user_reports",
    metadata,
    Column("report_id", Integer, primary_key=True, autoincrement=True),
    # The message that reported: delivered again, it is the same report.
    Column("source", String(200), nullable=False),
    Column("bot_id", BigInteger, nullable=False),
    # NULL: what was named is not known here. Its reporter does not learn that.
    Column("request_id", String(200)),
    Column("reporter_id", BigInteger, nullable=False),
    Column("words", Text, nullable=False),
    # open: admins are alerted. joined: an earlier one of the same request is open. unknown: no such request.
    # dismissed, banned: what an admin decided.
    Column("state", String(20), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("decided_by", String(80)),
    Column("decided_at", BigInteger),
    UniqueConstraint("source"),
    Index(None, "reporter_id", "at"),
    _partial("ix_user_reports_open", "request_id", where="state = 'open'"),
)

news: Final = Table(
    "news",
    metadata,
    # Operator alerts. A request, a breaker's scope or a threshold of the day's cost; and the time of the
    # change that the alert is about. One row is no alert: `health`, which readiness checks write.
    Column("subject", String(240), primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    # The recipient: an admin's user id, or 0 for the log.
    Column("reader", BigInteger, primary_key=True, autoincrement=False),
    # Until when a process has the lease to send it, or it is postponed.
    Column("free_at", BigInteger, nullable=False, server_default="0"),
    Column("told_at", BigInteger, nullable=False, server_default="0"),
    # 1: it was received; 0: it was not sent yet, or the recipient could not be reached so far. The versions
    # before set `told_at` then too, and did not try again.
    Column("reached", Integer, nullable=False, server_default="0"),
    _partial("ix_news_missed", "reader", where=MISSED),
)

operator_alerts: Final = Table(
    "operator_alerts",
    metadata,
    # What an alert says, for who hears of it late, and who has taken it on; see `ledger.operator_alerts`.
    Column("alert_id", Integer, primary_key=True, autoincrement=True),
    # As in `news`.
    Column("subject", String(240), nullable=False),
    Column("at", BigInteger, nullable=False),
    # It lasts while this request's order is as it was then.
    Column("request_id", String(200)),
    # HTML, without any word of a user; buttons as JSON.
    Column("text", Text, nullable=False),
    Column("buttons", Text, nullable=False, server_default=""),
    # 1: its cause lasts until someone acts; 0: it has happened.
    Column("standing", Integer, nullable=False, server_default="0"),
    Column("created_at", BigInteger, nullable=False),
    # When its cause was last found.
    Column("seen_at", BigInteger, nullable=False),
    Column("ack_who", String(80)),
    Column("ack_at", BigInteger),
    UniqueConstraint("subject", "at"),
    Index(None, "created_at"),
)

heartbeats: Final = Table(
    "heartbeats",
    metadata,
    # When each process last did its work; see `ledger.heartbeats`.
    Column("process_id", String(120), primary_key=True),
    # worker: it asks for work. bot: it hears Telegram. One process may be both, with a row for each.
    Column("role", String(10), nullable=False),
    Column("bot_id", BigInteger, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
)

model_usage: Final = Table(
    "model_usage",
    metadata,
    # What one model used in one attempt at a run; see `ledger.model_usage`. Input includes what was cached.
    Column("request_id", String(200), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("model", String(100), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("calls", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    # NULL without a price for this model.
    Column("micros", BigInteger),
    Index(None, "at"),
    Index(None, "user_id", "at"),
)

cost_totals: Final = Table(
    "cost_totals",
    metadata,
    # Sums of the ledger, written by triggers with what they count (migration 0010); see `ledger.totals`.
    Column("tool", String(64), primary_key=True),
    # hour, day, 30d or ever; when it begins (0 for 30d and ever, which have one row for each key).
    Column("period", String(4), primary_key=True),
    Column("start", BigInteger, primary_key=True, autoincrement=False),
    # all, user or model; the user's id, PROVIDER/MODEL, or nothing.
    Column("dimension", String(5), primary_key=True),
    Column("key", String(200), primary_key=True),
    # Entries by kind: charge, credit, hold, release. Of the holds, what is still open.
    Column("charged", BigInteger, nullable=False, server_default="0"),
    Column("credited", BigInteger, nullable=False, server_default="0"),
    Column("reserved", BigInteger, nullable=False, server_default="0"),
    Column("released", BigInteger, nullable=False, server_default="0"),
    Column("held", BigInteger, nullable=False, server_default="0"),
    # Jobs that are charged and not refunded in full, at their first charge; commands with such a job, at the
    # command's first charge; commands; repeated calls of a paid tool.
    Column("videos", BigInteger, nullable=False, server_default="0"),
    Column("paid_for", BigInteger, nullable=False, server_default="0"),
    Column("commands", BigInteger, nullable=False, server_default="0"),
    Column("duplicates", BigInteger, nullable=False, server_default="0"),
    # charged - credited, for the order of tables.
    Column("net", BigInteger, nullable=False, server_default="0"),
    # Of a day's user or model: 1 while the day counts into the 30d row of its key. Of a 30d row: how many do.
    Column("days", Integer, nullable=False, server_default="0"),
    Index("ix_cost_totals_net", "tool", "period", "start", "dimension", "net", "key"),
    _partial("ix_cost_totals_counted", "start", where="period = 'day' AND days = 1"),
)

credit_lots: Final = Table(
    "credit_lots",
    metadata,
    # Credits that a person got at once: `stars:CHARGE` for a payment, `grant:REQUEST` for a gift by an admin.
    # What is left of a lot is credits - used - refunded.
    Column("lot_id", String(240), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    # `grant` sorts before `stars`: credits that cannot be refunded are used first.
    Column("kind", String(10), nullable=False),
    Column("credits", Integer, nullable=False),
    # Videos that hold one of them: written by triggers on `videos` alone (migration 0022).
    Column("used", Integer, nullable=False, server_default="0"),
    Column("refunded", Integer, nullable=False, server_default="0"),
    # 1: the payment was refunded, so a credit that comes back is refunded too.
    Column("revoked", Integer, nullable=False, server_default="0"),
    # Who gave them, as in user:7 or admin:9001, and a reason.
    Column("who", String(80), nullable=False),
    Column("why", Text, nullable=False, server_default=""),
    Column("at", BigInteger, nullable=False),
    CheckConstraint("used >= 0 AND refunded >= 0 AND used + refunded <= credits", "ck_credit_lots_left"),
    Index(None, "user_id", "kind", "at"),
)

star_payments: Final = Table(
    "star_payments",
    metadata,
    # Telegram's `telegram_payment_charge_id`: an invoice that is paid twice has two.
    Column("charge_id", String(200), primary_key=True),
    Column("bot_id", BigInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    # As it was in the invoice's payload; empty and 0 where that cannot be read.
    Column("pack", String(40), nullable=False),
    Column("invoice", String(128), nullable=False),
    Column("stars", Integer, nullable=False),
    Column("credits", Integer, nullable=False),
    # When Telegram says that it was paid; when the row was written, and by what: `update` or `check`.
    Column("paid_at", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("found_by", String(10), nullable=False),
    # A word of `ledger.star_payments.RefundState`; who asked for it and when; when Telegram is asked about
    # it next, where its answer was unclear, and how often it was; when it ended.
    Column("refund", String(10), nullable=False, server_default=""),
    Column("refund_who", String(80)),
    Column("refund_at", BigInteger),
    Column("refund_due_at", BigInteger),
    Column("refund_asks", Integer, nullable=False, server_default="0"),
    Column("refunded_at", BigInteger),
    Index(None, "user_id", "paid_at"),
    Index(None, "bot_id", "paid_at"),
    _partial("ix_star_payments_refunds", "bot_id", "refund_due_at", where=REFUNDS_DUE),
)

credit_notices: Final = Table(
    "credit_notices",
    metadata,
    # What a person has to be told of their credits, once: `paid:CHARGE`, `granted:REQUEST`, and so on.
    Column("notice_id", String(240), primary_key=True),
    Column("bot_id", BigInteger, nullable=False),
    Column("user_id", BigInteger, nullable=False),
    Column("language", String(2), nullable=False),
    # A word of `ledger.video_credits.NoticeKind`, with its figures.
    Column("kind", String(20), nullable=False),
    Column("credits", Integer, nullable=False),
    Column("stars", Integer, nullable=False),
    Column("why", Text, nullable=False, server_default=""),
    Column("at", BigInteger, nullable=False),
    # Until when a process has the lease to send it, or it is postponed; when it was sent, or given up.
    Column("free_at", BigInteger, nullable=False, server_default="0"),
    Column("told_at", BigInteger, nullable=False, server_default="0"),
    Column("reached", Integer, nullable=False, server_default="0"),
    _partial("ix_credit_notices_untold", "bot_id", "free_at", where=UNTOLD),
)

star_checks: Final = Table(
    "star_checks",
    metadata,
    # The daily comparison with Telegram's own list of Stars; `day` is UTC days since the epoch.
    Column("bot_id", BigInteger, primary_key=True, autoincrement=False),
    Column("day", Integer, primary_key=True, autoincrement=False),
    # Until when a process has the lease to make it; when it was made; what differs, in words: empty if all
    # agrees.
    Column("free_at", BigInteger, nullable=False, server_default="0"),
    Column("done_at", BigInteger, nullable=False, server_default="0"),
    Column("listed", BigInteger, nullable=False, server_default="0"),
    Column("stored", BigInteger, nullable=False, server_default="0"),
    Column("findings", Text, nullable=False, server_default=""),
)
