"""The client of a model endpoint: it normalises answers, and knows which failures are worth a retry."""

import json
from http import HTTPStatus
from typing import Any, Final, Literal

import httpx2
from agents import ModelProvider, ModelRefusalError, ModelRetrySettings, OpenAIProvider, RetryPolicyContext
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient

from telemetry.logs import get_logger
from tools.context import RunContext
from tools.model_answers import OWN_REFUSALS, Api, EndpointError, normalise

log = get_logger(__name__)

RunFailure = Literal["model", "model_refused", "model_rejected"]
"""Why a run broke: the endpoint gave no usable answer; the model refused the idea; the endpoint refuses the
bot's requests. Another attempt may mend only the first.
"""

CALL_TIMEOUT_S: Final = 60
_RETRIES: Final = 2
_RETRY_AFTER_S: Final = 30
"""A longer wait than this is left to the next attempt, which holds no worker while it waits."""

_REFUSED_CODES: Final = frozenset(
    {"content_filter", "content_policy_violation", "moderation_blocked", "invalid_prompt"}
)
_UNPAID_CODES: Final = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_BODY_HEADERS: Final = ("content-length", "content-encoding", "content-type", "transfer-encoding")


def endpoint_models(
    api_key: str, base_url: str | None, api: Api, transport: httpx2.AsyncBaseTransport | None = None
) -> ModelProvider:
    """Return the models of an endpoint.

    Args:
        api_key: Its key.
        base_url: Its address; None for OpenAI's.
        api: Which of its APIs is used.
        transport: Replaces the network in tests.
    """
    options: dict[str, Any] = {} if transport is None else {"transport": transport}
    client = AsyncOpenAI(
        api_key=api_key, base_url=base_url, timeout=CALL_TIMEOUT_S, http_client=NormalisingClient(**options),
        max_retries=0,  # the run decides: see `retries_of`
    )  # fmt: skip
    return OpenAIProvider(openai_client=client, use_responses=api == "responses")


class NormalisingClient(DefaultAsyncHttpxClient):
    """An HTTP client that hands answers of models on in their documented shape.

    An answer that reports a failure with status 200 gets the status that it should have had. Streams, which
    the bot does not use, pass unchanged.
    """

    async def send(self, request: httpx2.Request, *, stream: bool = False, **options: Any) -> httpx2.Response:
        """Send a request; see `httpx2.AsyncClient.send`."""
        response = await super().send(request, stream=stream, **options)
        api = _api_of(request)
        if stream or api is None or response.status_code != HTTPStatus.OK:
            return response
        return _normalised(api, request, response)


def _api_of(request: httpx2.Request) -> Api | None:
    path = request.url.path
    if request.method != "POST":
        return None
    return (
        "chat" if path.endswith("/chat/completions") else "responses" if path.endswith("/responses") else None
    )


def _normalised(api: Api, request: httpx2.Request, response: httpx2.Response) -> httpx2.Response:
    status, content = response.status_code, response.content
    try:
        answer = normalise(api, json.loads(request.content), json.loads(content))
        content = json.dumps(answer, ensure_ascii=False).encode()
    except EndpointError as error:
        status = error.status
    except (ValueError, RecursionError):  # no JSON, such as the page of a proxy
        status = HTTPStatus.BAD_GATEWAY
    if status != response.status_code:
        log.warning("model endpoint reported a failure with status 200", api=api, status=int(status))
    kept = [(name, value) for name, value in response.headers.items() if name.lower() not in _BODY_HEADERS]
    return httpx2.Response(
        status, headers=[*kept, ("content-type", "application/json")], content=content, request=request,
        extensions=response.extensions, history=response.history,
    )  # fmt: skip


def retries_of(run: RunContext) -> ModelRetrySettings:
    """Return when a model call of this run is repeated: never once the order is stored.

    The video is made whatever the model says after its order, so no more of its time is bought.
    """

    def policy(context: RetryPolicyContext) -> bool:
        wait_s = context.normalized.retry_after or 0
        return run.order is None and _is_transient(context.error) and wait_s <= _RETRY_AFTER_S

    return ModelRetrySettings(max_retries=_RETRIES, policy=policy)


def failure_of(error: Exception) -> RunFailure:
    """Say why a run broke."""
    if isinstance(error, ModelRefusalError):
        return "model_refused"
    if not isinstance(error, APIStatusError) or _is_transient(error):
        return "model"
    return "model_refused" if _codes(error) & _REFUSED_CODES else "model_rejected"


def refusal_text(error: Exception) -> str:
    """Return what the model itself said when it refused; empty if it said nothing."""
    said = error.refusal if isinstance(error, ModelRefusalError) else ""
    return "" if said in OWN_REFUSALS else said


def _is_transient(error: Exception) -> bool:
    if isinstance(error, APIConnectionError):  # timeouts included
        return True
    if not isinstance(error, APIStatusError) or _codes(error) & _UNPAID_CODES:
        return False
    return error.status_code in (408, 409, 425, 429) or error.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR


def _codes(error: APIStatusError) -> set[str]:
    return {str(word) for word in (error.code, error.type) if word}
