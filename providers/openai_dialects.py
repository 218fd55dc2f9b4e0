"""How servers that speak `/v1/videos` differ: one frozen record each, and the bytes of the POST.

Sources, read in November 2026: developers.openai.com/api/reference (videos), vllm-omni
`entrypoints/openai/api_server.py`, sglang `multimodal_gen/runtime/entrypoints/openai/video_api.py`,
docs.inworld.ai/api-reference/videoAPI and /router/video-generation. None of these was tested with a real
server. The dialect `litellm` was: LiteLLM 1.108.7, by `make gateway-test`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from providers.base import Billing, RejectedFor, VideoRequest
from providers.gateways import LITELLM as LITELLM_GATEWAY
from providers.pictures import fit_picture

AUTH_CODES = frozenset({"no_db_connection", "auth_error"})
"""LiteLLM's words for a key that it does not know; without a database it says so with a 400."""
POLICY_CODES = frozenset(
    {"moderation_blocked", "content_policy_violation", "content_filter", "content_moderation"}
)
FUNDS_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "budget_exceeded"})


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one server documents about the protocol. The adapter relies on nothing else.

    Attributes:
        name: Its name in settings.
        encoding: Encoding of the POST's body.
        auth: The authorization scheme before the key.
        seeded: The POST takes a `seed`; a server that does not know the field may refuse it.
        avoids: The POST takes a `negative_prompt`.
        framing: `size` as one field, or `resolution` (720p) and `aspect_ratio` (9:16).
        idempotency_header: Its name, if the same key and bytes are documented never to charge twice.
        replay_for_s: How long after the POST the server is trusted to remember the key.
        listing: `GET /videos` exists.
        result_path: Path of the result URL in the job; empty if `/content` serves the file.
        content_waits: `/content` answers 404 also while the job is still running.
        failure_status: A failed job answers GET with an HTTP error and the whole job as its body.
        picture_field: The field of the form that takes the first frame as a file; empty: none is documented.
            OpenAI refuses a picture of another size than the video's, so each is cut to it.
        gateway: The gateway that this dialect speaks to. Its orders forbid second tries and fallbacks, so a
            refusal that bears the gateway's marks is the answer to one POST.
        throttles: A 429 with Retry-After is documented and costs nothing.
        refusals: Documented refusals of the POST that cost nothing, and what they mean.
        cost_path: Path of the job's price in dollars, if the server may name one; empty if it never does.
        failed_billing: Whether a failed job is billed.
        moderated_billing: Whether a job is billed whose result moderation withheld.
        notes: For operators.
    """

    name: str
    encoding: Literal["multipart", "json"]
    auth: Literal["Bearer", "Basic"]
    refusals: Mapping[int, RejectedFor]
    seeded: bool = False
    avoids: bool = False
    framing: Literal["size", "resolution"] = "size"
    idempotency_header: str | None = None
    replay_for_s: float = 0.0
    listing: bool = False
    result_path: tuple[str | int, ...] = ()
    content_waits: bool = False
    failure_status: bool = False
    picture_field: str = ""
    gateway: str = ""
    throttles: bool = False
    cost_path: tuple[str | int, ...] = ()
    failed_billing: Billing = "unknown"
    moderated_billing: Billing = "unknown"
    notes: tuple[str, ...] = ()


_SELF_HOSTED = "Jobs are kept in the memory of one server process: its restart loses unfinished jobs."

OPENAI = Dialect(
    name="openai",
    encoding="multipart",
    auth="Bearer",
    refusals=MappingProxyType({400: "invalid", 401: "auth", 403: "auth", 422: "invalid"}),
    listing=True,
    picture_field="input_reference",
    throttles=True,
    cost_path=("usage", "cost"),  # as OpenRouter documents it; OpenAI's own server named none
)
VLLM_OMNI = Dialect(
    name="vllm_omni",
    encoding="multipart",
    auth="Bearer",
    refusals=MappingProxyType({400: "invalid", 401: "auth", 422: "invalid"}),
    seeded=True,
    avoids=True,
    listing=True,
    content_waits=True,
    failure_status=True,
    picture_field="input_reference",
    failed_billing="unbilled",
    moderated_billing="unbilled",
    notes=(
        _SELF_HOSTED,
        "Run one API server process: behind a balancer, a list shows only one of them.",
    ),
)
SGLANG = Dialect(
    name="sglang",
    encoding="json",  # its multipart form requires an input image
    auth="Bearer",
    refusals=MappingProxyType({400: "invalid", 401: "auth", 422: "invalid"}),
    seeded=True,
    avoids=True,
    listing=True,
    content_waits=True,
    failed_billing="unbilled",
    moderated_billing="unbilled",
    notes=(_SELF_HOSTED, "Its list shows no prompt: it can prove that our job is absent, not which is ours."),
)
INWORLD = Dialect(
    name="inworld",
    encoding="json",
    auth="Basic",
    refusals=MappingProxyType({400: "invalid", 401: "auth", 402: "funds", 403: "auth", 422: "invalid"}),
    framing="resolution",
    idempotency_header="Idempotency-Key",
    replay_for_s=3600.0,  # its pages name no lifetime of a key; one hour is less than any in common use
    result_path=("output", "videos", 0, "url"),
    failed_billing="unbilled",
    moderated_billing="unbilled",
    notes=("A result URL is valid for one hour; the video is kept for seven days.",),
)
LITELLM = Dialect(
    name="litellm",
    encoding="json",  # its form ignores `disable_fallbacks`
    auth="Bearer",
    gateway=LITELLM_GATEWAY,
    refusals=MappingProxyType({400: "invalid", 401: "auth", 402: "funds", 403: "auth", 422: "invalid"}),
    throttles=True,
    notes=(
        "LiteLLM cannot list jobs: an order whose answer is lost needs manual review.",
        "Jobs have LiteLLM's own ids; `resolve … paid` takes no other.",
        "Polls count toward its requests per minute.",
    ),
)
DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {d.name: d for d in (OPENAI, VLLM_OMNI, SGLANG, INWORLD, LITELLM)}
)


def encode(video_request: VideoRequest, dialect: Dialect) -> tuple[bytes, str]:
    """Return the body of the POST and its content type; the same request always gives the same bytes."""
    fields: dict[str, Any] = {
        "model": video_request.model,
        "prompt": video_request.prompt,
        "seconds": video_request.seconds,
    }
    fields |= (
        resolution_fields(video_request.size)
        if dialect.framing == "resolution"
        else {"size": video_request.size}
    )
    if dialect.seeded:
        fields["seed"] = video_request.seed
    if dialect.avoids and video_request.avoid:
        fields["negative_prompt"] = video_request.avoid
    if dialect.gateway == LITELLM_GATEWAY:
        # Whatever its operator configured: one POST, to one provider. A header of ours is not handed on.
        fields |= {"num_retries": 0, "disable_fallbacks": True}
        fields["extra_headers"] = {"Idempotency-Key": video_request.key}
    if dialect.encoding == "json":
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace"), "application/json"
    return _multipart(video_request.key, fields, _picture_part(video_request, dialect))


def _picture_part(video_request: VideoRequest, dialect: Dialect) -> list[bytes]:
    if video_request.picture is None or not dialect.picture_field:
        return []
    head = (
        f'Content-Disposition: form-data; name="{dialect.picture_field}"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    return [head.encode() + fit_picture(video_request.picture, video_request.size) + b"\r\n"]


def _multipart(key: str, fields: Mapping[str, Any], files: list[bytes]) -> tuple[bytes, str]:
    """Encode a form with a boundary derived from key and content, which cannot occur in the content.

    The author of the prompt could predict a boundary derived from the key alone, and add fields to the form.
    """
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode("utf-8", "replace")
        for name, value in fields.items()
    ] + files
    boundary = hashlib.sha256(b"\0".join([key.encode(), *parts])).hexdigest()[:32]
    line = f"--{boundary}".encode()
    body = b"".join(line + b"\r\n" + part for part in parts) + line + b"--\r\n"
    return body, f"multipart/form-data; boundary={boundary}"


def resolution_fields(size: str) -> dict[str, str]:
    """Return resolution and aspect ratio of a size: `720x1280` is 720p and 9:16."""
    width, height = (int(side) for side in size.split("x"))
    divisor = math.gcd(width, height)
    return {
        "resolution": f"{min(width, height)}p",
        "aspect_ratio": f"{width // divisor}:{height // divisor}",
    }
