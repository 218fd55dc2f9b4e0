"""A ready `verify`: asks an HTTP API by the idempotency key what became of a call."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Mapping
from http.client import HTTPResponse
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from .outcomes import CannotSay, DidNotHappen, Verdict

MAX_BYTES: Final = 4_000_000
_OK: Final = 200


class _NoRedirect(HTTPRedirectHandler):
    """A redirect is no answer: it would be given the credentials."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Return nothing, so that the redirect is an error."""


def http_lookup(
    url: str, *, read: Callable[[Any], Verdict], headers: Mapping[str, str] | None = None,
    absent: Collection[int] = (404,), timeout_s: float = 5.0,
) -> Callable[[str, Any], Awaitable[Verdict]]:  # fmt: skip
    """Return a `verify` that reads `url`, in which `{key}` stands for the call's idempotency key.

    Args:
        url: As `https://pay.example/refunds?idempotency_key={key}`.
        read: Gets the JSON of an answer with status 200, and says what it means. An empty list of a provider
            that lists late is `CannotSay`.
        headers: With the credentials; they are sent to this URL alone, no redirect is followed.
        absent: Status codes that prove that there is no effect. Empty where a 404 proves nothing.
        timeout_s: For connecting, and for each read.

    Raises:
        ValueError: The URL is not one of HTTP, or has no `{key}`.
    """
    if urlsplit(url).scheme not in ("http", "https") or "{key}" not in url:
        raise ValueError("the URL of a look-up is one of http(s) and contains {key}")
    opener = build_opener(_NoRedirect)

    def ask(key: str) -> Verdict:
        asked = url.replace("{key}", quote(key, safe=""))
        request = Request(asked, headers=dict(headers or {}))  # noqa: S310 - its scheme is checked
        try:
            answer: HTTPResponse
            with opener.open(request, timeout=timeout_s) as answer:
                text = answer.read(MAX_BYTES + 1)
                status = answer.status
        except HTTPError as error:
            with error:
                return DidNotHappen() if error.code in absent else CannotSay(f"status {error.code}")
        if status != _OK or len(text) > MAX_BYTES:
            return CannotSay(f"status {status}, {len(text)} bytes")
        return read(json.loads(text))

    async def verify(key: str, arguments: Any) -> Verdict:
        del arguments
        return await asyncio.to_thread(ask, key)

    return verify
