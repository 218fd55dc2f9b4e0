"""What Prometheus is given: series that begin at zero, labels that cannot grow, the books' figures."""

import itertools
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from app.processes import render_metrics as read_metrics
from ledger import reports
from ledger.models import VideoState
from telemetry import metrics
from telemetry.metrics import COMMANDS, PROVIDERS, exposition

INSTRUMENTS = [
    one
    for one in vars(metrics).values()
    if isinstance(one, metrics.Counter | metrics.Gauge | metrics.Histogram)
]


def families(text: bytes) -> dict[str, Metric]:
    return {one.name: one for one in text_string_to_metric_families(text.decode())}


def value(text: bytes, series: str, **labels: str) -> float:
    found = [
        one.value
        for family in families(text).values()
        for one in family.samples
        if one.name == series and labels.items() <= one.labels.items()
    ]
    assert found, f"{series} {labels} is not there"
    return sum(found)


def words(one: metrics.Counter | metrics.Gauge) -> Iterator[dict[str, str]]:
    known = one._labels._known
    return (dict(zip(known, each, strict=True)) for each in itertools.product(*known.values()))


@pytest.mark.parametrize("one", INSTRUMENTS, ids=lambda one: one.name)
def test_a_series_is_there_before_anything_happens(one):
    """Every combination of an instrument's words is exposed from the start: what is born at one is not seen
    by `increase()`, and a rule on what is absent never fires.
    """
    text = exposition()
    # A model's name is announced with its own provider alone; see below.
    if not isinstance(one, metrics.Histogram) and one is not metrics.VIDEOS_STARTED:
        for labels in words(one):
            value(text, one.name, **labels)
    assert one.name.startswith("onetake_")


def test_labels_cannot_grow():
    """A word that nobody announced is counted as `other`; a label that does not exist is a defect."""
    before = value(exposition(), COMMANDS.name)
    COMMANDS.add(outcome="a text of somebody's own 4711")
    text = exposition()
    assert value(text, COMMANDS.name) == before + 1
    assert value(text, COMMANDS.name, outcome="other") >= 1
    assert b"4711" not in text
    with pytest.raises(TypeError, match="known"):
        COMMANDS.add(user="7")


def test_a_model_is_announced_by_the_settings():
    """The model's name comes from the price list in use; it begins at zero with its provider."""
    metrics.VIDEOS_STARTED.declare(provider="fal", model="announced")
    text = exposition()
    assert value(text, metrics.VIDEOS_STARTED.name, provider="fal", model="announced") == 0
    assert "fal" in PROVIDERS


async def test_the_figures_are_the_books(app_env):
    """After one video, what is scraped is what the ledger says, to the cent."""
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
