"""The operator's page as HTML. Every text of a user is escaped by the templates, without exception."""

from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from ledger.breaker import OpenBreaker
from ledger.money import ZERO
from ledger.pending import Pending
from ledger.reports import Report
from web.charts import HEIGHT, WIDTH, chart, share
from web.figures import when
from web.gate import Session

HERE: Final = Path(__file__).parent
SPAN_WORDS: Final = {"today": "today (UTC)", "hour": "last 60 minutes", "30d": "30 days"}


def page(
    report: Report, pending: Pending, opened: list[OpenBreaker], session: Session, *,
    jaeger: str = "", said: str = "", wrong: str = "",
) -> str:  # fmt: skip
    """Return the cost page.

    Args:
        report: The figures.
        pending: What is under way and on hold.
        opened: The breakers that are open.
        session: Whose page; its form token stands in every form.
        jaeger: Where traces can be looked at; empty: they are named, not linked.
        said: What was just done, in words.
        wrong: Why nothing was done, in words.
    """
    return _templates().get_template("costs.html").render(
        report=report,
        pending=pending,
        opened=opened,
        session=session,
        jaeger=jaeger.rstrip("/"),
        said=said,
        wrong=wrong,
        charts=[
            chart("Paid per day, 30 days", report.days, "%d %b", 7),
            chart("Paid per hour, 24 hours", report.hours, "%H:00", 6),
        ],
        largest=max((line.costs.paid for line in report.users), default=ZERO),
        dearest=max((line.costs.paid for line in report.models), default=ZERO),
    )  # fmt: skip


def login_page(wrong: str = "") -> str:
    """Return the page that asks for name and token."""
    return _templates().get_template("login.html").render(wrong=wrong)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(HERE / "templates")
    found = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    found.filters |= {"when": when, "clock": _clock, "age": age, "short": _short}
    found.globals |= {"WIDTH": WIDTH, "HEIGHT": HEIGHT, "SPANS": SPAN_WORDS, "share": share}
    return found


def _clock(at: int) -> str:
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%d %b %H:%M")


def age(since: int, now: int) -> str:
    """Return how long ago `since` was, as people say it."""
    seconds = max(0, (now - since) // 1000)
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size} {word}"
    return f"{seconds} s"


def _short(words: Any, most: int = 60) -> str:
    text = " ".join(str(words).split())
    return text if len(text) <= most else text[: most - 1] + "…"
