"""Many machines: three bots and four workers, each a process, on one Redis and one PostgreSQL.

Telegram comes by webhook over the replicas in turn, with redeliveries; workers and a bot are killed in the
middle and replaced. The oracle is the provider's own charge log.
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

import pytest
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from evals.environment import assert_ledger_matches, is_settled, write_agent_specs
from ledger import database
from ledger.database import Ledger
from ledger.models import Request, Video, VideoState, provider_key
from ledger.schema import requests, videos
from sandbox.telegram.server import BotApiServer
from sandbox.telegram.user import Person
from sandbox.video_api.openai import FakeProvider
from tests.support import services
from tests.support.app_harness import SECRET, Front
from tests.support.services import start_valkey
from tests.support.waiting import wait_until
from tests.support.worker_process import Member, Orders, start_forkserver

pytestmark = [pytest.mark.all, pytest.mark.timeout(420)]

BOTS, WORKERS, USERS, REQUESTS = 3, 4, 12, 30
BEHAVIOURS = ("benign", "fanout", "thirteen", "mutate_args")
"""One for each worker: how often its model asks for the video must not matter."""

LIMITS = {"cooldown": None, "quota": "10/day", "breaker": "{everyone: 1000/5m}", "budget": "{user: $100/day}"}
QUICK = {"submit_timeout_s": 3.0, "poll_s": 0.1, "grace_s": 0.2, "settle_s": 90.0, "absent_gap_s": 0.5}
"""A loaded machine may have to ask several times: when a doubt becomes a HOLD is not what is tried here."""
PACE = {"run_s": 8, "slack_s": 1.0, "attempts": 8}
PATIENCE_S = 120


@dataclass
class Fleet:
    """The processes, and all that outlives them."""

    api: BotApiServer
    fake_provider: FakeProvider
    front: Front
    ledger: Ledger
    bots: list[Member] = field(default_factory=list)
    workers: list[Member] = field(default_factory=list)

    def kill_a_worker(self, place: int) -> None:
        """SIGKILL one worker; another takes its place."""
        self.workers[place].kill()
        self.workers[place] = Member(self.workers[place].orders)

    def kill_a_bot(self, place: int) -> None:
        """SIGKILL one bot; another takes its place and its port."""
        self.bots[place].kill()
        self.bots[place] = Member(self.bots[place].orders)

    async def all_requests(self) -> list[tuple[Request, Video | None]]:
        async with self.ledger.read() as conn:
            made = {row.request_id: Video.from_row(row) for row in await conn.execute(select(videos))}
            found = await conn.execute(select(requests).order_by(requests.c.created_at))
            return [(Request.from_row(row), made.get(row.request_id)) for row in found]

    async def charged_more_than(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.fake_provider.charges()) > count

        await wait_until(enough, PATIENCE_S, f"more than {count} charges")


@pytest.fixture
def bare_database() -> Iterator[str]:
    """An empty database of this test alone: whoever comes first makes the tables."""
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
        fake_provider = await stack.enter_async_context(FakeProvider(folder / "peer", shape="inworld"))
        api = await stack.enter_async_context(BotApiServer(clock_scale=60, media_dir=folder / "telegram"))
        front = await stack.enter_async_context(Front())
        ledger = Ledger(url)
        stack.push_async_callback(ledger.close)
        fleet = Fleet(api, fake_provider, front, ledger)
        stack.callback(lambda: [one.kill() for one in [*fleet.bots, *fleet.workers]])
        _start(fleet, _orders(fleet, url, redis_url, folder))
        yield fleet


def _orders(fleet: Fleet, url: str, redis_url: str, folder: Path) -> Orders:
    return Orders(
        settings={
            "telegram_bot_token": fleet.api.token,
            "telegram_api_url": fleet.api.base_url,
            "redis_url": redis_url,
            "database_url": url,
            "var_dir": folder / "var",
            "agents_dir": write_agent_specs(folder / "agents", **LIMITS),
            "webhook_url": fleet.front.url,
            "webhook_secret": SECRET,
            "worker": "apart",
        },
        provider={"base_url": fleet.fake_provider.base_url, "shape": "inworld"},
        capabilities=QUICK,
        timeouts=PACE,
    )


def _start(fleet: Fleet, orders: Orders) -> None:
    """Start all of them at once, on a database without tables."""
    start_forkserver()
    for port in _free_ports(BOTS):
        fleet.front.replicas.append(f"http://127.0.0.1:{port}")
        settings = {**orders.settings, "http_port": port}
        fleet.bots.append(Member(replace(orders, parts="bot", settings=settings)))
    for behavior in BEHAVIOURS:
        fleet.workers.append(Member(replace(orders, parts="worker", behavior=behavior)))


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


async def _all_ready(fleet: Fleet) -> None:
    async def ready() -> bool:
        found = await asyncio.gather(*map(fleet.front.ready, fleet.front.replicas))
        return all(found) and fleet.api.world.webhook_sender.webhook is not None

    await wait_until(ready, PATIENCE_S, "three bots to be ready")


async def _send(fleet: Fleet, chance: random.Random, number: int) -> None:
    """One /create, and its update again: to whichever replica is next, several at once."""
    person: Person = fleet.api.user(1001 + number % USERS, f"P{number % USERS}")
    await person.send(f"/create a paper boat, number {number}")
    if chance.random() < 0.5 and person.last_update is not None:
        await fleet.api.redeliver(person.last_update.id, times=chance.randint(1, 4))


async def _all_rest(fleet: Fleet) -> list[tuple[Request, Video | None]]:
    found: list[tuple[Request, Video | None]] = []

    async def rest() -> bool:
        try:
            found[:] = await fleet.all_requests()
        except (SQLAlchemyError, OSError):
            return False
        return (
            len(found) >= REQUESTS
            and not fleet.api.pending_updates
            and all(is_settled(*one) for one in found)
        )

    try:
        await wait_until(rest, PATIENCE_S, f"{REQUESTS} requests to rest")
    finally:
        print(_ends(found))  # noqa: T201 - for whoever looks at a failure
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
    found = await _all_rest(fleet)
    assert _ends(found) == {str(VideoState.DELIVERED): REQUESTS}
    charged = Counter(line["key"] for line in fleet.fake_provider.charges())
    assert charged == {provider_key(request.request_id): 1 for request, _ in found}
    await assert_ledger_matches(fleet.ledger, fleet.fake_provider)
    assert all(fleet.front.accepted[one] for one in fleet.front.replicas), "a replica that nobody asked"
    _everybody_has_theirs(fleet, found)
    await _ends_when_asked(fleet)


def _everybody_has_theirs(fleet: Fleet, found: list[tuple[Request, Video | None]]) -> None:
    for request, _ in found:
        shown = [b for b in fleet.api.user(request.user_id).history() if not b.mine and b.media is not None]
        assert any(f"#{request.short_id}" in bubble.text for bubble in shown), request.request_id


async def _ends_when_asked(fleet: Fleet) -> None:
    """Every process ends by itself when it is asked to."""
    everybody = [*fleet.bots, *fleet.workers]
    for one in everybody:
        one.send(signal.SIGTERM)

    async def gone() -> bool:
        return not any(one.alive for one in everybody)

    await wait_until(gone, 60, "everybody to end")
    assert {one.exit_code for one in everybody} == {0}
