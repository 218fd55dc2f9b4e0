"""Exporting spans: a bad collector delays nothing, losses are counted, no secret or prompt leaves."""

import json
import logging
import socket
import time
from pathlib import Path

import pytest
import structlog
from agents import OpenAIResponsesModel
from aiohttp import web
from openai import AsyncOpenAI

from app.processes import render_metrics
from ledger.models import VideoState
from sandbox.telegram import server
from telemetry import exporter, redaction, semconv, tracing
from telemetry.exporter import CLOSE_TIMEOUT_S, OtlpConfig, OtlpSpanProcessor, config_warnings
from telemetry.logs import setup_logs
from telemetry.metrics import exposition
from telemetry.tracing import parse_traceparent, recent_spans
from tests.support.metric_values import value
from tests.support.otlp import receiver, wait_for_traces
from tests.support.waiting import wait_until

LOST = ("failed", "dropped")


def lost() -> float:
    text = exposition()
    return sum(value(text, "onetake_spans_total", result=word) for word in LOST)


def unused_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("how", ["refused", "hole", "503"])
async def test_a_request_does_not_wait_for_a_collector(app_env, how):
    """Refused, silent or overloaded: the video is delivered, the close is on time, losses are counted."""
    async with receiver() as collector:
        collector.hole, collector.status = how == "hole", 503 if how == "503" else 200
        before = lost()
        async with exporter.export_spans(OtlpConfig(unused_url() if how == "refused" else collector.url)):
            began = time.monotonic()
            env = await app_env()
            _, video = await env.create()
            assert video.state is VideoState.DELIVERED
            began = time.monotonic()
        # The block's end has a deadline of its own; the machine's load has the rest.
        assert time.monotonic() - began < CLOSE_TIMEOUT_S + 10
        assert lost() - before >= 10


async def test_a_full_queue_drops_and_counts(monkeypatch):
    """More spans than the queue holds for a silent collector: the rest is dropped at once and counted."""
    async with receiver() as collector:
        collector.hole = True
        silent = OtlpSpanProcessor(f"{collector.url}/v1/traces", {}, most=20)
        parent = tracing.begin_span("telegram other", None)
        tracing.end_span(parent)  # what is below an open span is held back
        monkeypatch.setattr(tracing.PIPELINE, "collectors", (silent,))
        before = value(exposition(), "onetake_spans_total", result="dropped")
        for _ in range(100):
            tracing.end_span(tracing.begin_span("order queued", parent.get_span_context()))
        assert value(exposition(), "onetake_spans_total", result="dropped") - before >= 80
        monkeypatch.setattr(tracing.PIPELINE, "collectors", ())
        await silent.close(0.2)
        assert value(exposition(), "onetake_spans_total", result="dropped") - before == 100


@pytest.mark.slow
async def test_exported_spans_are_counted(app_env, monkeypatch):
    """Accepted spans are counted as exported, and the configured headers are sent with them."""
    # A batch that was accepted after the exporter gave up would count as failed, on a busy machine.
    monkeypatch.setattr(exporter, "EXPORT_TIMEOUT_S", 60)
    async with receiver() as collector:
        before = value(exposition(), "onetake_spans_total", result="exported")
        async with exporter.export_spans(
            OtlpConfig(collector.url, headers="authorization=Bearer%20abc,x-tenant=one")
        ):
            env = await app_env()
            await env.create()

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
def test_a_wrong_setting_is_named(env, where, named):
    """Each setting that would silently lose traces is reported with its remedy."""
    (one,) = config_warnings(where, env)
    assert named in one


def test_correct_settings_are_not_reported():
    """Correct settings are not reported."""
    env = {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
    assert config_warnings(OtlpConfig("http://jaeger:4318"), env) == []
    assert config_warnings(OtlpConfig(), {}) == []


IDEA = "CANARYIDEA of a lighthouse that no one may read"
USER = 7_300_451_199
TRACING = {"traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "uber-trace-id"}


@pytest.fixture
async def collector():
    async with receiver() as made:
        yield made


@pytest.fixture
def log_file(tmp_path):
    """Send the app's log lines to a file; restore logging afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    path = tmp_path / "log.jsonl"
    setup_logs("DEBUG", "json", path)
    yield path
    for handler in root.handlers:
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def ours(path: Path) -> list[dict]:
    lines = map(json.loads, path.read_text().splitlines())
    packages = ("app.", "chat.", "worker.", "tools.", "providers.", "guardrails.", "ledger.", "telemetry.")
    return [line for line in lines if line.get("logger", "").startswith(packages)]


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("content", [False, True], ids=["as_it_comes", "content_switched_on"])
async def test_no_canary_leaves(app_env, collector, log_file, content):
    """Idea, token, user, chat, the provider's key and its URLs are in no exported byte and no metric.

    The control: with content capture on, the same run shows the idea, and still no secret.
    """
    env = await app_env(settings={"otel_exporter_otlp_endpoint": collector.url, "trace_content": content})
    request, video = await env.create(IDEA, USER)
    await wait_for_traces(collector)
    text = await render_metrics(env.app)
    raw = collector.raw
    token = env.api.token
    for secret in (token, token.partition(":")[2], str(USER), request.request_id, env.fake_provider.base_url):
        assert secret.encode() not in raw
        assert secret.encode() not in text
    assert (b"CANARYIDEA" in raw) is content
    assert b"CANARYIDEA" not in text
    lines = log_file.read_text()
    for secret in ("CANARYIDEA", token, token.partition(":")[2], str(USER), request.request_id):
        assert secret not in lines
    assert request.short_id in lines
    assert video.job_id.encode() not in text
    assert redaction.user_tag(USER).encode() in raw


@pytest.mark.slow
async def test_log_lines_name_their_trace(app_env, collector, log_file):
    """Every log line about a request, in any task, has its short id and its trace id."""
    env = await app_env(settings={"otel_exporter_otlp_endpoint": collector.url})
    request, _ = await env.create(IDEA)
    (trace,) = await wait_for_traces(collector)
    named = [line for line in ours(log_file) if line.get("request") == request.short_id]
    events = {line["event"] for line in named}
    assert {"request", "executing", "submitting order", "video downloaded", "video delivered"} <= events
    assert {line.get("trace_id") for line in named} == {trace.roots[0].trace_id}
    assert all(line["level"] in ("debug", "info", "warning", "error") for line in named)


@pytest.mark.slow
async def test_no_trace_header_is_sent(app_env, collector, monkeypatch):
    """Neither the provider nor Telegram is sent a trace header."""
    seen: list[dict[str, str]] = []
    serve = server.serve_method

    async def recording(request: web.Request) -> web.StreamResponse:
        seen.append(dict(request.headers))
        return await serve(request)

    monkeypatch.setattr(server, "serve_method", recording)
    env = await app_env(settings={"otel_exporter_otlp_endpoint": collector.url})
    await env.create()
    await wait_for_traces(collector)
    asked = env.fake_provider.requests()
    assert seen
    assert asked
    for headers in (*seen, *(one["headers"] for one in asked)):
        assert not TRACING & {name.lower() for name in headers}


def answer(body: dict) -> dict:
    """Return a model's answer: one call of the paid tool, then text; for an agent without tools only text."""
    called = any(one.get("type") == "function_call_output" for one in body["input"] if isinstance(one, dict))
    if body.get("tools") and not called:
        arguments = {"prompt": IDEA, "seconds": 8, "size": "720x1280"}
        output = {
            "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "generate_video",
            "arguments": json.dumps(arguments), "status": "completed",
        }  # fmt: skip
    else:
        said = {"type": "output_text", "text": "CANARYWORDS of the model", "annotations": []}
        output = {
            "type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [said],
        }  # fmt: skip
    return {
        "id": "resp_1", "object": "response", "created_at": 0, "model": "gpt-5-mini", "status": "completed",
        "output": [output], "parallel_tool_calls": False, "tool_choice": "auto", "tools": [],
        "usage": {
            "input_tokens": 9, "output_tokens": 5, "total_tokens": 14,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }  # fmt: skip


@pytest.mark.slow
async def test_a_real_client_exports_chat_spans_without_text(app_env, collector):
    """Model calls over HTTP are `chat` spans with their tokens, below their agent; the endpoint is sent no
    trace header, and prompts and answers are not exported.
    """
    seen: list[dict[str, str]] = []

    async def respond(request: web.Request) -> web.Response:
        seen.append(dict(request.headers))
        return web.json_response(answer(await request.json()))

    app = web.Application()
    app.router.add_post("/v1/responses", respond)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        async with AsyncOpenAI(api_key="sk-canarykey12345", base_url=url) as client:
            model = OpenAIResponsesModel(model="gpt-5-mini", openai_client=client)
            env = await app_env(model=model, settings={"otel_exporter_otlp_endpoint": collector.url})
            await env.create(IDEA)
            (trace,) = await wait_for_traces(collector)
    finally:
        await runner.cleanup()
    chats = trace.named("chat gpt-5-mini")
    assert len(chats) == len(seen) == 2
    assert {trace.parent(one).name for one in chats} == {"invoke_agent director"}
    assert {one.tags["gen_ai.usage.input_tokens"] for one in chats} == {"9"}
    for secret in (b"CANARY", b"sk-canarykey", b"You are the director"):
        assert secret not in collector.raw
    for headers in seen:
        assert not TRACING & {name.lower() for name in headers}


@pytest.mark.slow
async def test_without_a_collector_the_spans_stay_here(app_env):
    """Without a collector the process keeps the latest spans in memory."""
    env = await app_env()
    request, _ = await env.create()
    origin = parse_traceparent(request.traceparent)

    async def there() -> bool:
        return any(one.name == semconv.CREATE_VIDEO for one in recent_spans(origin.trace_id))

    await wait_until(there, 20, "the request's end")
    assert {semconv.PROCESS, semconv.SUBMIT, "guardrail admitted"} <= {
        one.name for one in recent_spans(origin.trace_id)
    }
