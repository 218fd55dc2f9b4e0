"""The cost report as JSON: one form for the API and for `python -m bot costs --json`."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from ledger.breaker import OpenBreaker
from ledger.history import Pending, Take
from ledger.money import Money
from ledger.reports import Costs, Report, RequestLine


def report_as_json(report: Report, pending: Pending, opened: Iterable[OpenBreaker]) -> dict[str, Any]:
    """Return a report as plain values. Times are UTC; the ideas of users are not in it."""
    return {
        "at": when(report.at),
        "span": report.span,
        "user": report.user_id,
        "spans": {name: _costs(one) for name, one in report.spans.items()},
        "by_user": [{"user": int(line.name), **_costs(line.costs)} for line in report.users],
        "by_model": [{"model": line.name, **_costs(line.costs)} for line in report.models],
        "by_request": [_request(line) for line in report.requests],
        "by_day": [{"day": when(at)[:10], **_costs(one)} for at, one in report.days],
        "by_hour": [{"hour": when(at), **_costs(one)} for at, one in report.hours],
        "in_flight": [take_as_json(take) for take in pending.in_flight],
        "holds": [take_as_json(take) for take in pending.holds],
        "breakers": [{"scope": one.scope, "why": one.why, "since": when(one.at)} for one in opened],
    }


def _request(line: RequestLine) -> dict[str, Any]:
    return {
        "request": line.request_id,
        "id": line.short_id,
        "user": line.user_id,
        "state": line.state,
        "model": line.model,
        "created_at": when(line.created_at),
        "trace_id": line.trace_id or None,
        **_costs(line.costs),
    }


def take_as_json(take: Take) -> dict[str, Any]:
    """Return one take as plain values, without its idea."""
    return {
        "request": take.request_id,
        "id": take.short_id,
        "user": take.user_id,
        "state": str(take.state),
        "provider": take.provider,
        "model": take.model,
        "quote": money(take.quote),
        "job": take.job_id,
        "failure": take.failure,
        "ordered_at": when(take.ordered_at),
        "since": when(take.updated_at),
        "trace_id": take.trace_id or None,
    }


def _costs(costs: Costs) -> dict[str, Any]:
    return {
        "charged": money(costs.charged),
        "refunded": money(costs.credited),
        "paid": money(costs.paid),
        "reserved": money(costs.held),
        "videos": costs.videos,
        "commands": costs.commands,
        "videos_per_command": round(costs.videos_per_command, 3),
        "duplicates_prevented": costs.duplicates,
    }


def money(amount: Money) -> dict[str, Any]:
    """Return an amount exactly: whole millionths for machines, dollars in writing for people."""
    return {"micros": amount.micros, "usd": str(amount).replace("$", "")}


def when(at: int) -> str:
    """Return milliseconds since the epoch as an ISO time in UTC, to the second."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
