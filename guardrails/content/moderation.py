"""A judge that asks a moderation endpoint: one request per text or picture, `closed` on any unclear answer.

The categories are those of `omni-moderation-latest` (openai/types/moderation.py).
"""

import asyncio
import base64
import logging
from typing import TYPE_CHECKING, Annotated, Final

import httpx2
import openai
from pydantic import BaseModel, Field, SecretStr, StrictBool

from .verdict import ALLOWED, SEVERITY, ContentCategory, ContentVerdict

if TYPE_CHECKING:
    from openai.types.moderation_image_url_input_param import ModerationImageURLInputParam
    from openai.types.moderation_multi_modal_input_param import ModerationMultiModalInputParam

OPENAI_URL: Final = "https://api.openai.com/v1"
MODERATION_MODEL: Final = "omni-moderation-latest"
DEADLINE_S: Final = 3.0  # from the call to the verdict, connecting included

PICTURE_DEADLINE_S: Final = 10.0  # a picture is a thousand times as long as a text

_log = logging.getLogger(__name__)

# An unknown subcategory counts as its category: the part before the slash.
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
    """Judges texts and pictures with a moderation endpoint; anything but a clear answer in time is `closed`.

    Args:
        key: The endpoint's key; it appears neither in logs nor in error texts.
        base_url: Where `/moderations` lives. Never taken from `OPENAI_BASE_URL`: that may be another
            company's endpoint, which must not be sent this key.
        deadline: Seconds for everything, connecting included.
        picture_deadline: The same for a picture.
    """

    def __init__(
        self,
        key: SecretStr,
        base_url: str = OPENAI_URL,
        deadline: float = DEADLINE_S,
        picture_deadline: float = PICTURE_DEADLINE_S,
    ) -> None:
        self._deadline, self._picture_deadline = deadline, picture_deadline
        # No retries, no redirects, no idle connection that may be dead: exactly one request is sent.
        http = openai.DefaultAsyncHttpxClient(
            follow_redirects=False, limits=httpx2.Limits(max_keepalive_connections=0)
        )
        self._client = openai.AsyncOpenAI(
            api_key=key.get_secret_value(),
            base_url=base_url,
            max_retries=0,
            timeout=max(deadline, picture_deadline),
            http_client=http,
        )

    async def judge(self, text: str) -> ContentVerdict:
        """Judge one text with exactly one request; raises nothing but a cancellation."""
        # A lone surrogate cannot be sent; the text around it can.
        return await self._ask(text.encode("utf-8", "replace").decode("utf-8"), self._deadline)

    async def judge_picture(self, jpeg: bytes) -> ContentVerdict:
        """Judge one picture, sent as a data URL, like a text: with exactly one request."""
        url = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode('ascii')}"
        part: ModerationImageURLInputParam = {"type": "image_url", "image_url": {"url": url}}
        return await self._ask([part], self._picture_deadline)

    async def _ask(
        self, content: "str | list[ModerationMultiModalInputParam]", deadline: float
    ) -> ContentVerdict:
        try:
            async with asyncio.timeout(deadline):
                reply = await self._client.moderations.with_raw_response.create(
                    model=MODERATION_MODEL, input=content
                )
            return _verdict(_Answer.model_validate_json(reply.text))
        except Exception as error:  # noqa: BLE001 - fail closed, whatever it is
            cause = _cause(error)
            # The class only: an exception's text may hold the URL, the reply or the request.
            _log.warning("moderation closed", extra={"cause": cause, "error": type(error).__name__})
            return ContentVerdict("closed", rule=f"moderation:{cause}")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()


def _verdict(answer: _Answer) -> ContentVerdict:
    names = [_known(name) for result in answer.results for name, yes in result.categories.items() if yes]
    # Where the flag and the categories disagree, the stricter one counts.
    if not names and not any(result.flagged for result in answer.results):
        return ALLOWED
    named = [(SEVERITY.index(_CATEGORIES[name]), name) for name in names if name is not None]
    if not named:
        return ContentVerdict("refused", "other", "moderation:other")
    _, gravest = min(named)
    return ContentVerdict("refused", _CATEGORIES[gravest], f"moderation:{gravest}")


def _known(name: str) -> str | None:
    """Return a category from our own list; other names of the endpoint stay out of our logs."""
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
