"""Servers that one test starts for itself: PostgreSQL, PgBouncer, Redis, Sentinel. Absent ones skip it."""

import asyncio
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest
from redis import Redis
from redis.exceptions import RedisError

_START_S = 30.0

CLUSTER_PORT_OFFSET = 10_000
"""A cluster's nodes talk to each other at their port plus this."""


def free_port() -> int:
    """Return a port that was free a moment ago, as was the one of a cluster's node."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as free, suppress(OSError, OverflowError):
            port = int(free.getsockname()[1])
            with socket.create_server(("127.0.0.1", port - CLUSTER_PORT_OFFSET)):
                return port - CLUSTER_PORT_OFFSET


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that another user may enter: pytest's own are closed to it."""
    path = Path(tempfile.mkdtemp(prefix="onetake-server-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _program(name: str) -> str:
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default="")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def _as_postgres(folder: Path) -> list[str]:
    """Return what runs a command as someone else than root, and give them the folder."""
    if os.getuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        pytest.skip("there is no user postgres, and PostgreSQL does not run as root")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["runuser", "-u", "postgres", "--"]


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


@dataclass(frozen=True)
class Postgres:
    """A private PostgreSQL, whose superuser is `postgres` without a password."""

    port: int

    def url(self, database: str = "onetake") -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    async def execute(self, *statements: str, database: str = "postgres") -> None:
        """Execute each statement by itself, outside a transaction."""
        conn = await asyncpg.connect(self.url(database), timeout=5)
        try:
            for one in statements:
                await conn.execute(one)
        finally:
            await conn.close()


@contextmanager
def private_postgres() -> Iterator[Postgres]:
    """Run a PostgreSQL with an empty database `onetake`."""
    with _folder() as folder:
        as_user = _as_postgres(folder)
        data, port = folder / "data", free_port()
        initdb = [_program("initdb"), "-D", str(data), "-U", "postgres", "--auth=trust", "--no-sync"]
        subprocess.run([*as_user, *initdb], check=True, capture_output=True, cwd=folder)
        options = (
            f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
            " -c max_connections=200"
        )
        control = [*as_user, _program("pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log")]
        subprocess.run([*control, "-o", options, "start"], check=True, capture_output=True, cwd=folder)
        try:
            server = Postgres(port)
            asyncio.run(server.execute("CREATE DATABASE onetake"))
            yield server
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=False, capture_output=True)


@contextmanager
def private_pgbouncer(postgres: Postgres, **options: str) -> Iterator[int]:
    """Run a PgBouncer in transaction mode in front of it; yield its port."""
    with _folder() as folder:
        as_user, port = _as_postgres(folder), free_port()
        (folder / "users").write_text('"postgres" ""\n')
        lines = {
            "listen_addr": "127.0.0.1", "listen_port": str(port), "auth_type": "any",
            "auth_file": str(folder / "users"), "pool_mode": "transaction", "unix_socket_dir": "",
            "max_client_conn": "200", "default_pool_size": "6", "admin_users": "postgres",
        } | options  # fmt: skip
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={postgres.port} user=postgres\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in lines.items())
        )
        with _process([*as_user, _program("pgbouncer"), str(config)], folder / "log"):
            _wait_for_port(port, folder / "log")
            yield port


def _wait_for_port(port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}: {log.read_text(errors='replace')[-2000:]}")


@dataclass
class RedisServer:
    """A private Redis; `process` may be paused or killed."""

    port: int
    process: subprocess.Popen[bytes]

    def client(self) -> Redis:
        return Redis(port=self.port, decode_responses=True, socket_timeout=5)

    def execute(self, *command: object) -> object:
        with self.client() as client:
            return client.execute_command(*command)


@contextmanager
def private_redis(**config: str) -> Iterator[RedisServer]:
    """Run a Redis as production has it: append-only file, noeviction."""
    with _folder() as folder:
        port = free_port()
        given = {"appendonly": "yes", "save": "", "maxmemory-policy": "noeviction", "bind": "127.0.0.1"}
        lines = given | {"port": str(port), "dir": str(folder)} | config
        words = [word for name, value in lines.items() for word in (f"--{name}", value)]
        with _process([_program("redis-server"), *words], folder / "log") as process:
            server = RedisServer(port, process)
            _wait_for_redis(server, folder / "log")
            yield server


def _wait_for_redis(server: RedisServer, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        with suppress(RedisError, OSError):
            server.execute("PING")
            return
        time.sleep(0.05)
    raise RuntimeError(f"no Redis on {server.port}: {log.read_text(errors='replace')[-2000:]}")


@contextmanager
def private_sentinel(master: RedisServer, name: str, quorum: int) -> Iterator[RedisServer]:
    """Run a Sentinel that watches `master` under a name, quick to call it dead."""
    with _folder() as folder:
        port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"bind 127.0.0.1\nport {port}\ndir {folder}\n"
            f"sentinel monitor {name} 127.0.0.1 {master.port} {quorum}\n"
            f"sentinel down-after-milliseconds {name} 1000\nsentinel failover-timeout {name} 4000\n"
        )
        with _process([_program("redis-sentinel"), str(config)], folder / "log") as process:
            server = RedisServer(port, process)
            _wait_for_redis(server, folder / "log")
            yield server
