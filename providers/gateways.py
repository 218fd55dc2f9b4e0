"""Gateways in front of a provider: how they are noticed, and how often they admit to have sent an order.

A gateway may send a paid POST again by itself, to the same provider or to another one. Every name below was
read in its documentation in November 2026; of LiteLLM 1.108.7 also in its answers (`make gateway-test`).
docs/providers.md says what each may repeat.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

LITELLM: Final = "LiteLLM"

MARKS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "x-litellm-": LITELLM,
        "x-portkey-": "Portkey",
        "helicone-": "Helicone",
        "cf-aig-": "Cloudflare AI Gateway",
        "ngrok-aig-": "ngrok AI Gateway",
    }
)
"""The beginning of a gateway's own response headers, in lower case, and its name."""

_MORE_SENDS: Final = (
    # (header, what one send counts as there): those count further sends, and ngrok counts all.
    ("x-litellm-attempted-retries", 0),
    ("x-litellm-attempted-fallbacks", 0),
    ("x-portkey-retry-attempt-count", 0),
    ("ngrok-aig-attempts", 1),
)
_COUNT: Final = re.compile(r"\d{1,2}", re.ASCII)


def find_gateway(headers: Mapping[str, str]) -> str:
    """Return the name of the gateway whose marks are in these headers; empty if there are none."""
    names = [name.lower() for name in headers]
    return next((gateway for mark, gateway in MARKS.items() if any(n.startswith(mark) for n in names)), "")


def count_sends(headers: Mapping[str, str]) -> int:
    """Return how often the order of this answer was sent to providers, as far as a gateway admits it."""
    more = 0
    for name, one in _MORE_SENDS:
        value = headers.get(name, "")
        more += max(0, int(value) - one) if _COUNT.fullmatch(value) else 0
    return 1 + more


def refusal(gateway: str) -> str:
    """Return why nothing is ordered through this gateway, and what to do."""
    cure = (
        "set VIDEO_DIALECT=litellm, which forbids that"
        if gateway == LITELLM
        else (
            "go to the provider itself, or switch its retries and fallbacks off and state so with "
            "VIDEO_PROXY_RETRIES_OFF"
        )
    )
    return (
        f"{gateway} is in front of the provider: it may send the paid POST again by itself, so one order "
        f"could be charged several times; {cure}"
    )


# What LiteLLM says of itself

_UPSTREAM_CODE: Final = re.compile(r'\\*"code\\*"\s*:\s*\\*"([a-z_]{1,60})\\*"')
_OWN_THROTTLE: Final = re.compile(
    r"(litellm\.RateLimitError: )?(Model rate limit exceeded|Rate limit exceeded for|"
    r"Max parallel request limit reached|No deployments available for selected model)"
)
_TRY_AGAIN: Final = re.compile(r"Try again in (\d{1,5}(?:\.\d{1,3})?) seconds")
_OWN_PAUSE_S: Final = "60"
_OWN_CODES: Final = frozenset({"no_db_connection", "auth_error", "budget_exceeded"})


def litellm_code(error: Mapping[str, object]) -> str:
    """Return the provider's own error code from LiteLLM's error, or LiteLLM's own type of it.

    Its `code` is the HTTP status; the provider's whole answer is a text inside of `message`.
    """
    kind = str(error.get("type") or "")
    if kind in _OWN_CODES:
        return kind
    message = str(error.get("message") or "")
    if message.startswith("litellm.ContentPolicyViolationError"):
        return "content_policy_violation"
    found = _UPSTREAM_CODE.search(message)
    return found[1] if found else str(error.get("code") or kind)


def litellm_pause(headers: Mapping[str, str], error: Mapping[str, object]) -> str:
    """Return the seconds after which a 429 may be tried again; empty if nothing names them.

    The provider's Retry-After comes under another name. A limit of LiteLLM's own is refused before anything
    is sent; where it names no time, a minute is waited, which is the window of its limits.
    """
    named = headers.get("retry-after", "") or headers.get("llm_provider-retry-after", "")
    message = str(error.get("message") or "")
    if named or not _OWN_THROTTLE.match(message):
        return named
    again = _TRY_AGAIN.search(message)
    return again[1] if again else _OWN_PAUSE_S


def is_litellm_id(job_id: str) -> bool:
    """Return whether a job id is one that LiteLLM made: `video_` and its own text in Base64.

    It sends a question about any other id to a default host.
    """
    encoded = job_id.removeprefix("video_")
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (ValueError, binascii.Error):
        return False
    return job_id != encoded and text.startswith(b"litellm:")
