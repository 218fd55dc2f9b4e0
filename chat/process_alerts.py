"""Alerts about processes that are silent: no worker runs, no bot hears Telegram.

Both stand in the ledger (`ledger.heartbeats`), so that a bot can say that no worker runs and a worker that no
bot hears. What a process knows of itself, as that another one polls, it adds.
"""

from collections.abc import Mapping
from html import escape

from chat.alert_sending import Alert
from chat.context import ChatContext
from chat.hearing import WHY
from ledger import due_work, heartbeats
from ledger.heartbeats import Alive, Role
from ledger.notifications import Notification


async def check_processes(ctx: ChatContext) -> list[Alert]:
    """Return the alerts about processes of this bot that are silent now."""
    if ctx.up_s < ctx.waits.silent_s:  # the others may be starting too
        return []
    found = await heartbeats.alive(ctx.ledger, ctx.bot.id)
    return [*await _no_worker(ctx, found), *_no_bot(ctx, found)]


def _is_silent(ctx: ChatContext, one: Alive) -> bool:
    return not one.count and (not one.last_seen_at or one.silent_s >= ctx.waits.silent_s)


async def _no_worker(ctx: ChatContext, found: Mapping[Role, Alive]) -> list[Alert]:
    workers = found["worker"]
    if not _is_silent(ctx, workers):
        return []
    waits_s = max((await due_work.overdue(ctx.ledger, ctx.bot.id)).values(), default=0.0)
    waiting = f" The oldest work has waited for {waits_s / 60:.0f} min." if waits_s >= 60 else ""
    text = (
        f"<b>No worker is running</b>: {_last_seen(workers)}. No video is made and nothing is charged;"
        f" people read that their request waits.{waiting}"
        "\nStart workers (<code>python -m bot worker</code>, or the service <code>worker</code>), and read"
        " the log of those that ended."
    )
    fields = {"last_seen_at": workers.last_seen_at, "waits_s": round(waits_s)}
    item = Notification("no-worker", workers.last_seen_at)
    return [Alert(item, "no worker is running", text, fields, standing=True)]


def _no_bot(ctx: ChatContext, found: Mapping[Role, Alive]) -> list[Alert]:
    bots, fault = found["bot"], ctx.hearing.fault
    if not _is_silent(ctx, bots):
        return []
    why = f": {WHY.get(fault, fault)}" if ctx.hearing.receives and fault else ""
    text = (
        f"<b>The bot hears nothing</b>{escape(why)}. The last process that heard it: {_last_seen(bots)}."
        "\nRun one poller alone or use WEBHOOK_URL; check the token and the log of <code>run</code>. What"
        " people sent meanwhile is kept by Telegram for a day."
    )
    fields = {"last_seen_at": bots.last_seen_at, "why": fault}
    return [
        Alert(Notification("no-bot", bots.last_seen_at), "the bot hears nothing", text, fields, standing=True)
    ]


def _last_seen(one: Alive) -> str:
    return f"seen {one.silent_s:.0f} s ago" if one.last_seen_at else "none was ever seen"
