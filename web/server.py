"""aiohttp server: /healthz, /readyz, /metrics, the admin routes, and the webhook if the bot mounts it."""

import asyncio
import hmac
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from telemetry.metrics import CONTENT_TYPE
from web.admin import add_admin
from web.admin_context import Admin

HealthCheck = Callable[[], Awaitable[None]]
"""Raises if a component is unavailable, or for liveness if it is stuck."""

Counts = Callable[[], Awaitable[Mapping[str, int]]]
"""Returns numbers that readiness shows and does not depend on."""

MetricsReader = Callable[[], Awaitable[bytes]]
"""Returns the exposition text of this process."""

HttpHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CHECK_S: Final = 2.0
_SHUTDOWN_S: Final = 2.0
"""For requests in flight when the server stops."""
_MAX_BODY: Final = 1 << 20
_BODY_S: Final = 10.0
"""How long the body of a request may take to arrive."""
_IDLE_S: Final = 65.0
"""How long a connection may take to send a request's headers, and stay open between two requests.

Longer than the 60 s for which load balancers keep one: they would send a request into a closed one.
"""
_METRICS_S: Final = 5.0
"""For how long one reading answers /metrics: a scrape asks every store, and anyone may repeat it."""


@dataclass(frozen=True)
class Metrics:
    """The route /metrics.

    Attributes:
        read: Returns the text.
        token: Every reader must send it as `Authorization: Bearer TOKEN`; None lets everyone read.
        closed: Why nobody may read, in a sentence for who asks; None if it is open.
    """

    read: MetricsReader
    token: str | None = field(default=None, repr=False)
    closed: str | None = None


class WebError(Exception):
    """The HTTP server cannot start; the message names the address and why."""


def build_app(
    checks: Mapping[str, HealthCheck],
    mounts: Mapping[str, HttpHandler],
    metrics: Metrics | None = None,
    admin: Admin | None = None,
    alive: Mapping[str, HealthCheck] | None = None,
    counts: Counts | None = None,
) -> web.Application:
    """Return the application.

    Args:
        checks: What must work before this process gets traffic, by name.
        mounts: POST handlers by path.
        metrics: The route /metrics; None for no such route.
        admin: Admin page and API; None for neither.
        alive: Whose failure only a restart mends, by name. They return at once.
        counts: What /readyz shows besides: it says nothing about this process.
    """

    async def healthz(_: web.Request) -> web.Response:
        stuck = [name for name, check in (alive or {}).items() if not await _is_ready(check)]
        if stuck:
            return web.json_response({"alive": False, "stuck": stuck}, status=503)
        return web.json_response({"alive": True})

    async def readyz(_: web.Request) -> web.Response:
        results, shown = await asyncio.gather(
            asyncio.gather(*map(_is_ready, checks.values())), _read_counts(counts)
        )
        found = dict(zip(checks, results, strict=True))
        status = 200 if all(found.values()) else 503
        return web.json_response({**found, **shown}, status=status)

    app = web.Application(client_max_size=_MAX_BODY, middlewares=[_read_body_in_time])
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    if metrics is not None:
        app.router.add_get("/metrics", _metrics_handler(metrics))
    if admin is not None:
        add_admin(app, admin)
    for path, handler in mounts.items():
        app.router.add_post(path, handler)
    return app


@web.middleware
async def _read_body_in_time(request: web.Request, handler: HttpHandler) -> web.StreamResponse:
    """Read the whole body before the handler runs, or answer 408: a slow sender must not hold a handler."""
    if request.can_read_body:
        if request.content_type.startswith("multipart/"):
            raise web.HTTPUnsupportedMediaType(text="Send a form as application/x-www-form-urlencoded.\n")
        try:
            async with asyncio.timeout(_BODY_S):
                await request.read()
        except TimeoutError:
            raise web.HTTPRequestTimeout(text=f"The body took longer than {_BODY_S:.0f} s.\n") from None
    return await handler(request)


def _metrics_handler(metrics: Metrics) -> HttpHandler:
    """Return a handler that reads once for all who ask at the same time or within `_METRICS_S`."""
    lock = asyncio.Lock()
    text, read_at = b"", float("-inf")

    async def show(request: web.Request) -> web.Response:
        nonlocal text, read_at
        if metrics.closed is not None:
            raise web.HTTPForbidden(text=f"{metrics.closed}\n")
        if metrics.token is not None and not _carries(request, metrics.token):
            raise web.HTTPUnauthorized(
                text="Send the header `Authorization: Bearer METRICS_TOKEN`.\n",
                headers={"WWW-Authenticate": 'Bearer realm="onetake metrics"'},
            )
        async with lock:
            if time.monotonic() - read_at >= _METRICS_S:
                text, read_at = await metrics.read(), time.monotonic()
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    return show


def _carries(request: web.Request, token: str) -> bool:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(
        given.strip().encode("utf-8", "replace"), token.encode()
    )


async def _is_ready(check: HealthCheck) -> bool:
    try:
        async with asyncio.timeout(_CHECK_S):
            await check()
    except Exception:  # noqa: BLE001 - whatever it raises, the component is not ready
        return False
    return True


async def _read_counts(counts: Counts | None) -> Mapping[str, int]:
    if counts is None:
        return {}
    try:
        async with asyncio.timeout(_CHECK_S):
            return await counts()
    except Exception:  # noqa: BLE001 - what cannot be read is not shown
        return {}


@asynccontextmanager
async def serve(app: web.Application, host: str, port: int) -> AsyncIterator[str]:
    """Serve `app` while the block runs; yield its base URL.

    Raises:
        WebError: The address cannot be used.
    """
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_S, keepalive_timeout=_IDLE_S)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise WebError(f"HTTP_PORT {port} on {host} cannot be used: {error.strerror}") from error
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
