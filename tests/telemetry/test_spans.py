"""What single spans say: calls of Telegram, a recount in SQL, a run that used its turns; what leaves none."""

import pytest

from ledger.models import VideoState
from sandbox.model import SandboxModel
from sandbox.telegram.faults import Fault
from telemetry import semconv, tracing
from telemetry.resource import process_resource
from tests.support.app_harness import GROUP, wait_for_state
from tests.support.otlp import receiver, wait_for_traces
from tests.support.pipeline_harness import call_tool


@pytest.fixture
async def collector():
    async with receiver() as made:
        yield made


@pytest.mark.slow
async def test_a_call_of_telegram_says_what_was_answered(app_env, collector):
    """Method, status and error code, and how long Telegram asked to wait; of the chat nothing. What people
    in a group say to each other leaves no trace.
    """
    env = await app_env(settings={"otel_exporter_otlp_endpoint": collector.url})
    env.api.group(GROUP)
    ana = env.user()
    await ana.send("hello everyone, nothing for a bot", chat=GROUP)
    env.api.fail("editMessageMedia", Fault.throttled(1))
    await ana.send("/create a market at dawn", chat=GROUP)
    await wait_for_state(env, VideoState.DELIVERED)
    (trace,) = await wait_for_traces(collector)
    first, *_ = sorted(trace.named("telegram editMessageMedia"), key=lambda one: one.start)
    assert first.tags.items() >= {
        semconv.TELEGRAM_METHOD: "editMessageMedia", semconv.TELEGRAM_STATUS: "throttled",
        semconv.TELEGRAM_ERROR: "429", semconv.TELEGRAM_RETRY: "1",
        "otel.status_description": "Telegram asked to wait",
    }.items()  # fmt: skip
    assert [one.tags[semconv.ATTEMPT] for one in trace.named(semconv.DELIVER)] == ["1", "1"]
    assert trace.one(semconv.CREATE_VIDEO).tags[semconv.CHAT_KIND] == "group"
    assert not any(one.named("telegram message") for one in collector.traces().values())
    assert str(abs(GROUP)).encode() not in collector.raw


@pytest.mark.slow
async def test_a_run_that_used_its_turns_and_ordered_is_no_error(app_env, collector):
    """A model that insists until the cap on turns: its agent says so, and nothing is red."""
    env = await app_env(
        model=SandboxModel("insist", times=50), max_turns=4,
        settings={"otel_exporter_otlp_endpoint": collector.url},
    )  # fmt: skip
    await env.create()
    (trace,) = await wait_for_traces(collector)
    assert trace.one("invoke_agent director").tags[semconv.TURN_LIMIT] == "true"
    assert [one.name for one in trace.spans.values() if one.error] == []


async def test_a_recount_that_refuses_is_on_the_call(pipeline_env):
    """Redis admitted, the ledger refuses: the call's span says so, and a guard's span with that name."""
    env = await pipeline_env(changes={"quota": "1/day"})
    await env.ordered()
    run = await env.run_context(await env.open_request())
    call = tracing.begin_span("telegram other", None)
    with tracing.span_scope(call):
        await call_tool(run)
    assert call.attributes[semconv.DECISION] == "quota"
    assert call.attributes[semconv.LAYER] == "ledger"
    assert call.attributes[semconv.UNTIL] > 0
    spans = tracing.recent_spans(call.get_span_context().trace_id)
    (guard,) = [one for one in spans if one.name == "guardrail quota"]
    assert guard.attributes[semconv.LAYER] == "ledger"
    assert guard.attributes[semconv.KIND] == "GUARDRAIL"


def test_a_span_leaves_after_its_parent(monkeypatch):
    """Held back while its parent in this process is open, at once if that is of another process."""
    left: list[str] = []

    class Collector:
        def on_end(self, span) -> None:
            left.append(span.name)

    monkeypatch.setattr(tracing.PIPELINE, "collectors", (Collector(),))
    update = tracing.begin_span("telegram other", None)
    above = tracing.begin_span("above", update.get_span_context())
    below = tracing.begin_span("below", above.get_span_context())
    tracing.end_span(below)
    tracing.end_span(above)
    assert left == []
    tracing.end_span(update)
    assert left == ["below", "above", "telegram other"]
    late = tracing.begin_span("late", above.get_span_context())
    tracing.end_span(late)
    assert left[-1] == "late"


def test_an_update_is_put_below_the_request_that_it_opened():
    """The SDK has no public way to do it: this pins the private one. Of another trace it is left alone."""
    update = tracing.begin_span("telegram /create", None)
    with tracing.span_scope(update):
        stored = tracing.request_traceparent("key")
        tracing.join_request("00-" + "1" * 32 + "-" + "2" * 16 + "-01")
        assert update.parent is None
        tracing.join_request(stored)
    trace_id = update.get_span_context().trace_id
    assert (update.parent.trace_id, update.parent.span_id) == (
        trace_id, tracing.root_span_id(trace_id, "key"),
    )  # fmt: skip


def test_the_resource_names_role_host_and_environment(monkeypatch):
    """Of which OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME may change each."""
    found = process_resource("onetake-bot", "sandbox").attributes
    assert (found["service.name"], found["deployment.environment.name"]) == ("onetake-bot", "sandbox")
    assert found["host.name"]
    assert (
        found["service.instance.id"]
        == process_resource("onetake-worker", "demo").attributes["service.instance.id"]
    )
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "host.id=one,deployment.environment.name=staging")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    found = process_resource("onetake-bot", "sandbox").attributes
    assert (found["service.name"], found["host.id"]) == ("ours", "one")
    assert found["deployment.environment.name"] == "staging"
