"""A killed worker takes its open spans with it; what was sent before, and the next worker, tell the rest."""

from dataclasses import replace

import pytest
from crew import member
from otlp import receiver
from test_crash_matrix import KEYED, a_stage
from waiting import wait_until

from ledger import reports
from ledger.models import VideoState
from telemetry import semconv
from telemetry.failpoints import FAILPOINTS


@pytest.mark.slow
@pytest.mark.parametrize(
    "point",
    [
        point if point in ("admitted", "accepted") else pytest.param(point, marks=pytest.mark.all)
        for point in FAILPOINTS
    ],
)
async def test_a_killed_worker_leaves_one_trace(valkey, tmp_path, point):
    """SIGKILL at a durable step, another worker goes on: one trace with one root, whose orphans are of the
    killed attempt alone; the second attempt links to the first, of which only its mark is there.
    """
    async with receiver() as collector, a_stage(tmp_path, valkey.connection_url, KEYED) as env:
        settings = {**env.orders.settings, "otel_exporter_otlp_endpoint": collector.url}
        orders = replace(env.orders, settings=settings)
        with member(replace(orders, stop_at=point)) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await first.at_point()
            if point not in ("opened", "woken"):
                await wait_until(lambda: _marked(collector), 20, "what was sent while it lived")
            first.kill()
            with member(orders):
                request, video = await env.rested()
                assert video.state is VideoState.DELIVERED
                await wait_until(lambda: _ended(collector), 30, "the end in the trace")
        (trace,) = [one for one in collector.traces().values() if one.named(semconv.REQUEST_COMPLETED)]
        _lawful(trace, point)
        charged = await reports.net_charged(env.ledger, request.request_id)
        assert float(trace.one(semconv.REQUEST_COMPLETED).tags[semconv.COST]) == charged.micros / 1_000_000
        assert charged.micros == sum(env.fake_provider.net().values())


async def _marked(collector) -> bool:
    return any(
        one.named(semconv.STARTED) and one.named("telegram /create") for one in collector.traces().values()
    )


async def _ended(collector) -> bool:
    return any(
        one.named(semconv.REQUEST_COMPLETED) and one.named(semconv.VIDEO)
        for one in collector.traces().values()
    )


def _lawful(trace, point) -> None:
    attempts = sorted(trace.named(semconv.PROCESS), key=lambda one: int(one.tags[semconv.ATTEMPT]))
    marks = sorted(int(one.tags[semconv.ATTEMPT]) for one in trace.named(semconv.STARTED))
    assert trace.doubled == []
    if point in ("opened", "woken"):
        # The update was not answered: its span died with the worker, and Telegram's second delivery hangs
        # below it, as everything does.
        assert trace.roots == []
        assert len({one.parent_id for one in trace.orphans}) == 1
        return
    assert [one.name for one in trace.roots] == ["telegram /create"]
    done = {one.span_id for one in attempts}
    assert all(
        one.name.startswith(("invoke_agent", "chat", "execute_tool", semconv.GUARD, "EVALSHA"))
        for one in trace.orphans
    )
    assert all(one.parent_id not in done for one in trace.orphans)
    if point in ("in_run", "admitted"):
        assert marks == [1, 2]
        (second,) = attempts
        assert len(second.links) == 1
        assert second.links[0][1] not in trace.spans
