"""Cost reports as JSON, for the API and for `python -m bot costs --json`."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from guardrails.money import Money
from ledger.breaker import OpenBreaker
from ledger.history import OrderSummary, PendingOrders
from ledger.model_usage import ModelCosts
from ledger.operator_alerts import KeptAlert, plain_text
from ledger.overview import Overview
from ledger.reports import Report, RequestLine
from ledger.totals import CostSummary


def report_as_json(
    report: Report, overview: Overview, pending: PendingOrders, opened: Iterable[OpenBreaker]
) -> dict[str, Any]:
    """Return a report as plain values. Times are UTC; users' ideas are left out."""
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
        "in_flight": [order_as_json(order) for order in pending.in_flight],
        "holds": [order_as_json(order) for order in pending.holds],
        "twice_paid": [_request_as_json(line) for line in overview.twice_paid],
        "outcomes": dict(overview.outcomes.counts),
        "delivery_s": {
            "p50": overview.outcomes.p50_s,
            "p95": overview.outcomes.p95_s,
            "of": overview.outcomes.deliveries,
        },
        "language_models": [_model_as_json(one) for one in overview.models],
        "alerts": [_alert_as_json(one) for one in overview.alerts[0]],
        "stars": asdict(overview.stars) | {"left": overview.stars.left},
        "counts": overview.lines
        | {"alerts": overview.alerts[1], "in_flight": pending.in_flight_count, "holds": pending.hold_count},
        "breakers": [{"scope": one.scope, "why": one.why, "since": iso_time(one.at)} for one in opened],
    }


def _model_as_json(one: ModelCosts) -> dict[str, Any]:
    cost = None if one.unpriced_calls == one.calls else money_as_json(one.cost)
    return {
        "model": one.model,
        "calls": one.calls,
        "input_tokens": one.input_tokens,
        "cached_tokens": one.cached_tokens,
        "output_tokens": one.output_tokens,
        "cost": cost,
        "unpriced_calls": one.unpriced_calls,
    }


def _alert_as_json(one: KeptAlert) -> dict[str, Any]:
    """Return an alert; its text never has a user's words."""
    return {
        "id": one.alert_id,
        "text": plain_text(one.text),
        "since": iso_time(one.created_at),
        "request": one.order_id,
        "acknowledged_by": one.ack_who,
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


def order_as_json(order: OrderSummary) -> dict[str, Any]:
    """Return one order as plain values, without the user's idea."""
    return {
        "request": order.request_id,
        "id": order.short_id,
        "user": order.user_id,
        "state": str(order.state),
        "provider": order.provider,
        "model": order.model,
        "quote": money_as_json(order.quote),
        "job": order.job_id,
        "failure": order.failure,
        "why": order.why or None,
        "ordered_at": iso_time(order.ordered_at),
        "since": iso_time(order.updated_at),
        "trace_id": order.trace_id or None,
    }


def _costs_as_json(costs: CostSummary) -> dict[str, Any]:
    return {
        "charged": money_as_json(costs.charged),
        "refunded": money_as_json(costs.credited),
        "paid": money_as_json(costs.paid),
        "reserved": money_as_json(costs.held),
        "videos": costs.videos,
        "commands": costs.commands,
        "videos_per_command": costs.ratio(3),
        "duplicates_prevented": costs.duplicates,
    }


def money_as_json(amount: Money) -> dict[str, Any]:
    """Return an amount exactly, as whole micro-dollars and as a decimal string in dollars."""
    return {"micros": amount.micros, "usd": str(amount).replace("$", "")}


def iso_time(at: int) -> str:
    """Return milliseconds since the epoch as an ISO time in UTC, to the second."""
    return datetime.fromtimestamp(at // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
