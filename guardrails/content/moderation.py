"""A moderation model beside the offline rules: one request per judgement, and closed whenever in doubt.

Their category list is that of `omni-moderation-latest` (openai/types/moderation.py).
"""

import asyncio
from typing import Annotated, Final

import httpx2
import openai
from pydantic import BaseModel, Field, SecretStr, StrictBool

from guardrails.content.verdict import ALLOWED, SEVERITY, ContentCategory, ContentVerdict
from telemetry.logs import get_logger

OPENAI_URL: Final = "https://api.openai.com/v1"
MODERATION_MODEL: Final = "omni-moderation-latest"
DEADLINE_S: Final = 3.0  # seconds, from the call to the verdict, connecting included

_log = get_logger(__name__)

# A name with an unknown end counts as what stands before its slash.
_CATEGORIES: Final[dict[str, ContentCategory]] = {
    "sexual/minors": "minor",
    "sexual": "sexual",
    "violence": "violence",
    "violence/graphic": "violence",
    "self-harm": "self_harm",
    "self-harm/intent": "self_harm",
    "self-harm/instructions": "self_harm",
    "hate": "hate",
    "hate/threatening": "hate",
    "harassment": "hate",
    "harassment/threatening": "hate",
    "illicit": "illicit",
    "illicit/violent": "illicit",
}


class _Result(BaseModel):
    flagged: StrictBool
    categories: dict[str, StrictBool | None]


class _Answer(BaseModel):
    results: Annotated[list[_Result], Field(min_length=1)]


class Moderation:
    """A judge that asks a moderation endpoint; whatever is not a clear answer in time is `closed`.

    Args:
        key: The endpoint's key; it reaches neither logs nor error texts.
        base_url: Where `/moderations` lives. Never taken from `OPENAI_BASE_URL`: that may be another
            company's endpoint, which must not be sent this key.
        deadline: Seconds for everything, connecting included.
    """

    def __init__(self, key: SecretStr, base_url: str = OPENAI_URL, deadline: float = DEADLINE_S) -> None:
        self._deadline = deadline
        # No retries, no redirects, no kept connection that may have gone stale: one request on the wire.
        http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False, limits=httpx2.Limits(max_keepalive_connections=0)
        )
        self._client = openai.AsyncOpenAI(
            api_key=key.get_secret_value(),
            base_url=base_url,
            max_retries=0,
            timeout=deadline,
            http_client=http,
        )

    async def judge(self, text: str) -> ContentVerdict:
        """Judge one text with exactly one request; only a cancellation ever leaves this as an exception."""
        # A lone surrogate cannot be sent; what stands around it still can.
        sendable = text.encode("utf-8", "replace").decode("utf-8")
        try:
            async with asyncio.timeout(self._deadline):
                reply = await self._client.moderations.with_raw_response.create(
                    model=MODERATION_MODEL, input=sendable
                )
            return _verdict(_Answer.model_validate_json(reply.text))
        except Exception as error:  # noqa: BLE001 - fail closed, whatever it is
            cause = _cause(error)
            # The class only: an exception's text may hold the URL, the reply or the request.
            _log.warning("moderation closed", cause=cause, error=type(error).__name__)
            return ContentVerdict("closed", rule=f"moderation:{cause}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def _verdict(answer: _Answer) -> ContentVerdict:
    names = [_known(name) for result in answer.results for name, yes in result.categories.items() if yes]
    # Their flag and their categories say the same; where they do not, the stricter one counts.
    if not names and not any(result.flagged for result in answer.results):
        return ALLOWED
    named = [(SEVERITY.index(_CATEGORIES[name]), name) for name in names if name is not None]
    if not named:
        return ContentVerdict("refused", "other", "moderation:other")
    _, gravest = min(named)
    return ContentVerdict("refused", _CATEGORIES[gravest], f"moderation:{gravest}")


def _known(name: str) -> str | None:
    """A category's name from our own list: what the endpoint calls it otherwise stays out of our logs."""
    begin = name.split("/", maxsplit=1)[0]
    return name if name in _CATEGORIES else begin if begin in _CATEGORIES else None


def _cause(error: Exception) -> str:
    match error:
        case TimeoutError() | openai.APITimeoutError():
            return "timeout"
        case openai.APIStatusError():
            return f"http_{error.status_code}"
        case openai.APIConnectionError():
            return "unreachable"
        case ValueError():
            return "unparsable"
        case _:
            return "failed"
