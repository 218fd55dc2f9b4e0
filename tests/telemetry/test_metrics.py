"""Metrics: series start at zero, labels are closed, values agree with the ledger."""

import itertools
from collections.abc import Iterator

import pytest

from app.application import declare_names
from app.processes import render_metrics as read_metrics
from ledger import reports
from ledger.models import VideoState
from telemetry import metrics
from telemetry.metrics import COMMANDS, exposition
from tests.support.metric_values import value

INSTRUMENTS = [
    one
    for one in vars(metrics).values()
    if isinstance(one, metrics.Counter | metrics.Gauge | metrics.Histogram)
]


def words(one: metrics.Counter | metrics.Gauge) -> Iterator[dict[str, str]]:
    known = one._labels._known
    return (dict(zip(known, each, strict=True)) for each in itertools.product(*known.values()))


@pytest.fixture(autouse=True)
def _names() -> None:
    declare_names()


@pytest.mark.parametrize("one", INSTRUMENTS, ids=lambda one: one.name)
def test_a_series_exists_from_the_start(one):
    """Every combination of an instrument's words is exposed from the start: `increase()` does not see a
    series whose first value is one, and an alert on a missing series never fires.
    """
    text = exposition()
    # A model's name is declared only together with its own provider; see below.
    if not isinstance(one, metrics.Histogram) and one is not metrics.VIDEOS_STARTED:
        for labels in words(one):
            value(text, one.name, **labels)
    assert one.name.startswith("onetake_")


def test_labels_cannot_grow():
    """An unknown word is counted as `other`; an unknown label raises."""
    before = value(exposition(), COMMANDS.name)
    COMMANDS.add(outcome="a user's text 4711")
    text = exposition()
    assert value(text, COMMANDS.name) == before + 1
    assert value(text, COMMANDS.name, outcome="other") >= 1
    assert b"4711" not in text
    with pytest.raises(TypeError, match="known"):
        COMMANDS.add(user="7")


def test_a_model_is_declared_by_the_settings():
    """The configured model's name is declared with its provider and starts at zero."""
    metrics.VIDEOS_STARTED.declare(provider="fal", model="declared")
    text = exposition()
    assert value(text, metrics.VIDEOS_STARTED.name, provider="fal", model="declared") == 0


@pytest.mark.slow
async def test_the_metrics_agree_with_the_ledger(app_env):
    """After one video, the scraped values equal the ledger's, to the cent."""
    env = await app_env()
    request, video = await env.create()
    assert video.state is VideoState.DELIVERED
    text = await read_metrics(env.app)
    charged = await reports.net_charged(env.app.ledger, request.request_id)
    dollars = charged.micros / 1_000_000
    assert value(text, "onetake_cost_dollars_total", kind="charge") == dollars
    assert value(text, "onetake_cost_today_dollars") == dollars
    assert value(text, "onetake_cost_today_largest_user_dollars") == dollars
    assert value(text, "onetake_largest_command_dollars") == dollars
    assert value(text, "onetake_twice_paid_requests") == 0
    assert value(text, "onetake_store_up", store="ledger") == 1
    assert value(text, "onetake_store_up", store="queue") == 1
    assert str(request.user_id).encode() not in text
    assert request.request_id.encode() not in text
