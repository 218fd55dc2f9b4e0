"""Preflight checks and their findings."""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Literal

from aiohttp import ClientError, ClientSession, ClientTimeout
from redis.exceptions import RedisError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.application import choose_provider
from app.embedded_redis import embedded_valkey, private_folder
from app.lazy_aiogram import (
    AiohttpSession,
    Bot,
    TelegramAPIServer,
    TelegramNetworkError,
    TelegramUnauthorizedError,
    TokenValidationError,
)
from app.settings import LOCAL, Settings
from chat.i18n import check_locales
from guardrails.redis_client import connect
from ledger import database, history
from ledger.database import Ledger
from telemetry.exporter import config_warnings
from telemetry.redaction import redact
from tools.agent_factory import load_declarations
from tools.agent_spec import declarations_folder

Health = Literal["well", "look", "ill"]


@dataclass(frozen=True)
class Finding:
    """What was found about one part. `ill` means that the bot would not run, or not safely."""

    part: str
    health: Health
    words: str


async def check_access(settings: Settings) -> Finding:
    """With a provider that is paid, whoever is not named may spend, or is not told."""
    if settings.video_provider == LOCAL:
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


async def check_workers(settings: Settings) -> Finding:
    """Workers of their own need the queue, the ledger and the media folder of the bot."""
    apart = settings.worker == "apart"
    if not apart and settings.redis_url is None:
        return Finding("workers", "well", "inside, in one process")
    if lacks := missing_shared_stores(settings):
        words = f"a worker apart needs {lacks}; it would open a queue or a ledger of its own"
        return Finding("workers", "ill" if apart else "look", words)
    if settings.media_dir is None:
        words = f"MEDIA_DIR is not set: workers on other machines do not see {settings.media}; share one"
        return Finding("workers", "look", words)
    return Finding("workers", "well", f"share queue, ledger and {settings.media}; see that it is one folder")


def missing_shared_stores(settings: Settings) -> str:
    """Name what processes that stand apart would not share; nothing if they may."""
    names = {"REDIS_URL": settings.redis_url, "DATABASE_URL": settings.database_url}
    return " and ".join(name for name, value in names.items() if value is None)


async def check_tracing(settings: Settings) -> Finding:
    """Each switch that would lose traces, then whether anybody is there to take them, and to show them."""
    otlp, jaeger = settings.otlp, settings.jaeger_url
    if wrong := config_warnings(otlp):
        return Finding("tracing", "look", "; ".join(wrong))
    if otlp.url is None:
        words = "OTEL_EXPORTER_OTLP_ENDPOINT is not set: spans stay in their process; nothing is uploaded"
        return Finding("tracing", "well", words)
    # An empty export is a whole one: any answer means that somebody speaks HTTP there.
    if await _http_status("POST", otlp.url) is None:
        words = "OTEL_EXPORTER_OTLP_ENDPOINT does not answer: requests go on, their spans are lost"
        return Finding("tracing", "look", words)
    if jaeger is None:
        words = "the collector answers; set JAEGER_URL for links to traces, and for spans in `trace`"
        return Finding("tracing", "look", words)
    if await _http_status("GET", f"{jaeger.rstrip('/')}/api/services") != 200:
        words = "the collector answers; JAEGER_URL is not Jaeger from here, so `trace` shows no spans"
        return Finding("tracing", "look", words)
    return Finding("tracing", "well", f"the collector answers, and so does Jaeger at {redact(jaeger)}")


async def check_admin_page(settings: Settings) -> Finding:
    """The operator's page exists only with its token, and is as private as the network before it."""
    if settings.admin_token is None:
        words = "ADMIN_TOKEN is not set: there is no page and no API of costs; `costs` prints the same"
        return Finding("page", "look", words)
    return Finding("page", "well", f"/admin at HTTP_PORT {settings.http_port}, opened by ADMIN_TOKEN")


async def check_port(settings: Settings) -> Finding:
    """HTTP_PORT is free, or a OneTake that runs already answers there."""
    host, number = settings.http_host, settings.http_port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, number), family=family):
            return Finding("port", "well", f"HTTP_PORT {number} is free")
    except OSError as error:
        if await _is_onetake(host, number):
            return Finding("port", "well", f"a OneTake that runs has HTTP_PORT {number}")
        return Finding(
            "port", "ill", f"HTTP_PORT {number} on {host} is taken ({error.strerror}); set another"
        )


async def _is_onetake(host: str, number: int) -> bool:
    name = f"[{host}]" if ":" in host else host
    return await _http_status("GET", f"http://{name}:{number}/healthz") == 200


async def _http_status(method: str, url: str) -> int | None:
    """Return how `url` answers; None if it does not."""
    try:
        async with (
            ClientSession(timeout=ClientTimeout(total=2)) as session,
            session.request(method, url, headers={"Content-Type": "application/x-protobuf"}) as answer,
        ):
            return answer.status
    except (ClientError, OSError, TimeoutError, ValueError):
        return None


_COLOURS: Final = {"well": "green", "look": "yellow", "ill": "red"}


class DoctorError(Exception):
    """Something is ill; the table above says what to do."""


async def doctor(settings: Settings, console: Console) -> None:
    """Print a table of findings.

    Raises:
        DoctorError: At least one part is ill.
    """
    table = Table(title="OneTake", title_justify="left")
    for name in ("part", "", "what was found, and what to do"):
        table.add_column(name)
    findings = await run_checks(settings)
    for one in findings:
        table.add_row(one.part, f"[{_COLOURS[one.health]}]{one.health}[/]", escape(one.words))
    console.print(table)
    if any(one.health == "ill" for one in findings):
        raise DoctorError("the parts marked ill keep the bot from running safely")


async def run_checks(settings: Settings) -> list[Finding]:
    """Look at every part, each by itself: one that is ill does not hide the others."""
    parts: dict[str, Callable[[Settings], Awaitable[Finding]]] = {
        "telegram": _check_telegram,
        "redis": _check_redis,
        "ledger": _check_ledger,
        "orders": _check_orders,
        "agents": _check_agents,
        "model": _check_model,
        "content": _check_content,
        "provider": _check_provider,
        "tracing": check_tracing,
        "page": check_admin_page,
        "people": check_access,
        "workers": check_workers,
        "port": check_port,
    }
    return [await _run_check(name, look, settings) for name, look in parts.items()]


async def _run_check(
    name: str, look: Callable[[Settings], Awaitable[Finding]], settings: Settings
) -> Finding:
    try:
        return await look(settings)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with a part is a finding
        return Finding(name, "ill", redact((str(error).splitlines() or [""])[0] or type(error).__name__))


async def _check_telegram(settings: Settings) -> Finding:
    if settings.telegram_bot_token is None:
        return Finding(
            "telegram", "look", "TELEGRAM_BOT_TOKEN is not set: `run` needs it, `chat` and `demo` do not"
        )
    session = AiohttpSession(api=TelegramAPIServer.from_base(settings.telegram_api_url), timeout=10)
    try:
        async with Bot(settings.telegram_bot_token.get_secret_value(), session=session) as bot:
            me, hook = await bot.get_me(), await bot.get_webhook_info()
    except (TelegramUnauthorizedError, TokenValidationError):
        return Finding("telegram", "ill", "TELEGRAM_BOT_TOKEN is not known to Telegram; see @BotFather")
    except TelegramNetworkError as error:
        return Finding("telegram", "ill", f"TELEGRAM_API_URL does not answer: {error.message}")
    if bool(hook.url) != bool(settings.webhook_url):
        where = "a webhook" if hook.url else "no webhook"
        return Finding(
            "telegram", "look", f"@{me.username}; Telegram has {where}, the settings say otherwise"
        )
    return Finding("telegram", "well", f"@{me.username}, {'webhook' if hook.url else 'polling'}")


async def _check_redis(settings: Settings) -> Finding:
    if settings.redis_url is None:
        with (
            private_folder(settings.var_dir / "doctor"),
            embedded_valkey(settings.var_dir / "doctor" / "valkey"),
        ):
            return Finding(
                "redis", "well", "REDIS_URL is not set: an embedded Valkey, for one process on one machine"
            )
    redis = connect(settings.redis_url.get_secret_value())
    try:
        memory, disk = await redis.info("memory"), await redis.info("persistence")
    except (RedisError, OSError) as error:
        return Finding(
            "redis", "ill", f"REDIS_URL does not answer ({type(error).__name__}): nothing would be paid"
        )
    finally:
        await redis.aclose()
    if memory.get("maxmemory_policy") != "noeviction":
        found = memory.get("maxmemory_policy")
        return Finding(
            "redis", "ill", f"maxmemory-policy is {found}; set noeviction, an evicted key is a second video"
        )
    if not disk.get("aof_enabled"):
        words = "appendonly is off: a restart forgets, or brings back old counters; set appendonly yes"
        return Finding("redis", "ill", words)
    return Finding("redis", "well", "noeviction, append-only file on")


async def _check_ledger(settings: Settings) -> Finding:
    ledger = Ledger(settings.ledger_url)
    try:
        found, newest = await database.revisions(ledger)
    finally:
        await ledger.close()
    if found is None:
        return Finding(
            "ledger", "well", f"{ledger.dialect}, empty: the first start makes its tables ({newest})"
        )
    if found != newest:
        return Finding("ledger", "look", f"{ledger.dialect} at {found}: the next start brings it to {newest}")
    return Finding("ledger", "well", f"{ledger.dialect} at {found}")


async def _check_orders(settings: Settings) -> Finding:
    ledger = Ledger(settings.ledger_url)
    try:
        found, newest = await database.revisions(ledger)
        under_way = await history.count_in_flight(ledger) if found == newest else {}
    finally:
        await ledger.close()
    strange = {name: count for name, count in under_way.items() if name != settings.video_provider}
    if strange:
        orders = ", ".join(f"{count} of {name}" for name, count in sorted(strange.items()))
        return Finding(
            "orders", "look",
            f"under way, of providers that are not configured: {orders}; set VIDEO_PROVIDER back until they "
            "have ended, or settle those on HOLD by hand (`resolve`)",
        )  # fmt: skip
    return Finding("orders", "well", f"under way: {sum(under_way.values())}")


async def _check_agents(settings: Settings) -> Finding:
    check_locales()
    names = ", ".join(load_declarations(settings.agents_dir or declarations_folder()))
    return Finding("agents", "well", f"declared: {names}")


async def _check_model(settings: Settings) -> Finding:
    if settings.openai_api_key is None:
        return Finding("model", "look", "OPENAI_API_KEY is not set: the rehearsal model plays the agents")
    return Finding(
        "model", "well", f"{settings.openai_base_url or 'OpenAI'}, {settings.openai_api}; not called here"
    )


async def _check_content(settings: Settings) -> Finding:
    if settings.moderation_api_key is None:
        return Finding(
            "content", "look", "the rule list alone; set MODERATION_API_KEY for omni-moderation-latest"
        )
    return Finding("content", "well", "the rule list, then omni-moderation-latest; not called here")


async def _check_provider(settings: Settings) -> Finding:
    provider = choose_provider(settings)
    await provider.close()
    known = provider.capabilities
    if known.preview:
        return Finding(
            "provider", "look", f"{provider.name}: previews for rehearsal dollars, not real videos"
        )
    offered = f"{provider.name}: {', '.join(known.models)}; prices of {known.priced_on}"
    return Finding("provider", "well", ". ".join((offered, *(note.rstrip(".") for note in known.notes))))
