"""Starts measured processes against servers of this one, and reads their CPU, memory and SQL counts.

Bot API, provider clock and load run in the measuring process; only the children are counted.
"""

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

from redis.asyncio import Redis
from sqlalchemy import func, select

from bench import instant_provider
from bench.agent_run import WIDE_LIMITS
from bench.stores import database, plain_client, private_redis
from evals.environment import write_agent_specs
from evals.waiting import wait_until
from ledger import database as ledger_database
from ledger.database import Ledger
from ledger.schema import requests, videos
from sandbox.telegram.server import BotApiServer

ROOT: Final = Path(__file__).resolve().parents[1]
_MIGRATING: Final = asyncio.Lock()
"""Alembic keeps the migration that runs in module variables: one at a time in a process."""

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Totals since the start; two are subtracted from each other.

    Attributes:
        cpu_s: CPU seconds of all measured processes.
        transactions, statements: SQL of all measured processes.
        commands: Redis commands, those inside scripts included.
        redis_cpu_s: CPU seconds of the Redis server.
    """

    cpu_s: float = 0.0
    transactions: float = 0
    statements: float = 0
    commands: float = 0
    redis_cpu_s: float = 0.0

    def __sub__(self, other: Self) -> "Usage":
        return Usage(*(mine - theirs for mine, theirs in zip(self.values, other.values, strict=True)))

    def __mul__(self, factor: float) -> "Usage":
        return Usage(*(one * factor for one in self.values))

    @property
    def values(self) -> tuple[float, ...]:
        """All totals, in order."""
        return self.cpu_s, self.transactions, self.statements, self.commands, self.redis_cpu_s


@dataclass
class Measured:
    """One child process."""

    popen: "subprocess.Popen[bytes]"
    counts: Path
    log: Path

    @property
    def cpu_s(self) -> float:
        """CPU seconds, user and system."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_S

    @property
    def rss_mb(self) -> float:
        """Resident memory now, in megabytes."""
        for line in Path(f"/proc/{self.popen.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    @property
    def sql(self) -> tuple[int, int]:
        """Transactions and statements so far."""
        found: tuple[int, int] = struct.unpack("QQ", self.counts.read_bytes())
        return found

    async def stop(self) -> None:
        """Send SIGTERM and wait: what the process writes at its end is there afterwards."""
        self.popen.send_signal(signal.SIGTERM)
        await asyncio.to_thread(self.popen.wait, 60)

    async def kill(self) -> None:
        """Send SIGKILL and wait; nothing that it leaves behind is read again."""
        self.popen.kill()
        await asyncio.to_thread(self.popen.wait)


@dataclass
class Site:
    """The servers of one measurement, and the processes that were started on them.

    Attributes:
        lost: Commands that ended without a video.
    """

    folder: Path
    api: BotApiServer
    redis_url: str
    redis: Redis
    database_url: str
    ledger: Ledger
    stack: AsyncExitStack
    started: list[Measured] = field(default_factory=list)
    lost: int = 0

    def environment(self, **more: str) -> dict[str, str]:
        """Return the environment of a process on these servers: the shipped settings, but for limits."""
        inherited = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return inherited | {
            "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "TELEGRAM_BOT_TOKEN": self.api.token,
            "TELEGRAM_API_URL": self.api.base_url, "REDIS_URL": self.redis_url,
            "DATABASE_URL": self.database_url, "VAR_DIR": str(self.folder / "var"),
            "MEDIA_DIR": str(self.folder / "media"), "AGENTS_DIR": str(self.folder / "agents"),
            "VIDEO_PROVIDER": instant_provider.NAME, "HTTP_PORT": "0", "LOG_FORMAT": "json",
        } | more  # fmt: skip

    async def start(self, role: str, **more: str) -> Measured:
        """Start `run` or `worker` with further variables, and wait until it works."""
        number = len(self.started)
        counts, log = self.folder / f"counts{number}", self.folder / f"log{number}"
        counts.write_bytes(bytes(16))
        environment = self.environment(BENCH_COUNTS=str(counts), **more)
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [sys.executable, "-m", "bench.process", role],
                env=environment, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        one = Measured(popen, counts, log)
        self.started.append(one)
        self.stack.push_async_callback(one.kill)
        words = (b'"polling"', b'"worker started"')

        async def is_up() -> bool:
            assert popen.poll() is None, log.read_text(errors="replace")[-2000:]
            return any(word in log.read_bytes() for word in words)

        await wait_until(is_up, 120, f"the start of {role}")
        await asyncio.sleep(1)
        return one

    async def usage(self) -> Usage:
        """Return the totals of all processes that were started and of Redis."""
        sql = [one.sql for one in self.started]
        found: dict[str, Any] = await self.redis.info("commandstats")
        cpu = await self.redis.info("cpu")
        return Usage(
            sum(one.cpu_s for one in self.started),
            sum(one[0] for one in sql),
            sum(one[1] for one in sql),
            sum(one["calls"] for name, one in found.items() if name != "cmdstat_info"),
            float(cpu["used_cpu_sys"]) + float(cpu["used_cpu_user"]),
        )

    async def idle(self, seconds: float) -> Usage:
        """Return what one second without any request uses."""
        before = await self.usage()
        await asyncio.sleep(seconds)
        return (await self.usage() - before) * (1 / seconds)

    async def ended(self) -> tuple[int, int]:
        """Count the requests that have ended: with a delivered video, and without one."""
        async with self.ledger.read() as conn:
            made = select(func.count()).select_from(videos).where(videos.c.state == "DELIVERED")
            unmade = select(func.count()).where(requests.c.state.in_(("REFUSED", "NO_ORDER", "CANCELLED")))
            other = select(func.count()).where(
                videos.c.state.in_(("FAILED_UNPAID", "FAILED_PAID", "EXPIRED", "HOLD"))
            )
            found = [int(await conn.scalar(query) or 0) for query in (made, unmade, other)]
        return found[0], found[1] + found[2]

    async def create(self, first_user: int, count: int, seconds: float = 120) -> float:
        """Send `count` /create at once, each from its own user; return the seconds to the last end.

        Those that end without a video are added to `lost`.
        """
        made, lost = await self.ended()
        loop = asyncio.get_running_loop()
        began = loop.time()
        for user in range(first_user, first_user + count):
            await self.api.user(user, "Ana").send("/create a quiet market at dawn")

        async def is_done() -> bool:
            return sum(await self.ended()) >= made + lost + count

        await wait_until(is_done, seconds, f"{count} requests to end; the latest log is {self._last_log()}")
        self.lost += (await self.ended())[1] - lost
        return loop.time() - began

    def _last_log(self) -> str:
        return self.started[-1].log.read_text(errors="replace")[-600:] if self.started else ""


@asynccontextmanager
async def site(folder: Path, policy: Mapping[str, str | None] | None = None) -> AsyncIterator[Site]:
    """Start the servers of one measurement; its processes end with the block."""
    folder.mkdir(parents=True, exist_ok=True)
    write_agent_specs(folder / "agents", **{**WIDE_LIMITS, **(policy or {})})
    with private_redis(folder / "valkey") as redis_url:
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            database_url = await enter(database(folder))
            ledger = Ledger(database_url)
            stack.push_async_callback(ledger.close)
            async with _MIGRATING:
                await ledger_database.migrate(ledger)
            api = await enter(BotApiServer(media_dir=folder / "telegram"))
            redis = await enter(plain_client(redis_url))
            yield Site(folder, api, redis_url, redis, database_url, ledger, stack)
