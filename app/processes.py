"""The processes: bot, worker, local chat. Start, signals, graceful shutdown, /metrics."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from aiohttp import web
from docket import Worker
from pydantic import SecretStr
from rich.console import Console
from rich.panel import Panel

from app.application import App, open_app, open_sandboxed_app
from app.doctor import missing_shared_stores
from app.health import STALLED_S, ProcessCounts, dispatcher_alive, write_checks
from app.lazy_aiogram import (
    ClientDecodeError,
    TelegramNetworkError,
    TelegramRetryAfter,
    TelegramServerError,
)
from app.media_folder import SizeGauges, disk_gauges
from app.settings import METRICS_CLOSED, MODERATION_OFF, Settings, SettingsError
from app.signals import on_stop_signal
from chat.alerts import run_alerts
from chat.awaited import run_awaited
from chat.dispatcher import build_dispatcher, publish_descriptions, publish_menu, webhook_handler
from chat.hearing import watch_webhook
from chat.polling import ALLOWED_UPDATES, poll_updates
from chat.star_payments import run_star_payments
from ledger import operator_gauges, reports
from providers.base import NotConfigured, ProviderError
from telemetry import metrics
from telemetry.logs import get_logger
from telemetry.metrics import exposition
from telemetry.redaction import redact
from web.admin_context import Admin
from web.auth import TokenAuth
from web.revocations import Revocations
from web.server import HttpHandler, Metrics, WebError, build_app, serve
from worker import queue
from worker.heartbeat import run_heartbeat
from worker.outages import is_outage
from worker.periodic import run_periodic

log = get_logger(__name__)

REDELIVERY_S = 10.0
_DOCKET_PAUSE_S: Final = 1.0
DOCKET_CHECK: Final = timedelta(seconds=1)

SHUTDOWN_GRACE_S: Final = 3.0
"""Submits have this long to end after a signal. Then they are cancelled: a POST's outcome is unknown."""
_CANCEL_TIMEOUT_S: Final = 5.0
_DOCKET_STOP_S: Final = 2.0
"""How long a worker that stops waits for docket, whose tasks are wake-ups and may be lost."""


async def run_worker(app: App, redelivery_s: float = REDELIVERY_S) -> None:
    """Run what is due, periodic work and operator alerts until cancelled.

    Args:
        app: The parts.
        redelivery_s: A wake-up whose worker stopped renewing its lease goes to another worker after this.
    """
    try:
        await app.chat.admission.load()
    except Exception as error:
        if not is_outage(error):
            raise
        log.warning("lua scripts not loaded yet", error=type(error).__name__)
    async with asyncio.TaskGroup() as group:
        group.create_task(_run_dispatcher(app))
        group.create_task(run_periodic(app.worker, app.orphans))
        group.create_task(run_alerts(app.chat))
        group.create_task(run_star_payments(app.chat))
        group.create_task(run_heartbeat(app.ledger, "worker", app.bot.id, partial(_seeks_work, app)))
        group.create_task(_run_docket_worker(app, redelivery_s))


def _seeks_work(app: App) -> bool:
    idle_s = app.dispatcher.idle_s()
    return idle_s is not None and idle_s < STALLED_S


async def _run_dispatcher(app: App) -> None:
    app.worker.queue.kick = app.dispatcher.kick
    try:
        await app.dispatcher.run()
    finally:
        app.worker.queue.kick = None  # other workers are told what the last steps make due
        await app.dispatcher.stop(SHUTDOWN_GRACE_S)


async def _run_docket_worker(app: App, redelivery_s: float) -> None:
    """Receive wake-ups of other processes.

    A message wakes docket's read at once, whatever its intervals are. They only bound how often it searches
    for tasks of the future, of which there are none, and for messages of workers that died.

    An error does not end the process: the work itself is found in SQL. docket waits for Redis by itself, but
    not for a cluster, whose errors are of another family.
    """
    while True:
        try:
            await _receive_wake_ups(app, redelivery_s)
        except Exception as error:  # noqa: BLE001 - see above
            report = log.warning if is_outage(error) else log.error
            report("wake-ups not received", error=type(error).__name__)
        await asyncio.sleep(_DOCKET_PAUSE_S)


async def _receive_wake_ups(app: App, redelivery_s: float) -> None:
    async with Worker(
        app.docket,
        redelivery_timeout=timedelta(seconds=redelivery_s),
        reconnection_delay=timedelta(seconds=1),
        minimum_check_interval=DOCKET_CHECK,
        scheduling_resolution=DOCKET_CHECK,
    ) as worker:
        run = asyncio.ensure_future(worker.run_forever())
        try:
            await asyncio.shield(run)
        except asyncio.CancelledError:
            # docket's first cancellation waits for its tasks, its second one cancels them.
            for _ in range(2):
                run.cancel()
                done, _pending = await asyncio.wait({run}, timeout=_DOCKET_STOP_S)
                if done:
                    break
            raise


async def run_polling(app: App) -> None:
    """Receive Telegram's updates by polling until cancelled; meanwhile publish the bot's profile."""
    others = (
        asyncio.create_task(_publish_profile(app)),  # some 25 calls, for which nobody has to wait
        asyncio.create_task(_say_that_bot_hears(app)),
    )
    try:
        await poll_updates(build_dispatcher(app.chat), app.bot, app.chat.hearing)
    finally:
        await _cancel_all(list(others))


async def _say_that_bot_hears(app: App) -> None:
    await run_heartbeat(app.ledger, "bot", app.bot.id, lambda: app.chat.hearing.hears)


async def _publish_profile(app: App) -> None:
    await publish_menu(app.bot, app.settings.admins, sells=app.chat.stars is not None)
    await publish_descriptions(app.bot)


@asynccontextmanager
async def running(*parts: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Future[list[None]]"]:
    """Run `parts` during the block; yield a future that ends when one of them does. All end with it."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    all_parts = asyncio.gather(*tasks)
    try:
        yield all_parts
    finally:
        await _cancel_all(tasks)
        await asyncio.gather(all_parts, return_exceptions=True)


async def _cancel_all(tasks: "list[asyncio.Task[None]]") -> None:
    """Cancel until all have ended: a docket worker that is starting up loses its first cancellation."""
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_CANCEL_TIMEOUT_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def until_signal(*parts: Coroutine[Any, Any, None]) -> None:
    """Run `parts` until a signal, or until one of them fails, which is raised."""
    stop = asyncio.Event()
    on_stop_signal(lambda _: stop.set())
    async with running(*parts) as all_parts:
        stopped = asyncio.ensure_future(stop.wait())
        either: list[asyncio.Future[Any]] = [stopped, all_parts]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if all_parts.done():
            all_parts.result()
        log.info("stopping")


_READ_TIMEOUT_S: Final = 4.0
"""For the gauges of one store. Prometheus gives up a scrape after ten seconds."""


async def render_metrics(app: App, sizes: SizeGauges | None = None) -> bytes:
    """Return the exposition text. An unavailable store shows as `onetake_store_up` 0."""
    sizes = sizes or SizeGauges(app.ledger, app.settings.media)
    app.chat.hearing.update_gauges()
    await asyncio.gather(
        _observe("ledger", reports.update_gauges(app.ledger)),
        _observe("ledger", operator_gauges.update(app.ledger)),
        _observe("ledger", sizes.update()),
        _observe("ledger", queue.observe_due(app.ledger, app.bot.id)),
        _observe("queue", queue.observe_queue(app.docket)),
        disk_gauges(app.settings.media, app.settings.var_dir, app.worker.media_probe.min_free_bytes),
    )
    return exposition()


async def _observe(store: str, reading: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(_READ_TIMEOUT_S):
            await reading
    except Exception as error:
        if not is_outage(error):
            raise
        log.warning("gauges not updated", store=store, error=type(error).__name__)
        metrics.STORE_UP.set(0, store=store)


BackgroundTask = Coroutine[Any, Any, None]
Answer = TypeVar("Answer")
_CONNECTIONS: Final = 20
_MAX_WAIT_S: Final = 30.0
_TELEGRAM_UNAVAILABLE: Final = (
    TelegramNetworkError,
    TelegramServerError,
    TelegramRetryAfter,
    ClientDecodeError,
)
"""Telegram does not answer now. A load balancer's HTML page in its place counts as no answer."""


async def run_bot(settings: Settings) -> None:
    """Serve Telegram until a signal; with a worker inside unless WORKER=apart."""
    if settings.worker == "apart" and (missing := missing_shared_stores(settings)):
        raise SettingsError(f"WORKER=apart needs {missing}: workers and bot share one queue and one ledger")
    _warn_of_moderation(settings)
    async with open_app(settings, runs_agents=settings.worker == "inside") as app:
        if settings.webhook_url is None:
            async with serve(_http_app(app), settings.http_host, settings.http_port) as url:
                await _check_telegram(app)
                log.info("polling", health=url)
                await until_signal(run_polling(app), *_beside_polling(app))
        else:
            await _serve_webhook(app, settings.webhook_url)


def _warn_of_moderation(settings: Settings) -> None:
    if settings.moderation_api_key is None:
        log.warning("moderation off", why=MODERATION_OFF)


def _beside_polling(app: App) -> list[BackgroundTask]:
    """Return what a bot runs: a worker, or what its people and operators need while none lives."""
    if app.settings.worker == "inside":
        return [run_worker(app), ask_providers(app)]
    return [run_alerts(app.chat), run_awaited(app.chat)]


async def ask_providers(app: App) -> None:
    """Ask each account once whether orders can be placed there, as `doctor` does; say it where they cannot.

    The start does not wait for the answer: what is made already must be polled and delivered all the same.
    """
    for provider in {id(one): one for one in app.worker.providers.values()}.values():
        try:
            await provider.check()
        except (NotConfigured, ProviderError) as error:
            log.error("orders cannot be placed", account=provider.account, why=redact(str(error)))
        except Exception as error:  # noqa: BLE001 - a check ends no process
            log.error("provider not checked", account=provider.account, error=type(error).__name__)


async def _check_telegram(app: App) -> None:
    """Check before anything runs that the token is valid and that no webhook prevents polling.

    Telegram allows either polling or a webhook. The webhook may be another replica's, so it is not removed.
    """
    try:
        info = await app.bot.get_webhook_info()
    except _TELEGRAM_UNAVAILABLE as error:
        log.warning("telegram unavailable at start", error=type(error).__name__)
        return
    if info.url and app.settings.webhook_url is None:
        raise SettingsError(
            "Telegram delivers this bot's updates to a webhook; set WEBHOOK_URL, or remove the webhook first"
        )


async def _retry_telegram(call: Callable[[], Awaitable[Answer]]) -> Answer:
    """Repeat a call until Telegram answers: an unavailable network is no reason to fail at start."""
    wait_s = 1.0
    while True:
        try:
            return await call()
        except _TELEGRAM_UNAVAILABLE as error:
            wait_s = (
                error.retry_after if isinstance(error, TelegramRetryAfter) else min(wait_s * 2, _MAX_WAIT_S)
            )
            log.warning("telegram unavailable", error=type(error).__name__, wait_s=wait_s)
            await asyncio.sleep(wait_s)


async def _serve_webhook(app: App, url: str) -> None:
    settings = app.settings
    secret = settings.webhook_secret.get_secret_value() if settings.webhook_secret else ""
    dispatcher = build_dispatcher(app.chat)
    handler = webhook_handler(dispatcher, app.bot, secret)
    mounts: Mapping[str, HttpHandler] = {urlsplit(url).path or "/": handler.handle}
    async with serve(_http_app(app, mounts), settings.http_host, settings.http_port) as local:
        # Never with drop_pending_updates, and never deleted at the end: both lose users' commands.
        register = partial(
            app.bot.set_webhook,
            url, secret_token=secret, allowed_updates=ALLOWED_UPDATES, max_connections=_CONNECTIONS,
        )  # fmt: skip
        await _check_telegram(app)
        log.info("webhook", listening=local)
        app.chat.hearing.begin()
        await until_signal(
            _register_webhook(app, register),
            watch_webhook(app.bot, app.chat.hearing, url),
            _say_that_bot_hears(app),
            *_beside_polling(app),
        )


async def _register_webhook(app: App, register: Callable[[], Awaitable[bool]]) -> None:
    await _retry_telegram(register)
    await _publish_profile(app)
    await asyncio.Event().wait()


def _http_app(app: App, mounts: Mapping[str, HttpHandler] | None = None) -> web.Application:
    """Return what this process serves over HTTP; without ADMIN_TOKEN there is no admin page."""
    settings, admin = app.settings, None
    sizes = SizeGauges(app.ledger, settings.media)
    if settings.admin_token is not None:
        auth = TokenAuth(settings.admin_token.get_secret_value())
        revocations = Revocations(app.redis, settings.key_prefix)
        admin = Admin(
            app.ledger, auth, revocations, app.worker, settings.jaeger_url or "", app.chat.limits,
            app.chat.admins, app.chat.bot.id,
        )  # fmt: skip
    stores = write_checks(app)
    ready = {name: one.ready for name, one in stores.items()}
    alive = {name: one.alive for name, one in stores.items()} | {"dispatcher": partial(dispatcher_alive, app)}
    # The port of a webhook is public.
    metrics = _metrics(app, sizes, public=bool(mounts))
    return build_app(ready, mounts or {}, metrics, admin, alive, ProcessCounts(app).read)


def _metrics(app: App, sizes: SizeGauges, *, public: bool) -> Metrics:
    token, closed = app.settings.metrics_token, None
    if public and token is None:
        closed = METRICS_CLOSED
        log.warning("metrics closed", why=closed)
    read = partial(render_metrics, app, sizes)
    return Metrics(read, token.get_secret_value() if token is not None else None, closed)


async def run_worker_alone(settings: Settings) -> None:
    """Run a worker without the bot, until a signal. It shares queue and ledger with the bot."""
    if missing := missing_shared_stores(settings):
        raise SettingsError(f"a separate worker needs {missing}, the same as the bot")
    _warn_of_moderation(settings)
    async with open_app(settings) as app, AsyncExitStack() as stack:
        url = await _serve_health(stack, app)
        log.info("worker started", concurrency=settings.worker_concurrency, health=url)
        await until_signal(run_worker(app), ask_providers(app))


async def _serve_health(stack: AsyncExitStack, app: App) -> str:
    """Serve health at HTTP_PORT, or at a free port if another process of this machine uses it."""
    host, port = app.settings.http_host, app.settings.http_port
    try:
        return await stack.enter_async_context(serve(_http_app(app), host, port))
    except WebError as error:
        log.warning("health port taken", why=str(error))
        return await stack.enter_async_context(serve(_http_app(app), host, 0))


async def run_chat(settings: Settings, console: Console) -> None:
    """Run a sandbox with a web page to talk to the bot; its data is kept."""
    folder = settings.var_dir / "chat"
    token = settings.admin_token or SecretStr(secrets.token_urlsafe(18))
    local = settings.model_copy(update={"admin_token": token, "http_host": "127.0.0.1"})
    async with (
        open_sandboxed_app(local, folder, port=settings.chat_port, keep=True, pacing="production") as (
            app,
            api,
        ),
        AsyncExitStack() as stack,
    ):
        url = await _serve_health(stack, app)
        shown_token = token.get_secret_value() if settings.admin_token is None else "the value of ADMIN_TOKEN"
        model = (
            "the model of OPENAI_API_KEY" if settings.openai_api_key else "a scripted model (no key is set)"
        )
        console.print(
            Panel(
                f"Talk to the bot:  [bold]{api.chat_url}[/]\n"
                f"See the costs:    [bold]{url}/admin[/]\n"
                f"[dim]Admin token:[/]      {shown_token}\n"
                f"[dim]Videos are previews for test credits; the director is {model}.\n"
                f"Everything is kept in {folder}. Ctrl-C stops it.[/]",
                title="OneTake · sandbox",
                border_style="cyan",
            )
        )
        await until_signal(run_worker(app), run_polling(app))
