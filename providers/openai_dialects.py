"""How the servers that speak `/v1/videos` differ: one frozen record each, and the bytes that it makes.

Sources, read in November 2026: developers.openai.com/api/reference (videos), vllm-omni
`entrypoints/openai/api_server.py`, sglang `multimodal_gen/runtime/entrypoints/openai/video_api.py`,
docs.inworld.ai/api-reference/videoAPI and /router/video-generation. We have met none of them in person.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from providers.base import Billing, Phase, RejectedFor, VideoRequest

StatusWord = Phase | Literal["failed", "cancelled"]

POLICY_CODES = frozenset({"moderation_blocked", "content_policy_violation"})
FUNDS_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_STATUS_WORDS: Mapping[str, StatusWord] = MappingProxyType(
    {"queued": "queued", "in_progress": "running", "completed": "succeeded", "failed": "failed"}
)


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one server documents about the protocol. What it does not document is not relied on.

    Attributes:
        name: How settings call it.
        encoding: Of the body of the POST.
        auth: The scheme before the key.
        seeded: The POST takes a `seed`; a server that does not know the field may refuse it.
        framing: `size` as one field, or `resolution` (720p) and `aspect_ratio` (9:16).
        idempotency_header: Its name where the same key and bytes are documented never to charge twice.
        replay_for_s: How long after the POST a replay is trusted to meet the remembered key.
        listing: `GET /videos` exists.
        result_path: Where in the job the result URL stands; empty where `/content` serves the file.
        content_waits: `/content` answers 404 also while the job is still running.
        failure_status: A failed job answers GET with an HTTP error and the whole job as its body.
        throttles: A 429 with Retry-After is documented and costs nothing.
        refusals: Documented refusals of the POST that cost nothing, and what they mean.
        words: Status words; any other is `unknown`.
        failed_billing: Whether a failed job is billed.
        moderated_billing: Whether a job that moderation took away is billed.
        notes: For operators.
    """

    name: str
    encoding: Literal["multipart", "json"]
    auth: Literal["Bearer", "Basic"]
    refusals: Mapping[int, RejectedFor]
    seeded: bool = False
    framing: Literal["size", "resolution"] = "size"
    idempotency_header: str | None = None
    replay_for_s: float = 0.0
    listing: bool = False
    result_path: tuple[str | int, ...] = ()
    content_waits: bool = False
    failure_status: bool = False
    throttles: bool = False
    words: Mapping[str, StatusWord] = field(default_factory=lambda: _STATUS_WORDS)
    failed_billing: Billing = "unknown"
    moderated_billing: Billing = "unknown"
    notes: tuple[str, ...] = ()


_SELF_HOSTED = "Jobs live in the memory of one server process: after its restart an unfinished job is gone."

OPENAI = Dialect(
    name="openai",
    encoding="multipart",
    auth="Bearer",
    refusals=MappingProxyType({400: "invalid", 401: "auth", 403: "auth", 422: "invalid"}),
    listing=True,
    throttles=True,
)
VLLM_OMNI = Dialect(
    name="vllm_omni",
    encoding="multipart",
    auth="Bearer",
    refusals=MappingProxyType({400: "invalid", 401: "auth", 422: "invalid"}),
    seeded=True,
    listing=True,
    content_waits=True,
    failure_status=True,
    failed_billing="unbilled",
    moderated_billing="unbilled",
    notes=(_SELF_HOSTED, "Run one API server process: a list behind a balancer shows only one of them."),
)
SGLANG = Dialect(
    name="sglang",
    encoding="json",  # its multipart form insists on an input image
    auth="Bearer",
    refusals=MappingProxyType({400: "invalid", 401: "auth", 422: "invalid"}),
    seeded=True,
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
    replay_for_s=3600.0,  # the pages we read name no lifetime of a key; an hour is less than any in use
    result_path=("output", "videos", 0, "url"),
    words=MappingProxyType({**_STATUS_WORDS, "cancelled": "cancelled"}),
    failed_billing="unbilled",
    moderated_billing="unbilled",
    notes=("A result URL lives an hour and the video seven days.",),
)
DIALECTS: Mapping[str, Dialect] = MappingProxyType({d.name: d for d in (OPENAI, VLLM_OMNI, SGLANG, INWORLD)})


def encode(video_request: VideoRequest, dialect: Dialect) -> tuple[bytes, str]:
    """Return the body of the POST and its content type; the same take always makes the same bytes."""
    fields: dict[str, str | int] = {
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
    if dialect.encoding == "json":
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace"), "application/json"
    return _multipart(video_request.key, fields)


def _multipart(key: str, fields: Mapping[str, str | int]) -> tuple[bytes, str]:
    """A boundary out of the key alone could be foretold by the author of the prompt, who could then add
    fields to the form; out of key and content together it cannot stand in the content.
    """
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode("utf-8", "replace")
        for name, value in fields.items()
    ]
    boundary = hashlib.sha256(b"\0".join([key.encode(), *parts])).hexdigest()[:32]
    line = f"--{boundary}".encode()
    body = b"".join(line + b"\r\n" + part for part in parts) + line + b"--\r\n"
    return body, f"multipart/form-data; boundary={boundary}"


def resolution_fields(size: str) -> dict[str, str]:
    """`720x1280` is the resolution 720p in the aspect ratio 9:16."""
    width, height = (int(side) for side in size.split("x"))
    divisor = math.gcd(width, height)
    return {
        "resolution": f"{min(width, height)}p",
        "aspect_ratio": f"{width // divisor}:{height // divisor}",
    }
