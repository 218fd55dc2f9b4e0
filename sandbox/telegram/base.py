"""What all modules share: errors, the loopback-only check, the scaled clock, a wake-up signal."""

import asyncio
import ipaddress
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler


class SandboxError(Exception):
    """The sandbox cannot do what was requested; the message says why and what to do instead."""


class ApiError(SandboxError):
    """A refusal that the bot receives: HTTP status, Telegram's own description, extra parameters."""

    def __init__(self, code: int, description: str, parameters: dict[str, Any] | None = None) -> None:
        super().__init__(description)
        self.code = code
        self.description = description
        self.parameters = parameters


def bad_request(reason: str) -> ApiError:
    return ApiError(400, f"Bad Request: {reason}")


def forbidden(reason: str) -> ApiError:
    return ApiError(403, f"Forbidden: {reason}")


def conflict(reason: str) -> ApiError:
    return ApiError(409, f"Conflict: {reason}")


# `default-src 'self'`: nothing is fetched from elsewhere, and no script that a message smuggled in runs. The
# page frames itself where it shows two people.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'self'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_loopback(host: str) -> None:
    """Refuse to listen on a reachable address: the local Bot API trusts every caller.

    Raises:
        SandboxError: `host` is not a loopback address.
    """
    if not is_loopback(host):
        raise SandboxError(
            f"the sandbox listens on loopback only, not on {host!r}; use 127.0.0.1, ::1 or localhost"
        )


@web.middleware
async def loopback_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse foreign host names (DNS rebinding) and pages of other origins (CSRF)."""
    if not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        raise web.HTTPForbidden(text=f"The sandbox answers to loopback names only, not to {request.host}.\n")
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise web.HTTPForbidden(text="The sandbox answers its own page only.\n")
    return await handler(request)


async def add_security_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers on every page response, streams included."""
    if request.path.startswith("/chat"):
        response.headers.update(SECURITY_HEADERS)


@dataclass(frozen=True)
class Clock:
    """Converts Telegram's waits and limits to seconds of this machine.

    Attributes:
        scale: How many Telegram seconds pass in one second here; 1 is real time.
        min_time_limit: The least time in seconds that the bot gets for its own work, whatever the scale: a
            fast clock must not cause a redelivery on a slow machine.
    """

    scale: float = 1.0
    min_time_limit: float = 10.0

    def now(self) -> float:
        """Return the Unix time; dates in messages are never scaled."""
        return time.time()

    def wait(self, seconds: float) -> float:
        """Return how long one of Telegram's waits takes here."""
        return seconds / self.scale

    def time_limit(self, seconds: float) -> float:
        """Return the bot's time limit here where Telegram's is `seconds`."""
        return max(seconds / self.scale, min(seconds, self.min_time_limit))


class Bell:
    """Wakes all who wait at that moment; a ring is not kept for later waiters."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        rung, self._event = self._event, asyncio.Event()
        rung.set()

    def next(self) -> asyncio.Event:
        """Return the next ring. Get it before checking the condition, so that no ring is missed."""
        return self._event

    async def heard(self, timeout: float | None = None) -> bool:
        """Wait for the next ring; False when `timeout` seconds passed without one."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return False
        return True
