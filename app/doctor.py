"""Preflight checks and their findings."""

import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from aiohttp import ClientError, ClientSession, ClientTimeout
from pydantic import SecretStr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from app.accounts import collect_accounts
from app.application import choose_images, choose_provider, model_budget
from app.embedded_redis import embedded_valkey, private_folder
from app.lazy_aiogram import (
    AiohttpSession,
    Bot,
    TelegramAPIServer,
    TelegramNetworkError,
    TelegramUnauthorizedError,
    TokenValidationError,
)
from app.redis_check import check_redis_url
from app.settings import (
    LOCAL,
    METRICS_CLOSED,
    MODERATION_OFF,
    PICTURES_REFUSED,
    PICTURES_UNJUDGED,
    Settings,
)
from chat.i18n import check_locales
from chat.telegram_errors import UNREACHABLE
from ledger import database, heartbeats, history
from ledger.database import Ledger
from ledger.heartbeats import Alive
from providers.base import NotConfigured, ProviderError
from telemetry.exporter import config_warnings
from telemetry.redaction import redact
from tools.agent_factory import load_declarations
from tools.agent_spec import declarations_folder
from worker.media_probe import MediaProbe

_PRICES_DAYS: Final = 90
"""After so long somebody should look at the prices in Stars."""

Health = Literal["well", "look", "ill"]
"""`look`: the bot runs, but an operator should check this. `ill`: it would not run, or not safely."""


@dataclass(frozen=True)
class Finding:
    """The state of one part, and what to do about it."""

    part: str
    health: Health
    words: str


async def check_access(settings: Settings) -> Finding:
    """With a paid provider, an empty list lets everyone spend money, or leaves alerts without a recipient."""
    if settings.video_provider == LOCAL:
        return Finding("people", "well", "test credits: everyone may use the bot")
    if settings.access == "invite" and not settings.admins:
        return Finding("people", "look", "ACCESS=invite and ADMINS is empty: no one can make an invitation")
    if settings.access == "open" and not settings.allowed_users:
        return Finding("people", "look", "ALLOWED_USERS is empty: everyone on Telegram may spend your money")
    if not settings.admins:
        return Finding(
            "people", "look", "ADMINS is empty: no one is notified when an order needs manual review"
        )
    invited = " and who is invited" if settings.access == "invite" else ""
    return Finding(
        "people", "well",
        f"{len(settings.allowed_users)}{invited} may spend, {len(settings.admins)} are notified",
    )  # fmt: skip


async def check_stars(settings: Settings) -> Finding:
    """Prices in Stars have a date, because what a Star brings and a video costs changes."""
    shop = settings.star_shop
    if shop is None:
        return Finding("stars", "well", "STARS is off: no credits are sold")
    packs = ", ".join(f"{one.credits} for {one.stars}" for one in shop.packs)
    age = (datetime.now(UTC).date() - shop.prices_of).days
    if age < 0:
        return Finding("stars", "look", f"STAR_PRICES_OF {shop.prices_of} is a day of the future")
    if age > _PRICES_DAYS:
        words = f"STAR_PRICES_OF is {age} days ago: check that {packs} Stars still pay for the videos"
        return Finding("stars", "look", words)
    if not settings.admins:
        return Finding("stars", "look", "ADMINS is empty: no one is notified when Stars differ")
    return Finding("stars", "well", f"credits for Stars: {packs}, of {shop.prices_of}")


async def check_model_prices(settings: Settings) -> Finding:
    """The price list of the language models has a date, because endpoints change their prices."""
    prices = model_budget(settings).prices
    if prices is None:
        words = "MODEL_PRICES is not set: what language models cost is not known"
        return Finding("prices", "look" if settings.openai_api_key else "well", words)
    age = (datetime.now(UTC).date() - prices.priced_on).days
    if age < 0:
        return Finding("prices", "look", f"priced_on {prices.priced_on} is a day of the future")
    if age > _PRICES_DAYS:
        words = f"priced_on is {age} days ago: compare {settings.model_prices} with {prices.source}"
        return Finding("prices", "look", words)
    return Finding("prices", "well", f"{len(prices.models)} models, of {prices.priced_on}")


async def check_workers(settings: Settings) -> Finding:
    """Separate workers share queue, ledger and media folder with the bot."""
    apart = settings.worker == "apart"
    if not apart and settings.redis_url is None:
        return Finding("workers", "well", "inside, in one process")
    if missing := missing_shared_stores(settings):
        words = f"a separate worker needs {missing}; without, it opens its own queue or ledger"
        return Finding("workers", "ill" if apart else "look", words)
    if settings.media_dir is None:
        words = f"MEDIA_DIR is not set: workers on other machines do not see {settings.media}; share one"
        return Finding("workers", "look", words)
    return Finding(
        "workers", "well", f"share queue, ledger and {settings.media}; make sure that it is one folder"
    )


async def check_running(settings: Settings) -> Finding:
    """Which processes live, by their heartbeats in the ledger."""
    ledger = Ledger(settings.ledger_url)
    try:
        found, newest = await database.revisions(ledger)
        alive = await heartbeats.alive(ledger) if found == newest else {}
    finally:
        await ledger.close()
    workers, bots = alive.get("worker", Alive()), alive.get("bot", Alive())
    if workers.count:
        words = f"{workers.count} with a worker, {bots.count} hear Telegram"
        return Finding("running", "well" if bots.count else "look", words)
    seen = f"the last was seen {workers.silent_s:.0f} s ago" if workers.last_seen_at else "none was ever seen"
    if settings.worker == "apart":
        return Finding("running", "look", f"no worker ({seen}): start `worker`, nothing is made before")
    return Finding("running", "well", f"no worker ({seen}); `run` brings its own")


def missing_shared_stores(settings: Settings) -> str:
    """Name the variables that separate processes need and that are not set, or an empty string."""
    names = {"REDIS_URL": settings.redis_url, "DATABASE_URL": settings.database_url}
    return " and ".join(name for name, value in names.items() if value is None)


async def check_media(settings: Settings) -> Finding:
    """The media folder takes a file, and has room for some."""
    if fault := await MediaProbe(settings.media).fault():
        words = f"MEDIA_DIR {settings.media}: {fault}; until that is mended, no order is sent or charged"
        return Finding("media", "ill", words)
    return Finding("media", "well", f"MEDIA_DIR {settings.media} takes files")


async def check_tracing(settings: Settings) -> Finding:
    """Check the variables that would lose traces, then whether collector and Jaeger answer."""
    otlp, jaeger = settings.otlp, settings.jaeger_query_url
    if wrong := config_warnings(otlp):
        return Finding("tracing", "look", "; ".join(wrong))
    if otlp.url is None:
        words = "OTEL_EXPORTER_OTLP_ENDPOINT is not set: spans stay in the process; nothing is uploaded"
        return Finding("tracing", "well", words)
    # An empty export is valid; any answer means that an HTTP server listens there.
    if await _http_status("POST", otlp.url) is None:
        words = "OTEL_EXPORTER_OTLP_ENDPOINT does not answer: requests continue, their spans are lost"
        return Finding("tracing", "look", words)
    if jaeger is None:
        words = "the collector answers; set JAEGER_URL for links to traces, and for spans in `trace`"
        return Finding("tracing", "look", words)
    if await _http_status("GET", f"{jaeger.rstrip('/')}/api/services") != 200:
        name = "JAEGER_API_URL" if settings.jaeger_api_url else "JAEGER_URL"
        words = f"the collector answers; {name} is not Jaeger from here, so `trace` shows no spans"
        return Finding("tracing", "look", words)
    return Finding("tracing", "well", f"the collector answers, and so does Jaeger at {redact(jaeger)}")


async def check_admin_page(settings: Settings) -> Finding:
    """The admin page exists only with its token, and is as private as the network in front of it."""
    if settings.admin_token is None:
        words = "ADMIN_TOKEN is not set: no admin page and no costs API; `costs` prints the same"
        return Finding("page", "look", words)
    return Finding("page", "well", f"/admin at HTTP_PORT {settings.http_port}, opened by ADMIN_TOKEN")


async def check_metrics(settings: Settings) -> Finding:
    """/metrics answers Prometheus, and nobody else where its port is public."""
    if settings.metrics_token is not None:
        return Finding("metrics", "well", "/metrics is opened by METRICS_TOKEN")
    if settings.webhook_url is not None:
        return Finding("metrics", "look", METRICS_CLOSED)
    return Finding(
        "metrics", "well", "/metrics answers everyone who reaches HTTP_PORT; METRICS_TOKEN closes it"
    )


async def check_port(settings: Settings) -> Finding:
    """HTTP_PORT is free, or a running OneTake answers there."""
    host, number = settings.http_host, settings.http_port
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, number), family=family):
            return Finding("port", "well", f"HTTP_PORT {number} is free")
    except OSError as error:
        if await _is_onetake(host, number):
            return Finding("port", "well", f"a running OneTake uses HTTP_PORT {number}")
        return Finding(
            "port", "ill", f"HTTP_PORT {number} on {host} is taken ({error.strerror}); set another"
        )


async def _is_onetake(host: str, number: int) -> bool:
    name = f"[{host}]" if ":" in host else host
    return await _http_status("GET", f"http://{name}:{number}/healthz") == 200


async def _http_status(method: str, url: str) -> int | None:
    """Return the HTTP status of `url`; None if it does not answer."""
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
    """At least one part is ill; the printed table says what to do."""


async def doctor(settings: Settings, console: Console) -> None:
    """Print a table of findings.

    Raises:
        DoctorError: At least one part is ill.
    """
    table = Table(title="OneTake", title_justify="left")
    for name in ("part", "", "what was found, and what to do"):
        table.add_column(name)
    findings = await run_checks(settings)
    for finding in findings:
        colour = _COLOURS[finding.health]
        table.add_row(finding.part, f"[{colour}]{finding.health}[/]", escape(finding.words))
    console.print(table)
    if any(finding.health == "ill" for finding in findings):
        raise DoctorError("the parts marked ill keep the bot from running safely")


async def run_checks(settings: Settings) -> list[Finding]:
    """Check every part by itself: an error in one does not hide the others."""
    parts: dict[str, Callable[[Settings], Awaitable[Finding]]] = {
        "telegram": _check_telegram,
        "redis": _check_redis,
        "ledger": _check_ledger,
        "orders": _check_orders,
        "agents": _check_agents,
        "model": _check_model,
        "prices": check_model_prices,
        "content": _check_content,
        "pictures": _check_pictures,
        "provider": _check_provider,
        "tracing": check_tracing,
        "page": check_admin_page,
        "metrics": check_metrics,
        "people": check_access,
        "admins": check_admins,
        "stars": check_stars,
        "workers": check_workers,
        "running": check_running,
        "media": check_media,
        "port": check_port,
    }
    return [await _run_check(name, check, settings) for name, check in parts.items()]


async def _run_check(
    name: str, check: Callable[[Settings], Awaitable[Finding]], settings: Settings
) -> Finding:
    try:
        return await check(settings)
    except Exception as error:  # noqa: BLE001 - any error is a finding
        return Finding(name, "ill", redact((str(error).splitlines() or [""])[0] or type(error).__name__))


async def _check_telegram(settings: Settings) -> Finding:
    if settings.telegram_bot_token is None:
        return Finding(
            "telegram", "look", "TELEGRAM_BOT_TOKEN is not set: `run` needs it, `chat` and `demo` do not"
        )
    try:
        async with _bot(settings, settings.telegram_bot_token) as bot:
            me, hook = await bot.get_me(), await bot.get_webhook_info()
    except (TelegramUnauthorizedError, TokenValidationError):
        return Finding("telegram", "ill", "TELEGRAM_BOT_TOKEN is not known to Telegram; see @BotFather")
    except TelegramNetworkError as error:
        return Finding("telegram", "ill", f"TELEGRAM_API_URL does not answer: {error.message}")
    if fault := _webhook_fault(settings, hook):
        return Finding("telegram", "look", f"@{me.username}; {fault}")
    return Finding("telegram", "well", f"@{me.username}, {'webhook' if hook.url else 'polling'}")


def _webhook_fault(settings: Settings, hook: Any) -> str:
    """Return what is wrong with how updates come, in plain words; empty if nothing is."""
    if bool(hook.url) != bool(settings.webhook_url):
        return f"Telegram has {'a webhook' if hook.url else 'no webhook'}, the settings say otherwise"
    if hook.url and hook.url != settings.webhook_url:
        return "Telegram delivers to another address than WEBHOOK_URL"
    if hook.last_error_date is not None and hook.pending_update_count:
        why = redact(hook.last_error_message or "no reason")
        at = f"{hook.last_error_date:%Y-%m-%d %H:%M} UTC"
        return f"no delivery to the webhook at {at} ({why}); {hook.pending_update_count} updates wait"
    return ""


def _bot(settings: Settings, token: SecretStr) -> Bot:
    session = AiohttpSession(api=TelegramAPIServer.from_base(settings.telegram_api_url), timeout=10)
    return Bot(token.get_secret_value(), session=session)


async def check_admins(settings: Settings) -> Finding:
    """Each admin can be told of an alert: Telegram knows a chat only of a person who has pressed Start."""
    token = settings.telegram_bot_token
    if token is None or not settings.admins:
        return Finding("admins", "look", "no token, or ADMINS is empty: no alert reaches a person")
    absent: list[str] = []
    try:
        async with _bot(settings, token) as bot:
            for admin in sorted(settings.admins):
                try:
                    await bot.get_chat(admin)
                except UNREACHABLE:
                    absent.append(str(admin))
    except (TelegramUnauthorizedError, TokenValidationError, TelegramNetworkError):
        return Finding("admins", "look", "not asked: Telegram does not answer, or does not know the token")
    if absent:
        words = (
            f"{', '.join(absent)} never pressed Start, or blocked the bot: alerts wait until they write to it"
        )
        return Finding("admins", "look", words)
    return Finding("admins", "well", f"{len(settings.admins)} can be told of alerts")


async def _check_redis(settings: Settings) -> Finding:
    if settings.redis_url is None:
        with (
            private_folder(settings.var_dir / "doctor"),
            embedded_valkey(settings.var_dir / "doctor" / "valkey"),
        ):
            return Finding(
                "redis", "well", "REDIS_URL is not set: an embedded Valkey, for one process on one machine"
            )
    found = await check_redis_url(settings.redis_url.get_secret_value(), settings.key_prefix)
    return Finding("redis", found.health, found.words)


async def _check_ledger(settings: Settings) -> Finding:
    ledger = Ledger(settings.ledger_url)
    try:
        found, newest = await database.revisions(ledger)
    finally:
        await ledger.close()
    if found is None:
        return Finding(
            "ledger", "well", f"{ledger.dialect}, empty: the first start creates its tables ({newest})"
        )
    if found != newest:
        return Finding(
            "ledger", "look", f"{ledger.dialect} at {found}: the next start upgrades it to {newest}"
        )
    return Finding("ledger", "well", f"{ledger.dialect} at {found}")


async def _check_orders(settings: Settings) -> Finding:
    ledger = Ledger(settings.ledger_url)
    try:
        found, newest = await database.revisions(ledger)
        in_flight = await history.count_in_flight(ledger) if found == newest else {}
    finally:
        await ledger.close()
    known = await _configured_accounts(settings)
    unknown = {name: count for name, count in in_flight.items() if name not in known}
    if unknown:
        orders = ", ".join(f"{count} of {name}" for name, count in sorted(unknown.items()))
        return Finding(
            "orders", "look",
            f"in flight, of accounts that are not configured: {orders}; list them in VIDEO_DRAIN until they "
            "have ended (docs/providers.md), or resolve those on HOLD by hand (`resolve`)",
        )  # fmt: skip
    return Finding("orders", "well", f"in flight: {sum(in_flight.values())}")


async def _configured_accounts(settings: Settings) -> set[str]:
    """Return the accounts that the settings name, and the provider's name: orders without an account."""
    accounts, images = collect_accounts(settings, choose_provider(settings)), choose_images(settings)
    await accounts.close()
    if images is not None:
        await images.close()
    return {settings.video_provider, *accounts.by_account, *([] if images is None else [images.account])}


async def _check_agents(settings: Settings) -> Finding:
    check_locales()
    names = ", ".join(load_declarations(settings.agents_dir or declarations_folder()))
    return Finding("agents", "well", f"declared: {names}")


async def _check_model(settings: Settings) -> Finding:
    if settings.openai_api_key is None:
        return Finding("model", "look", "OPENAI_API_KEY is not set: a scripted model runs the agents")
    return Finding(
        "model", "well", f"{settings.openai_base_url or 'OpenAI'}, {settings.openai_api}; not called here"
    )


async def _check_content(settings: Settings) -> Finding:
    if settings.moderation_api_key is None:
        return Finding("content", "look", MODERATION_OFF)
    return Finding("content", "well", "the offline rules, then omni-moderation-latest; not called here")


async def _check_pictures(settings: Settings) -> Finding:
    if settings.picture_policy == "off":
        return Finding("pictures", "well", "PICTURES=off: videos are made from words alone")
    if settings.moderation_api_key is not None:
        return Finding("pictures", "well", "judged by omni-moderation-latest before they are used")
    if settings.picture_policy == "unjudged":
        return Finding("pictures", "look", PICTURES_UNJUDGED)
    return Finding("pictures", "well", PICTURES_REFUSED)


async def _check_provider(settings: Settings) -> Finding:
    accounts = collect_accounts(settings, choose_provider(settings))
    provider, drains = accounts.primary, len(set(map(id, accounts.by_account.values()))) - 1
    known = provider.capabilities
    try:
        if known.preview:
            return Finding("provider", "look", f"{provider.name}: previews for test credits, not real videos")
        await provider.check()
    except NotConfigured as error:
        return Finding("provider", "ill", f"{provider.name}: nothing would be ordered: {error}")
    except ProviderError as error:
        words = f"{provider.name} does not answer a free question ({error}): orders would wait and end unpaid"
        return Finding("provider", "ill", words)
    finally:
        await accounts.close()
    offered = f"{provider.account}: {', '.join(known.models)}; prices of {known.priced_on}"
    if drains:
        offered += f"; {drains} more that take no new orders"
    return Finding("provider", "well", ". ".join((offered, *(note.rstrip(".") for note in known.notes))))
