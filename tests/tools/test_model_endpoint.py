"""The client of a model endpoint: what reaches the SDK, what is asked again, and why a run ended."""

import json

import httpx2
import pytest
from agents import Agent, ModelRefusalError, RunConfig, Runner
from agents.decorators import tool
from openai import APIConnectionError, APITimeoutError, BadRequestError, RateLimitError

from sandbox.openai_api import FakeOpenAI, RawAnswer
from tools.model_endpoint import NormalisingClient, endpoint_models, failure_of, refusal_text

REQUEST = httpx2.Request("POST", "http://model.invalid/v1/chat/completions")


@tool
def generate_video(prompt: str) -> str:
    """Order a video."""
    return f"ordered {prompt}"


async def run(plan, api="chat"):
    server = FakeOpenAI(plan)
    config = RunConfig(
        model_provider=endpoint_models("k", "http://fake/v1", api, server.transport()), tracing_disabled=True
    )
    result = await Runner.run(
        Agent(name="a", model="m", tools=[generate_video]), "go", run_config=config, max_turns=3
    )
    return server, result


def answers(*bodies):
    left = list(bodies)
    return lambda _: RawAnswer(left.pop(0)) if left else "done"


ODD_CALL = {"id": None, "function": {"name": "functions.generate_video", "arguments": {"prompt": "a boat"}}}
ODD_ITEM = {"name": "functions.generate_video", "arguments": {"prompt": "a boat"}}


async def test_an_odd_call_is_executed_over_both_apis():
    """The SDK reads a call that it would have dropped or raised at, and sends it back in good shape."""
    server, _ = await run(answers({"choices": [{"message": {"content": None, "tool_calls": [ODD_CALL]}}]}))
    sent, answered = server.seen[1]["messages"][-2:]
    assert sent["tool_calls"][0]["function"] == {
        "name": "generate_video",
        "arguments": '{"prompt": "a boat"}',
    }
    assert answered["content"] == "ordered a boat"
    assert answered["tool_call_id"] == sent["tool_calls"][0]["id"]
    server, _ = await run(answers({"output": [ODD_ITEM]}), "responses")
    assert server.seen[1]["input"][-1]["output"] == "ordered a boat"


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_refusal_ends_the_run(api):
    """Both APIs have a field for it, and the SDK has one error."""
    part = {"type": "refusal", "refusal": "I won't."}
    body = (
        {"choices": [{"message": {"refusal": "I won't."}}]}
        if api == "chat"
        else {"output": [{"type": "message", "content": [part]}]}
    )
    with pytest.raises(ModelRefusalError) as raised:
        await run(answers(body), api)
    assert (failure_of(raised.value), refusal_text(raised.value)) == ("model_refused", "I won't.")


@pytest.mark.parametrize("body", [{"choices": None}, "no object", None])
async def test_an_answer_that_is_none_is_a_failure_of_the_endpoint(body):
    """A proxy's 200 without an answer is repeated by the same rule as its 502."""
    with pytest.raises(Exception, match="502") as raised:
        await run(answers(body))
    assert failure_of(raised.value) == "model"


async def test_a_page_in_place_of_json_is_a_failure_of_the_endpoint():
    """A 200 with HTML is not handed on as text."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, html="<p>Sign in</p>"))
    async with NormalisingClient(transport=transport) as client:
        response = await client.post("http://model.invalid/v1/chat/completions", json={})
    assert response.status_code == 502


async def test_other_requests_pass_unchanged():
    """Only answers of models are read."""
    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json={"choices": None}))
    async with NormalisingClient(transport=transport) as client:
        for method, path in (("GET", "/v1/chat/completions"), ("POST", "/v1/embeddings")):
            response = await client.request(method, f"http://model.invalid{path}")
            assert (response.status_code, response.json()) == (200, {"choices": None})


async def test_the_client_itself_repeats_nothing():
    """The run decides what is asked again; a client that did so too would multiply the requests."""
    asked = []

    def answer(request):
        asked.append(json.loads(request.content))
        return httpx2.Response(503)

    models = endpoint_models("k", "http://fake/v1", "chat", httpx2.MockTransport(answer))
    config = RunConfig(model_provider=models, tracing_disabled=True)
    with pytest.raises(Exception, match="503"):
        await Runner.run(Agent(name="a", model="m"), "go", run_config=config)
    assert len(asked) == 1


def error(kind, status, code=None):
    response = httpx2.Response(status, request=REQUEST)
    return kind("no", response=response, body={"code": code, "message": "no"})


@pytest.mark.parametrize(
    ("raised", "failure"),
    [(ModelRefusalError("no"), "model_refused"), (error(BadRequestError, 400), "model_rejected"),
     (error(BadRequestError, 400, "content_filter"), "model_refused"),
     (error(BadRequestError, 400, "content_policy_violation"), "model_refused"),
     (error(RateLimitError, 429), "model"),
     (error(RateLimitError, 429, "insufficient_quota"), "model_rejected"),
     (APITimeoutError(REQUEST), "model"), (APIConnectionError(request=REQUEST), "model"),
     (TimeoutError(), "model"), (ValueError(), "model")],
    ids=lambda one: one if isinstance(one, str) else f"{type(one).__name__} {getattr(one, 'code', '')}",
)  # fmt: skip
def test_why_a_run_broke(raised, failure):
    """A refusal, and a request that will never be accepted, are decisions; the rest may pass."""
    assert failure_of(raised) == failure
