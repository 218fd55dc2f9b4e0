"""A collector that is away, deaf or broken changes nothing for anybody; what is lost is counted."""

import socket
import time

import pytest
from otlp import receiver
from test_metrics import value
from waiting import wait_until

from ledger.models import VideoState
from telemetry import exporter, tracing
from telemetry.exporter import CLOSE_TIMEOUT_S, OtlpConfig, OtlpSpanProcessor, config_warnings
from telemetry.metrics import exposition

LOST = ("failed", "dropped")


def lost() -> float:
    text = exposition()
    return sum(value(text, "onetake_spans_total", result=word) for word in LOST)


def nobody() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize("how", ["refused", "hole", "503"])
async def test_a_request_does_not_wait_for_a_collector(app_env, how):
    """Refused, silent or overloaded: the video is delivered, the close keeps its time, losses are counted."""
    async with receiver() as collector:
        collector.hole, collector.status = how == "hole", 503 if how == "503" else 200
        before = lost()
        async with exporter.export_spans(OtlpConfig(nobody() if how == "refused" else collector.url)):
            began = time.monotonic()
            stage = await app_env()
            _, video = await stage.create()
            assert video.state is VideoState.DELIVERED
            began = time.monotonic()
        # The block's end has a deadline of its own; the machine's load has the rest.
        assert time.monotonic() - began < CLOSE_TIMEOUT_S + 10
        assert lost() - before >= 10


async def test_a_full_queue_drops_and_counts(monkeypatch):
    """More spans than may wait for a deaf collector: the rest is dropped at once and counted."""
    async with receiver() as collector:
        collector.hole = True
        deaf = OtlpSpanProcessor(f"{collector.url}/v1/traces", {}, most=20)
        monkeypatch.setattr(tracing.PIPELINE, "collectors", (deaf,))
        before = value(exposition(), "onetake_spans_total", result="dropped")
        parent = tracing.begin_span("telegram other", None)
        for _ in range(100):
            tracing.end_span(tracing.begin_span("video", parent.get_span_context()))
        assert value(exposition(), "onetake_spans_total", result="dropped") - before >= 80
        monkeypatch.setattr(tracing.PIPELINE, "collectors", ())
        await deaf.close(0.2)
        assert value(exposition(), "onetake_spans_total", result="dropped") - before == 100


async def test_what_leaves_is_counted(app_env):
    """Spans that the collector took are counted as exported, and headers of ours reach it alone."""
    async with receiver() as collector:
        before = value(exposition(), "onetake_spans_total", result="exported")
        async with exporter.export_spans(
            OtlpConfig(collector.url, headers="authorization=Bearer%20abc,x-tenant=one")
        ):
            stage = await app_env()
            await stage.create()

            async def there() -> bool:
                return bool(collector.creates())

            await wait_until(there, 20, "the trace")

            async def counted() -> bool:
                exported = value(exposition(), "onetake_spans_total", result="exported")
                return len(collector.spans()) == exported - before

            await wait_until(counted, 20, "as many spans counted as there are")
        assert {one["x-tenant"] for one in collector.headers} == {"one"}
        assert {one["authorization"] for one in collector.headers} == {"Bearer abc"}


WRONG = {
    "sdk off": ({"OTEL_SDK_DISABLED": "true"}, OtlpConfig(), "OTEL_SDK_DISABLED"),
    "agents off": ({"OPENAI_AGENTS_DISABLE_TRACING": "1"}, OtlpConfig(), "OPENAI_AGENTS_DISABLE_TRACING"),
    "sampled away": ({"OTEL_TRACES_SAMPLER": "always_off"}, OtlpConfig(), "OTEL_TRACES_SAMPLER"),
    "other exporter": ({"OTEL_TRACES_EXPORTER": "zipkin"}, OtlpConfig(), "OTEL_TRACES_EXPORTER"),
    "the libraries' switch": ({exporter.CAPTURE_ENV: "true"}, OtlpConfig(), "TRACE_CONTENT"),
    "grpc": ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, OtlpConfig(), "http/protobuf"),
    "grpc's port": ({}, OtlpConfig("http://jaeger:4317"), "4318"),
    "no scheme": ({}, OtlpConfig("jaeger:4318"), "http://HOST:4318"),
    "no port": ({}, OtlpConfig("http://jaeger:port"), "http://HOST:4318"),
    "path twice": ({}, OtlpConfig("http://jaeger:4318/v1/traces"), "base address"),
}


@pytest.mark.parametrize(("env", "where", "named"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_switch_is_named(env, where, named):
    """Each switch that would lose traces in silence is named with its remedy."""
    (one,) = config_warnings(where, env)
    assert named in one


def test_right_switches_are_no_findings():
    """What is set rightly is not spoken of."""
    env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert config_warnings(OtlpConfig("http://jaeger:4318"), env) == []
    assert config_warnings(OtlpConfig(), {}) == []
