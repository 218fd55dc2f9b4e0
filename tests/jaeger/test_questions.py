"""The operators' questions, asked of a real Jaeger by its own query API; see "Traces" in docs/operations.md.

`make jaeger-test` builds Jaeger and runs this. Each question is one search.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import format_trace_id

from evals.environment import AppEnvironment, EnvironmentConfig, open_environment
from ledger.models import Request, VideoState
from sandbox.model import SandboxModel
from telemetry.tracing import parse_traceparent
from tests.support.crash_env import KEYED, open_crash_env, wait_settled
from tests.support.jaeger import ROOT_SPAN, SERVICE, Jaeger, JaegerTrace, binary
from tests.support.waiting import wait_until
from tests.support.worker_process import worker_process

pytestmark = pytest.mark.jaeger

BLIND = {
    "submit_timeout_s": 1.5, "poll_s": 0.05, "grace_s": 0.1, "settle_s": 1.0, "absent_gap_s": 0.3,
    "listing": False,
}  # fmt: skip


@dataclass
class Filled:
    """A Jaeger with the traces of every scenario, and the request of each."""

    jaeger: Jaeger
    requests: dict[str, Request] = field(default_factory=dict)
    hanging: list[str] = field(default_factory=list)

    def letters(self, scenario: str) -> str:
        return self.requests[scenario].short_id

    def trace_id(self, scenario: str) -> str:
        found = parse_traceparent(self.requests[scenario].traceparent)
        assert found is not None
        return format_trace_id(found.trace_id)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, valkey: Any) -> Iterator[Filled]:
    """Run every scenario once, one after the other: all apps of a process export to every collector."""
    path = binary()
    if path is None:
        pytest.skip("Jaeger is not built: `make jaeger-test` builds and names it")
    made = Filled(Jaeger(tmp_path_factory.mktemp("jaeger")))
    made.jaeger.start(path)
    try:
        asyncio.run(_fill(made, tmp_path_factory, valkey.connection_url))
        yield made
    finally:
        made.jaeger.stop()


async def _fill(made: Filled, folders: pytest.TempPathFactory, redis_url: str) -> None:
    await made.jaeger.wait_ready()
    open_ = _opener(made.jaeger, folders, redis_url)
    async with open_("demo") as env:
        made.requests["demo"] = (await env.create())[0]
        made.requests["refused"] = (await env.create("another market"))[0]
        await _hang(made, env)
    async with open_("incident", model=SandboxModel("thirteen")) as env:
        made.requests["incident"] = (await env.create())[0]
    async with open_(
        "held", shape="openai", capabilities=BLIND, fake_provider_options={"listing": False}
    ) as env:
        env.fake_provider.script("charge_drop")
        made.requests["held"] = (await env.create())[0]
    async with open_("twice", shape="openai", fake_provider_options={"sends": 2}) as env:
        made.requests["twice"] = (await env.create())[0]
    await _kill(made, folders.mktemp("killed"), redis_url)
    await made.jaeger.wait_for(len(made.requests))


def _opener(jaeger: Jaeger, folders: pytest.TempPathFactory, redis_url: str) -> Any:
    @asynccontextmanager
    async def open_(name: str, **options: Any) -> AsyncIterator[AppEnvironment]:
        settings = {"otel_exporter_otlp_endpoint": jaeger.otlp}
        config = EnvironmentConfig(folders.mktemp(name), redis_url, settings=settings, **options)
        async with open_environment(config) as env:
            yield env

    return open_


async def _hang(made: Filled, env: AppEnvironment) -> None:
    """A job that does not end: what Jaeger has of it meanwhile is kept, then it may end."""
    env.fake_provider.polls = 10_000
    cleo = env.user(1003)
    await cleo.send("/create a harbour in the fog")

    async def at_work() -> bool:
        found = await env.latest(1003)
        return found is not None and found[1] is not None and found[1].state is VideoState.ACCEPTED

    await wait_until(at_work, 90, "the job to be accepted")
    found = await env.latest(1003)
    assert found is not None
    made.requests["hanging"] = found[0]

    async def seen() -> bool:
        traces = await made.jaeger.search("order accepted")
        mine = [one for one in traces if one.trace_id == made.trace_id("hanging")]
        made.hanging[:] = [span.name for trace in mine for span in trace.spans]
        return bool(mine)

    await wait_until(seen, 90, "what happened so far, in Jaeger")
    order = found[1]
    assert order is not None
    assert order.accepted_at is not None
    # On a busy machine, too, nothing of this request takes as long as the provider.
    await asyncio.sleep(2 + 2 * (order.accepted_at - found[0].created_at) / 1000)
    env.fake_provider.polls = 1
    await env.wait_settled(1003)


async def _kill(made: Filled, folder: Path, redis_url: str) -> None:
    """SIGKILL between the POST, which was charged, and its answer; another worker continues."""
    async with open_crash_env(folder, redis_url, KEYED) as env:
        settings = {**env.config.settings, "otel_exporter_otlp_endpoint": made.jaeger.otlp}
        config = replace(env.config, settings=settings)
        env.fake_provider.script("charge_hang")
        patient = replace(config, capabilities={**config.capabilities, "submit_timeout_s": 6.0})
        with worker_process(patient) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await wait_until(lambda: _was_sent(made), 90, "the mark of its POST")
            first.kill()
            with worker_process(config):
                request, video = await wait_settled(env)
                assert video.state is VideoState.DELIVERED
                made.requests["killed"] = request
                await made.jaeger.wait_for(1, onetake__request=request.short_id)


async def _was_sent(made: Filled) -> bool:
    known = {made.trace_id(name) for name in made.requests}
    return any(one.trace_id not in known for one in await made.jaeger.search("submit started"))


async def test_which_request_was_bad(filled: Filled) -> None:
    """One search for `onetake.failed`; the row's error says what is wrong. What is held says so, not $0."""
    (held,) = await filled.jaeger.search(onetake__failed="true")
    assert held.root.tags["onetake.request"] == filled.letters("held")
    assert held.root.tags["onetake.held"] == "true"
    assert held.root.tags["otel.status_description"]
    assert "onetake.cost_usd" not in held.root.tags
    assert held.root.tags["onetake.held_usd"] == "0.8"


async def test_why_there_is_no_video(filled: Filled) -> None:
    """One search for the six letters that the user reads: reason and layer are on the root."""
    (trace,) = await filled.jaeger.search(onetake__request=filled.letters("refused"))
    tags = trace.root.tags
    assert (tags["onetake.outcome"], tags["onetake.refused"]) == ("refused", "true")
    assert tags["onetake.guardrail.reason"] in ("cooldown", "quota")
    assert tags["onetake.refused_by"] == "redis"
    assert [one.trace_id for one in await filled.jaeger.search(onetake__refused="true")] == [trace.trace_id]


async def test_was_anything_paid_twice(filled: Filled) -> None:
    """One search for `onetake.paid_twice`: the gateway that sent twice is found, and nothing else."""
    (trace,) = await filled.jaeger.search(onetake__paid_twice="true")
    assert trace.root.tags["onetake.request"] == filled.letters("twice")
    assert trace.root.tags["onetake.videos"] == "2"
    assert float(trace.root.tags["onetake.cost_usd"]) == 1.6


async def test_which_call_was_prevented_by_which_layer(filled: Filled) -> None:
    """One search for `onetake.duplicate_prevented`; in its tree each call carries decision and layer."""
    found = await filled.jaeger.search(onetake__duplicate_prevented="true")
    (trace,) = [one for one in found if one.root.tags["onetake.request"] == filled.letters("incident")]
    guards = [one for one in trace.named("guardrail replay") if one.tags["onetake.tool"] == "generate_video"]
    assert len(guards) == 12
    assert {one.tags["onetake.guardrail.layer"] for one in guards} <= {"redis", "ledger"}
    layer = guards[0].tags["onetake.guardrail.layer"]
    by_layer = await filled.jaeger.search(
        "guardrail replay", onetake__guardrail__layer=layer, onetake__tool="generate_video"
    )
    assert trace.trace_id in {one.trace_id for one in by_layer}
    assert (
        len([one for one in trace.named("guardrail admitted") if "generate_video" in one.tags.values()]) == 1
    )


PHASES = ("wait run_agent", "process create", "wait submit", "submit video", "wait deliver", "deliver")


async def test_where_the_time_went(filled: Filled) -> None:
    """One search for `onetake.longest`; the phases are spans below the root, and seconds on it."""
    found = await filled.jaeger.search(onetake__longest="provider")
    (trace,) = [one for one in found if one.trace_id == filled.trace_id("hanging")]
    (work,) = trace.named("provider work")
    took = float(trace.root.tags["onetake.seconds.provider"])
    assert abs(work.duration / 1e6 - took) < 1
    assert took <= float(trace.root.tags["onetake.seconds"])
    for name in (
        "wait run_agent",
        "process create",
        "wait submit",
        "submit video",
        "wait deliver",
        "deliver",
    ):
        assert len(trace.named(name)) == 1, name


async def test_a_request_that_hangs_has_its_picture(filled: Filled) -> None:
    """While the provider still worked, Jaeger had everything up to there."""
    assert {"telegram /create", "process create", "submit started", "submit video"} <= set(filled.hanging)
    assert ROOT_SPAN not in filled.hanging


async def test_a_killed_worker_was_seen_to_send(filled: Filled) -> None:
    """Of the POST whose answer died with its worker there is the mark, then the question about it."""
    trace = await filled.jaeger.trace(filled.trace_id("killed"))
    assert len(trace.named("submit started")) == 1
    assert trace.named("submit video") == []
    assert trace.named("order in_doubt")
    assert trace.named("reconcile")


async def test_no_span_carries_a_warning_and_every_trace_has_one_root(filled: Filled) -> None:
    """No missing parent, no clock skew that Jaeger would correct; one span carries the cost."""
    traces = await filled.jaeger.search(None)
    assert {filled.trace_id(name) for name in filled.requests} <= {one.trace_id for one in traces}
    for trace in traces:
        assert trace.warnings == []
        assert len(trace.roots) == 1
        if trace.root.name == ROOT_SPAN:
            costs = [one.name for one in trace.spans if "onetake.cost_usd" in one.tags]
            assert costs in ([ROOT_SPAN], [] if trace.root.tags["onetake.held"] == "true" else [ROOT_SPAN])


async def test_what_a_process_says_of_itself(filled: Filled) -> None:
    """Service by role, version, instance, host and environment: nothing writes unmarked."""
    assert await filled.jaeger.services() == {SERVICE}
    trace = await filled.jaeger.trace(filled.trace_id("demo"))
    for process in (one.process for one in trace.spans):
        assert process["deployment.environment.name"] == "evals"
        assert process["service.version"] not in ("", "unknown")
        assert {"service.instance.id", "host.name"} <= set(process)
    assert {_kind(trace, name) for name in ("create video", "process create")} == {"CHAIN"}
    assert _kind(trace, "guardrail admitted") == "GUARDRAIL"
    assert _kind(trace, "execute_tool generate_video") == "TOOL"


def _kind(trace: JaegerTrace, name: str) -> str:
    return trace.named(name)[0].tags["openinference.span.kind"]
