"""What the doctor sees of how a process would stand: who may spend, what is shared, what is seen of it."""

import socket
from dataclasses import dataclass
from typing import Literal

from aiohttp import ClientError, ClientSession, ClientTimeout

from app.settings import Settings
from telemetry.redaction import redact
from telemetry.setup import findings

Health = Literal["well", "look", "ill"]


@dataclass(frozen=True)
class Finding:
    """What was found about one part. `ill` means that the bot would not run, or not safely."""

    part: str
    health: Health
    words: str


async def people(settings: Settings) -> Finding:
    """With a provider that is paid, whoever is not named may spend, or is not told."""
    if settings.video_provider == "local":
        return Finding("people", "well", "rehearsal dollars: anybody may use the bot")
    if not settings.allowed_users:
        return Finding("people", "look", "ALLOWED_USERS is empty: everybody on Telegram may spend your money")
    if not settings.admins:
        return Finding(
            "people", "look", "ADMINS is empty: nobody is told about what only a person can settle"
        )
    return Finding(
        "people", "well", f"{len(settings.allowed_users)} may spend, {len(settings.admins)} are told"
    )


async def workers(settings: Settings) -> Finding:
    """Workers of their own need the queue, the ledger and the media folder of the bot."""
    apart = settings.worker == "apart"
    if not apart and settings.redis_url is None:
        return Finding("workers", "well", "inside, in one process")
    if lacks := lacking(settings):
        words = f"a worker apart needs {lacks}; it would open a queue or a ledger of its own"
        return Finding("workers", "ill" if apart else "look", words)
    if settings.media_dir is None:
        words = f"MEDIA_DIR is not set: workers on other machines do not see {settings.media}; share one"
        return Finding("workers", "look", words)
    return Finding("workers", "well", f"share queue, ledger and {settings.media}; see that it is one folder")


def lacking(settings: Settings) -> str:
    """Name what processes that stand apart would not share; nothing if they may."""
    names = {"REDIS_URL": settings.redis_url, "DATABASE_URL": settings.database_url}
    return " and ".join(name for name, value in names.items() if value is None)


async def tracing(settings: Settings) -> Finding:
    """Each switch that would lose traces, then whether anybody is there to take them, and to show them."""
    outlet, jaeger = settings.outlet, settings.jaeger_url
    if wrong := findings(outlet):
        return Finding("tracing", "look", "; ".join(wrong))
    if outlet.url is None:
        words = "OTEL_EXPORTER_OTLP_ENDPOINT is not set: spans stay in their process; nothing is uploaded"
        return Finding("tracing", "well", words)
    # An empty export is a whole one: any answer means that somebody speaks HTTP there.
    if await _status("POST", outlet.url) is None:
        words = "OTEL_EXPORTER_OTLP_ENDPOINT does not answer: requests go on, their spans are lost"
        return Finding("tracing", "look", words)
    if jaeger is None:
        words = "the collector answers; set JAEGER_URL for links to traces, and for spans in `trace`"
        return Finding("tracing", "look", words)
    if await _status("GET", f"{jaeger.rstrip('/')}/api/services") != 200:
        words = "the collector answers; JAEGER_URL is not Jaeger from here, so `trace` shows no spans"
        return Finding("tracing", "look", words)
    return Finding("tracing", "well", f"the collector answers, and so does Jaeger at {redact(jaeger)}")


async def page(settings: Settings) -> Finding:
    """The operator's page exists only with its token, and is as private as the network before it."""
    if settings.admin_token is None:
        words = "ADMIN_TOKEN is not set: there is no page and no API of costs; `costs` prints the same"
        return Finding("page", "look", words)
    return Finding("page", "well", f"/admin at HTTP_PORT {settings.http_port}, opened by ADMIN_TOKEN")


async def port(settings: Settings) -> Finding:
    """HTTP_PORT is free, or a OneTake that runs already answers there."""
    host, number = settings.http_host, settings.http_port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, number), family=family):
            return Finding("port", "well", f"HTTP_PORT {number} is free")
    except OSError as error:
        if await _alive(host, number):
            return Finding("port", "well", f"a OneTake that runs has HTTP_PORT {number}")
        return Finding(
            "port", "ill", f"HTTP_PORT {number} on {host} is taken ({error.strerror}); set another"
        )


async def _alive(host: str, number: int) -> bool:
    name = f"[{host}]" if ":" in host else host
    return await _status("GET", f"http://{name}:{number}/healthz") == 200


async def _status(method: str, url: str) -> int | None:
    """Return how `url` answers; None if it does not."""
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=2)) as session,
            session.request(method, url, headers={"Content-Type": "application/x-protobuf"}) as answer,
        ):
            return answer.status
    except (ClientError, OSError, TimeoutError, ValueError):
        return None
