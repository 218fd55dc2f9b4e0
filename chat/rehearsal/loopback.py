"""Only this machine may talk to the rehearsal, and only its own page may tell it to do something."""

import ipaddress
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler

from chat.rehearsal.errors import RehearsalError

# `default-src 'self'`: nothing is fetched from elsewhere, and no script that a message smuggled in runs.
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
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


def insist_on_loopback(host: str) -> None:
    """Refuse to listen where anybody else could reach us: the local Bot API believes whoever asks.

    Raises:
        RehearsalError: `host` is no loopback address.
    """
    if not is_loopback(host):
        raise RehearsalError(
            f"the rehearsal listens on loopback only, not on {host!r}; use 127.0.0.1, ::1 or localhost"
        )


@web.middleware
async def only_from_here(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse names that merely resolve to us (DNS rebinding) and pages of other origins (CSRF)."""
    if not is_loopback(urlsplit(f"//{request.host}").hostname or ""):
        raise web.HTTPForbidden(
            text=f"The rehearsal answers to loopback names only, not to {request.host}.\n"
        )
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.host:
        raise web.HTTPForbidden(text="The rehearsal answers its own page only.\n")
    return await handler(request)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set on every answer, streams included."""
    if request.path.startswith("/chat"):
        response.headers.update(HEADERS)
