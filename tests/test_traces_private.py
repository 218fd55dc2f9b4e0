"""Nothing private leaves: not in spans, not in figures, not in logs, not as a header to anybody."""

import json
import logging
from pathlib import Path

import pytest
import structlog
from agents import OpenAIResponsesModel
from aiohttp import web
from openai import AsyncOpenAI
from otlp import receiver
from test_traces import settled
from waiting import wait_until

from app.processes import render_metrics
from sandbox.telegram import server
from telemetry import redaction, semconv
from telemetry.logs import setup_logs
from telemetry.tracing import parse_traceparent, recent_spans

IDEA = "CANARYIDEA of a lighthouse that nobody may read"
USER = 7_300_451_199
TRACING = {"traceparent", "tracestate", "baggage", "b3", "x-b3-traceid", "uber-trace-id"}


@pytest.fixture
async def collector():
    async with receiver() as made:
        yield made


@pytest.fixture
def log_file(tmp_path):
    """Where the house's log lines go; afterwards logging is as it was."""
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


@pytest.mark.parametrize("content", [False, True], ids=["as_it_comes", "content_switched_on"])
async def test_no_canary_leaves(app_env, collector, log_file, content):
    """Idea, token, user, chat, the provider's key and its URLs are in no byte that leaves and in no figure.

    The control: with content capture switched on the same run shows the idea, and still no secret.
    """
    env = await app_env(settings={"otel_exporter_otlp_endpoint": collector.url, "trace_content": content})
    request, video = await env.create(IDEA, USER)
    await settled(collector)
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


async def test_log_lines_name_their_trace(app_env, collector, log_file):
    """Each line that a request causes, in whichever task, holds its six letters and the trace it is in."""
    env = await app_env(settings={"otel_exporter_otlp_endpoint": collector.url})
    request, _ = await env.create(IDEA)
    (trace,) = await settled(collector)
    named = [line for line in ours(log_file) if line.get("request") == request.short_id]
    events = {line["event"] for line in named}
    assert {"request", "executing", "paying", "video is here", "delivered"} <= events
    assert {line.get("trace_id") for line in named} == {trace.roots[0].trace_id}
    assert all(line["level"] in ("debug", "info", "warning", "error") for line in named)


async def test_nobody_is_sent_a_trace_header(app_env, collector, monkeypatch):
    """Neither the provider nor Telegram learns of our traces; only the collector is spoken to about them."""
    seen: list[dict[str, str]] = []
    serve = server.serve_method

    async def recording(request: web.Request) -> web.StreamResponse:
        seen.append(dict(request.headers))
        return await serve(request)

    monkeypatch.setattr(server, "serve_method", recording)
    env = await app_env(settings={"otel_exporter_otlp_endpoint": collector.url})
    await env.create()
    await settled(collector)
    asked = env.fake_provider.requests()
    assert seen
    assert asked
    for headers in (*seen, *(one["headers"] for one in asked)):
        assert not TRACING & {name.lower() for name in headers}


def answer(body: dict) -> dict:
    """What a model says: one call of the tool that pays, then words; an agent without tools gets words."""
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


async def test_a_real_client_leaves_chat_spans_and_no_words(app_env, collector):
    """Asked over HTTP, the model's calls are `chat` spans with their tokens, below their agent; the endpoint
    is sent no trace header, and what was said stays here.
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
            (trace,) = await settled(collector)
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


async def test_without_a_collector_the_spans_stay_here(app_env):
    """Nothing is configured: the process keeps the latest spans for whoever looks from inside."""
    env = await app_env()
    request, _ = await env.create()
    origin = parse_traceparent(request.traceparent)

    async def there() -> bool:
        return any(one.name == semconv.REQUEST_COMPLETED for one in recent_spans(origin.trace_id))

    await wait_until(there, 20, "the request's end")
    assert {semconv.PROCESS, semconv.VIDEO, semconv.GUARD} <= {
        one.name for one in recent_spans(origin.trace_id)
    }
