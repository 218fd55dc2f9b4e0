"""HTTP for adapters: a POST that is sent once, and free requests that may be repeated.

The POST uses httpx2 and not the openai SDK, which draws a random multipart boundary (a replay would differ),
retries by default and follows a 307. Here exactly the caller's bytes are sent.
"""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
import stamina
from pydantic import SecretStr

from providers.base import (
    AccessRefused,
    InDoubt,
    KeyRefused,
    NotSent,
    SeenDate,
    Transient,
    mark_not_sent,
)
from providers.gateways import find_gateway
from telemetry.clocks import boot_clock
from telemetry.redaction import HIDDEN, redact

# Both log whole URLs at INFO, and a result URL gives access to the video: silent even without `setup_logs`.
for _chatty in ("httpx2", "httpcore2"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)

PROBE_S = 5.0
"""Time of the free question whether orders can be placed."""

MAX_REDIRECTS = 5
"""Of one download. A store behind a content network behind an API takes two."""
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_ANSWER_BYTES = 1_000_000  # a status answer is hundreds of bytes; more is not an answer
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
# Raised before a byte of a request is written. Not LocalProtocolError: h11 may raise it halfway.
_BEFORE_THE_FIRST_BYTE = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.UnsupportedProtocol,
)
_NO_WHOLE_ANSWER = (httpx2.HTTPError, httpx2.StreamError, OSError, ValueError)


@dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """A complete answer: every announced byte has arrived. It has no repr, because it may hold secrets."""

    status: int
    headers: httpx2.Headers
    body: bytes

    def json(self) -> dict[str, Any] | None:
        """Return the JSON object in the body; None if it holds none."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return found if isinstance(found, dict) else None


def is_final(reply: Reply) -> bool:
    """Return whether a retry could not help: 5xx, 408, 425 and 429 are temporary."""
    return reply.status < 500 and reply.status not in (408, 425, 429)


def dig(data: object, path: tuple[str | int, ...]) -> object:
    """Return the value at `path` in nested objects and arrays; None if there is none."""
    for step in path:
        try:
            data = data[step]  # type: ignore[index]  # a value that is no container raises, which is caught
        except (KeyError, IndexError, TypeError):
            return None
    return data


class _Sending:
    """Follows one request by httpcore2's trace events, as far as its first byte."""

    def __init__(self) -> None:
        self._connecting = self._sent = False

    async def trace(self, name: str, _: Mapping[str, Any]) -> None:
        self._sent = self._sent or "send_request" in name or "receive" in name
        self._connecting = self._connecting or name.startswith("connection.")

    @property
    def proves_unsent(self) -> bool:
        """Whether it was seen to connect and not to send. A transport without such events proves nothing."""
        return self._connecting and not self._sent


class HttpClient:
    """The connections to one host: one client for the paid POST, one for everything that is free.

    Args:
        base_url: Where the API begins, `https://host/v1`; every `path` below is appended to it.
        authorization: The whole header; it is sent to the host of `base_url` and to no other.
        secrets: Texts that never appear in an error, in addition to what `telemetry.redaction` knows.
        get_timeout_s: Total time of one free request.

    Attributes:
        gateway: The gateway whose marks were on any answer so far; empty if there were none.
    """

    def __init__(
        self, base_url: str, authorization: str, secrets: tuple[str, ...], get_timeout_s: float = 15.0
    ) -> None:
        self._base = httpx2.URL(base_url.rstrip("/"))
        self._authorization = SecretStr(authorization)
        self._secrets = tuple(SecretStr(secret) for secret in secrets if secret)
        self._get_timeout_s = get_timeout_s
        self._once = _client(httpx2.Limits(max_keepalive_connections=0))
        self._free = _client(httpx2.Limits(max_connections=100, max_keepalive_connections=20))
        self.gateway = ""
        self.date: SeenDate | None = None

    async def post_once(
        self,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        total_s: float,
        most_bytes: int = MAX_ANSWER_BYTES,
    ) -> Reply:
        """Send one POST and wait for the complete answer, at most `total_s` seconds and `most_bytes` long.

        Raises:
            NotSent: The connection was never made.
            InDoubt: Any other error.
        """
        if total_s <= 0:
            raise NotSent(f"POST {path}: its time was over before it began")
        # A hanging connection ends as ConnectTimeout, which is proof; the total deadline proves nothing.
        timeout = httpx2.Timeout(total_s, connect=min(10.0, total_s * 0.8))
        sending = _Sending()
        try:
            async with asyncio.timeout(total_s):
                everything = {**self._authorized(), **headers}
                return await self._ask(
                    self._once, "POST", self._at(path), timeout, body, everything, sending, most_bytes
                )
        except _BEFORE_THE_FIRST_BYTE as error:
            raise NotSent(f"POST {path}: no connection ({type(error).__name__})") from None
        except TimeoutError:
            if sending.proves_unsent:
                raise NotSent(f"POST {path}: no connection within {total_s:g} s") from None
            raise InDoubt(f"POST {path}: no whole answer within {total_s:g} s") from None
        except asyncio.CancelledError as error:
            if sending.proves_unsent:
                mark_not_sent(error)
            raise
        except Exception as error:  # noqa: BLE001 - no other error proves that nothing was sent
            raise InDoubt(f"POST {path}: the answer was lost ({type(error).__name__})") from None

    async def get(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        enough: Callable[[Reply], bool] = is_final,
        attempts: int = 3,
    ) -> Reply:
        """Send a GET until `enough(reply)`, at most `attempts` times with growing pauses.

        Redirects are followed as in `download`.

        Raises:
            Transient: No such answer came.
            AccessRefused: See `download`.
        """
        url = self._at(path).copy_merge_params(params or {})
        async for attempt in stamina.retry_context(
            Transient, attempts=attempts, wait_initial=0.2, wait_max=2
        ):
            with attempt:
                reply = await self._free_once(url, path)
                if not enough(reply):
                    raise Transient(f"GET {path} answered {reply.status}")
        return reply

    async def probe(self, path: str, params: Mapping[str, str], timeout_s: float) -> Reply:
        """Send one GET with the key, once: whether the server answers, and what its headers say of it.

        Raises:
            KeyRefused: 401 or 403.
            Transient: No complete answer came, or one that a retry could change.
        """
        reply = await self._free_once(self._at(path).copy_merge_params(params), path, timeout_s)
        if reply.status in (401, 403):
            raise KeyRefused(f"VIDEO_API_KEY is not accepted there: GET {path} was answered {reply.status}")
        if not is_final(reply):
            raise Transient(f"GET {path} was answered {reply.status}")
        return reply

    @contextlib.asynccontextmanager
    async def download(self, address: str, total_s: float) -> AsyncIterator[httpx2.Response]:
        """Open a path of the API or a whole URL for streaming, and follow its redirects.

        Another host never gets the key, and no host gets it after a redirect to another one.

        Raises:
            Transient: The download did not begin, or broke off while it was read.
            AccessRefused: A redirect leads from https to another scheme, to no address, or in a circle.
        """
        url = self._base.join(address) if "://" in address else self._at(address)
        try:
            async with asyncio.timeout(total_s), contextlib.AsyncExitStack() as stack:
                yield await self._follow(stack, url, httpx2.Timeout(30.0))
        except (httpx2.HTTPError, httpx2.InvalidURL, httpx2.StreamError, OSError) as error:
            raise Transient(f"the download broke off ({type(error).__name__})") from None

    async def _follow(
        self, stack: contextlib.AsyncExitStack, url: httpx2.URL, timeout: httpx2.Timeout
    ) -> httpx2.Response:
        """Return the first answer that is no redirect; it is closed with `stack`.

        Raises:
            AccessRefused: See `download`.
        """
        trusted = True
        for _ in range(MAX_REDIRECTS + 1):
            trusted = trusted and self._same_host(url)
            headers = self._authorized() if trusted else {}
            request = self._free.stream("GET", url, headers=headers, timeout=timeout)
            response = await stack.enter_async_context(request)
            if trusted:
                self._notice(response.headers)
            if response.status_code not in _REDIRECTS:
                return response
            url = _redirected(url, response.headers.get("location", ""))
            await response.aclose()
        raise AccessRefused(f"the question was redirected more than {MAX_REDIRECTS} times")

    def own_path(self, url: str) -> str:
        """Return the path of a URL below `base_url`, with its query; empty if it leads anywhere else."""
        try:
            found = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError):
            return ""
        base, path = self._base.path.rstrip("/"), found.raw_path.decode()
        if not self._same_host(found) or found.userinfo or not path.startswith(f"{base}/"):
            return ""
        return path.removeprefix(base)

    def scrub(self, text: str) -> str:
        """Make text of a provider fit for a log: one short line, no secret, no URL, no control character."""
        for secret in self._secrets:
            text = text.replace(secret.get_secret_value(), HIDDEN)
        line = "".join(c if c.isprintable() else " " for c in redact(_URL.sub("<url>", text)))
        return " ".join(line.split())[:160]

    async def close(self) -> None:
        """Close both clients."""
        await self._once.aclose()
        await self._free.aclose()

    async def _free_once(self, url: httpx2.URL, path: str, total_s: float | None = None) -> Reply:
        total_s = total_s or self._get_timeout_s
        try:
            async with asyncio.timeout(total_s), contextlib.AsyncExitStack() as stack:
                return await _read_whole(await self._follow(stack, url, httpx2.Timeout(total_s)))
        except _NO_WHOLE_ANSWER as error:
            raise Transient(f"GET {path}: no whole answer ({type(error).__name__})") from None

    async def _ask(
        self,
        client: httpx2.AsyncClient,
        method: str,
        url: httpx2.URL,
        timeout: httpx2.Timeout,
        body: bytes,
        headers: Mapping[str, str],
        sending: "_Sending | None" = None,
        most_bytes: int = MAX_ANSWER_BYTES,
    ) -> Reply:
        extensions = None if sending is None else {"trace": sending.trace}
        async with client.stream(
            method, url, content=body or None, headers=headers, timeout=timeout, extensions=extensions
        ) as got:
            self._notice(got.headers)
            return await _read_whole(got, most_bytes)

    def _at(self, path: str) -> httpx2.URL:
        return self._base.copy_with(raw_path=f"{self._base.path.rstrip('/')}{path}".encode())

    def _authorized(self) -> dict[str, str]:
        value = self._authorization.get_secret_value()
        return {"Authorization": value} if value else {}

    def _same_host(self, url: httpx2.URL) -> bool:
        ours = self._base
        return (url.scheme, url.host, url.port) == (ours.scheme, ours.host, ours.port)

    def _notice(self, headers: httpx2.Headers) -> None:
        """Take from an answer of the API what it says of the server: a gateway's marks, and its time."""
        self.gateway = self.gateway or find_gateway(headers)
        self.date = _date_of(headers) or self.date


def _date_of(headers: httpx2.Headers) -> SeenDate | None:
    """Return the time that an answer names; None if it names none, or comes from a cache."""
    if "age" in headers:
        return None
    try:
        named = parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return SeenDate(named.timestamp(), boot_clock()) if named.tzinfo is not None else None


async def _read_whole(got: httpx2.Response, most_bytes: int = MAX_ANSWER_BYTES) -> Reply:
    whole = bytearray()
    async for chunk in got.aiter_bytes():
        whole += chunk
        if len(whole) > most_bytes:
            raise ValueError("an answer without end")
    return Reply(got.status_code, got.headers, bytes(whole))


def _redirected(url: httpx2.URL, location: str) -> httpx2.URL:
    """Return where a redirect leads; relative ones start from `url`.

    Raises:
        AccessRefused: To no web address, or from https to plain http. The text names no URL: it is a key.
    """
    if not location:
        raise AccessRefused("the question was redirected without an address")
    try:
        found = url.join(location)
    except httpx2.InvalidURL:
        raise AccessRefused("the question was redirected to what is no web address") from None
    if found.scheme not in ("http", "https") or not found.host:
        raise AccessRefused("the question was redirected to what is no web address")
    if url.scheme == "https" and found.scheme != "https":
        raise AccessRefused("the question was redirected from https to http")
    return found


def _client(limits: httpx2.Limits) -> httpx2.AsyncClient:
    """Build a client that follows no redirect by itself.

    It takes no proxies or certificates from the environment, and sends only the headers chosen here:
    no trace ids.
    """
    return httpx2.AsyncClient(
        follow_redirects=False,
        trust_env=False,
        limits=limits,
        headers={"User-Agent": "onetake", "Accept-Encoding": "identity"},
    )
