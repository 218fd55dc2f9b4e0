"""What is open, as a text for an admin."""

from typing import Final

from chat.alert_sending import utc
from chat.context import ChatContext
from chat.i18n import Translator
from ledger import operator_alerts, user_reports
from ledger.operator_alerts import KeptAlert
from tools.text import trimmed

_MOST: Final = 10
"""Alerts in one message."""

_LINE: Final = 160


async def open_text(ctx: ChatContext, t: Translator) -> str:
    """Return the HTML of what is open; empty if nothing is."""
    found, count = await operator_alerts.open_alerts(ctx.ledger, _MOST)
    reports = await user_reports.count_open(ctx.ledger, ctx.bot.id)
    lines = [t("alerts_open", count=count), *(_row(t, one) for one in found)] if found else []
    if count > len(found):
        lines.append("…")
    if reports:
        lines.append(t("alerts_reports", count=reports))
    if found:
        lines.append(t("alerts_how"))
    return "\n".join(lines)


def _row(t: Translator, one: KeptAlert) -> str:
    values = {"id": one.alert_id, "since": utc(one.created_at), "text": first_line(one.text)}
    if one.ack_who is None:
        return t("alerts_row", **values)
    return t("alerts_row_taken", who=one.ack_who, **values)


def first_line(html: str) -> str:
    """Return the first line of an alert as plain text."""
    return trimmed(operator_alerts.plain_text(html).partition("\n")[0], _LINE)
