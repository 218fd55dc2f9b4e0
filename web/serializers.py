"""The cost report as JSON: one form for the API and for `python -m bot costs --json`."""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from guardrails.money import Money
from ledger.breaker import OpenBreaker
from ledger.history import OrderSummary, PendingOrders
from ledger.reports import CostSummary, Report, RequestLine


def report_as_json(report: Report, pending: PendingOrders, opened: Iterable[OpenBreaker]) -> dict[str, Any]:
    """Return a report as plain values. Times are UTC; the ideas of users are not in it."""
    return {
        "at": iso_time(report.at),
        "span": report.span,
        "user": report.user_id,
        "spans": {name: _costs_as_json(one) for name, one in report.spans.items()},
        "by_user": [{"user": int(line.name), **_costs_as_json(line.costs)} for line in report.users],
        "by_model": [{"model": line.name, **_costs_as_json(line.costs)} for line in report.models],
        "by_request": [_request_as_json(line) for line in report.requests],
        "by_day": [{"day": iso_time(at)[:10], **_costs_as_json(one)} for at, one in report.days],
        "by_hour": [{"hour": iso_time(at), **_costs_as_json(one)} for at, one in report.hours],
        "in_flight": [order_as_json(take) for take in pending.in_flight],
        "holds": [order_as_json(take) for take in pending.holds],
        "breakers": [{"scope": one.scope, "why": one.why, "since": iso_time(one.at)} for one in opened],
    }


def _request_as_json(line: RequestLine) -> dict[str, Any]:
    return {
        "request": line.request_id,
        "id": line.short_id,
        "user": line.user_id,
        "state": line.state,
        "model": line.model,
        "created_at": iso_time(line.created_at),
        "trace_id": line.trace_id or None,
        **_costs_as_json(line.costs),
    }


def order_as_json(take: OrderSummary) -> dict[str, Any]:
    """Return one take as plain values, without its idea."""
    return {
        "request": take.request_id,
        "id": take.short_id,
        "user": take.user_id,
        "state": str(take.state),
        "provider": take.provider,
        "model": take.model,
        "quote": money_as_json(take.quote),
        "job": take.job_id,
        "failure": take.failure,
        "ordered_at": iso_time(take.ordered_at),
        "since": iso_time(take.updated_at),
        "trace_id": take.trace_id or None,
    }


def _costs_as_json(costs: CostSummary) -> dict[str, Any]:
    return {
        "charged": money_as_json(costs.charged),
        "refunded": money_as_json(costs.credited),
        "paid": money_as_json(costs.paid),
        "reserved": money_as_json(costs.held),
        "videos": costs.videos,
        "commands": costs.commands,
        "videos_per_command": round(costs.videos_per_command, 3),
        "duplicates_prevented": costs.duplicates,
    }


def money_as_json(amount: Money) -> dict[str, Any]:
    """Return an amount exactly: whole millionths for machines, dollars in writing for people."""
    return {"micros": amount.micros, "usd": str(amount).replace("$", "")}


def iso_time(at: int) -> str:
    """Return milliseconds since the epoch as an ISO time in UTC, to the second."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
