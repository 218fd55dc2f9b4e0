"""Many machines: three bots and four workers, each a process, on one Redis and one PostgreSQL.

Updates come by webhook to the replicas in turn, with redeliveries; workers and a bot are killed in between
and replaced. The oracle is the provider's own charge log.
"""

import asyncio
import random
import signal
import socket
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import pytest
from aiohttp import ClientError, ClientSession, ClientTimeout, web
from sqlalchemy.exc import SQLAlchemyError

from evals.environment import assert_ledger_matches, is_settled, write_agent_specs
from ledger import database
from ledger.database import Ledger
from ledger.models import Request, Video, VideoState, provider_key
from sandbox.telegram.server import BotApiServer
from sandbox.telegram.user import Person
from sandbox.video_api.openai import FakeProvider
from tests.support import services
from tests.support.app_harness import SECRET
from tests.support.services import start_valkey
from tests.support.waiting import wait_until
from tests.support.worker_process import ProcessEnvironment, WorkerConfig, WorkerProcess, open_process_env

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

BOTS, WORKERS, USERS, REQUESTS = 3, 4, 12, 30
BEHAVIORS = ("benign", "fanout", "thirteen", "mutate_args")
"""One for each worker: how often its model calls the tool must not matter."""

LIMITS = {"cooldown": None, "quota": "10/day", "breaker": "{everyone: 1000/5m}", "budget": "{user: $100/day}"}
QUICK = {"submit_timeout_s": 3.0, "poll_s": 0.1, "grace_s": 0.2, "settle_s": 90.0, "absent_gap_s": 0.5}
"""A loaded machine may have to ask several times: when that ends in a HOLD is not tested here."""
TIMEOUTS = {"run_s": 8, "slack_s": 1.0, "attempts": 8}
TIMEOUT_S = 120


HEADERS = ("Content-Type", "X-Telegram-Bot-Api-Secret-Token")


class ReverseProxy:
    """A reverse proxy as operators have one: a replica that does not answer is a 502, and Telegram retries.

    Attributes:
        replicas: Base addresses of the bots.
        accepted: How many updates each replica answered with 200.
    """

    def __init__(self) -> None:
        self.replicas: list[str] = []
        self.accepted: Counter[str] = Counter()
        self._turn = 0

    async def __aenter__(self) -> Self:
        self._session = ClientSession(timeout=ClientTimeout(total=30))
        app = web.Application()
        app.router.add_post("/telegram", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/telegram"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        self._turn += 1
        replica = self.replicas[self._turn % len(self.replicas)]
        headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
        try:
            async with self._session.post(
                f"{replica}/telegram", data=await request.read(), headers=headers
            ) as answer:
                body = await answer.read()
        except (ClientError, TimeoutError, OSError):
            return web.Response(status=502)
        self.accepted[replica] += answer.status == 200
        return web.Response(status=answer.status, body=body, content_type="application/json")

    async def ready(self, replica: str) -> bool:
        """Ask a replica whether it is ready for traffic."""
        try:
            async with self._session.get(f"{replica}/readyz") as answer:
                return answer.status == 200
        except (ClientError, TimeoutError, OSError):
            return False


@dataclass
class Fleet:
    """The processes, and everything that outlives them."""

    env: ProcessEnvironment
    proxy: ReverseProxy
    bots: list[WorkerProcess] = field(default_factory=list)
    workers: list[WorkerProcess] = field(default_factory=list)

    @property
    def api(self) -> BotApiServer:
        return self.env.api

    @property
    def fake_provider(self) -> FakeProvider:
        return self.env.fake_provider

    @property
    def ledger(self) -> Ledger:
        return self.env.ledger

    def kill_a_worker(self, place: int) -> None:
        """SIGKILL one worker and replace it."""
        self.workers[place].kill()
        self.workers[place] = WorkerProcess(self.workers[place].config)

    def kill_a_bot(self, place: int) -> None:
        """SIGKILL one bot and replace it on its port."""
        self.bots[place].kill()
        self.bots[place] = WorkerProcess(self.bots[place].config)

    async def charged_more_than(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.fake_provider.charges()) > count

        await wait_until(enough, TIMEOUT_S, f"more than {count} charges")


@pytest.fixture
def bare_database() -> Iterator[str]:
    """An empty database of this test alone: the first process makes the tables."""
    if not services.looked_up():
        pytest.skip("no PostgreSQL answers; the summary says so")
    with services.database() as url:
        yield url


@pytest.fixture
async def fleet(
    bare_database: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Fleet]:
    server = start_valkey(tmp_path_factory)
    try:
        async with _open(bare_database, server.connection_url, tmp_path) as one:
            yield one
    finally:
        server.stop()


@asynccontextmanager
async def _open(url: str, redis_url: str, folder: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(ReverseProxy())
        env = await stack.enter_async_context(
            open_process_env(
                folder,
                redis_url,
                shape="inworld",
                database_url=url,
                migrate=False,
                settings={
                    "agents_dir": write_agent_specs(folder / "agents", **LIMITS),
                    "webhook_url": proxy.url,
                    "webhook_secret": SECRET,
                    "worker": "apart",
                },
                capabilities=QUICK,
                timeouts=TIMEOUTS,
            )
        )
        fleet = Fleet(env, proxy)
        stack.callback(lambda: [one.kill() for one in [*fleet.bots, *fleet.workers]])
        _start(fleet, env.config)
        yield fleet


def _start(fleet: Fleet, config: WorkerConfig) -> None:
    """Start all of them at once, on a database without tables."""
    for port in _free_ports(BOTS):
        fleet.proxy.replicas.append(f"http://127.0.0.1:{port}")
        settings = {**config.settings, "http_port": port}
        fleet.bots.append(WorkerProcess(replace(config, parts="bot", settings=settings)))
    for behavior in BEHAVIORS:
        fleet.workers.append(WorkerProcess(replace(config, parts="worker", behavior=behavior)))


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


async def _all_ready(fleet: Fleet) -> None:
    async def ready() -> bool:
        found = await asyncio.gather(*map(fleet.proxy.ready, fleet.proxy.replicas))
        return all(found) and fleet.api.world.webhook_sender.webhook is not None

    await wait_until(ready, TIMEOUT_S, "three bots to be ready")


async def _send(fleet: Fleet, chance: random.Random, number: int) -> None:
    """One /create, and its update again: to the next replica, several at once."""
    person: Person = fleet.api.user(1001 + number % USERS, f"P{number % USERS}")
    await person.send(f"/create a paper boat, number {number}")
    if chance.random() < 0.5 and person.last_update is not None:
        await fleet.api.redeliver(person.last_update.id, times=chance.randint(1, 4))


async def _all_settled(fleet: Fleet) -> list[tuple[Request, Video | None]]:
    found: list[tuple[Request, Video | None]] = []

    async def rest() -> bool:
        try:
            found[:] = await fleet.env.all_requests()
        except (SQLAlchemyError, OSError):
            return False
        return (
            len(found) >= REQUESTS
            and not fleet.api.pending_updates
            and all(is_settled(*one) for one in found)
        )

    try:
        await wait_until(rest, TIMEOUT_S, f"{REQUESTS} requests to be settled")
    finally:
        print(_ends(found))  # noqa: T201 - helps to read a failure
    return found


def _ends(found: list[tuple[Request, Video | None]]) -> Counter[str]:
    return Counter(str(video.state if video else request.state) for request, video in found)


async def test_a_fleet_pays_once_and_delivers_everything(fleet: Fleet):
    """Three bots, four workers, kills and redeliveries: one charge and one video for each command."""
    chance = random.Random(11)
    await _all_ready(fleet)
    here, newest = await database.revisions(fleet.ledger)
    assert here == newest, "seven processes at once on a database without tables"
    for number in range(REQUESTS):
        await _send(fleet, chance, number)
        if number % 7 == 6:
            await fleet.charged_more_than(number // 3)
            fleet.kill_a_worker(number % WORKERS)
        if number == 15:
            fleet.kill_a_bot(1)
            fleet.kill_a_worker(3)
    found = await _all_settled(fleet)
    assert _ends(found) == {str(VideoState.DELIVERED): REQUESTS}
    charged = Counter(line["key"] for line in fleet.fake_provider.charges())
    assert charged == {provider_key(request.request_id): 1 for request, _ in found}
    await assert_ledger_matches(fleet.ledger, fleet.fake_provider)
    assert all(fleet.proxy.accepted[one] for one in fleet.proxy.replicas), "a replica that was never asked"
    _every_video_is_in_its_chat(fleet, found)
    await _ends_when_asked(fleet)


def _every_video_is_in_its_chat(fleet: Fleet, found: list[tuple[Request, Video | None]]) -> None:
    for request, _ in found:
        shown = [b for b in fleet.api.user(request.user_id).history() if not b.mine and b.media is not None]
        assert any(f"#{request.short_id}" in bubble.text for bubble in shown), request.request_id


async def _ends_when_asked(fleet: Fleet) -> None:
    """Every process ends by itself after SIGTERM."""
    processes = [*fleet.bots, *fleet.workers]
    for one in processes:
        one.send(signal.SIGTERM)

    async def gone() -> bool:
        return not any(one.alive for one in processes)

    await wait_until(gone, 60, "all processes to end")
    assert {one.exit_code for one in processes} == {0}
