"""Stores that fail over behind one address, or refuse for a while: everything continues without a restart."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Literal
from uuid import uuid4

import pytest
from pydantic import SecretStr
from redis.crc import key_slot
from redis.exceptions import RedisError
from sqlalchemy.exc import DBAPIError

from chat.i18n import translator
from evals.environment import QUICK_TIMEOUTS
from ledger import health as ledger_health
from ledger.models import VideoState as V
from sandbox.proxy import Proxy
from tests.support.app_harness import count_requests, open_app_env, sent_texts, wait_for_state
from tests.support.private_servers import (
    CLUSTER_PORT_OFFSET,
    Postgres,
    RedisServer,
    private_postgres,
    private_redis,
    private_sentinel,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow
EN = translator("en")
_WRITE = "SET default_transaction_read_only = off"
_RESET = "RESET default_transaction_read_only"
SLOTS = 16_384
PATIENT = replace(QUICK_TIMEOUTS, retry_s=1, attempts=60)
"""A run that found its store away is tried again after it is back, however long a loaded machine takes."""

HEALED_S = 10
"""Within this time after a failover everything continues."""


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with private_postgres() as server:
        yield server


@pytest.fixture
async def database(postgres: Postgres) -> str:
    """An empty database of this test alone."""
    name = f"onetake_{uuid4().hex[:8]}"
    await postgres.execute(f"CREATE DATABASE {name}")
    return name


@pytest.fixture
async def read_only(postgres: Postgres, database: str):
    """Make sessions read-only: those that are open (`old`), or all (`all`); `none` heals them."""

    async def turn(which: Literal["old", "all", "none"]) -> None:
        new_ones = "SET default_transaction_read_only = off" if which == "old" else _RESET
        await postgres.execute(
            _WRITE,
            f"ALTER DATABASE {database} {new_ones}",
            f"ALTER SYSTEM SET default_transaction_read_only = {'off' if which == 'none' else 'on'}",
            "SELECT pg_reload_conf()",
        )

    yield turn
    await turn("none")


async def _one_video(env, user: int, seconds: float = 30) -> None:
    await env.user(user).send("/create a lighthouse in a storm")
    await wait_for_state(env, V.DELIVERED, user, seconds)


async def test_a_demoted_postgresql_is_left(
    redis_url, postgres: Postgres, database: str, read_only, tmp_path
):
    """The old primary answers reads and refuses writes on the connections that it has; new ones reach the new
    primary. A command that is sent then is one video, soon, and its user reads of no outage.
    """
    settings = {"database_url": SecretStr(postgres.url(database))}
    async with open_app_env(tmp_path, redis_url, settings=settings) as env:
        await _one_video(env, 1001)
        await read_only("old")
        await _one_video(env, 1002, HEALED_S)
        assert not env.api.pending_updates
        assert EN("away") not in sent_texts(env, 1002)
        assert len(env.fake_provider.charges()) == 2


async def test_a_read_only_postgresql_keeps_what_is_sent(
    redis_url, postgres: Postgres, database: str, read_only, tmp_path
):
    """Every connection refuses writes for longer than five tries take: the command stays unconfirmed, its
    user is told once, nothing is paid; when writes work it is one video.
    """
    settings = {"database_url": SecretStr(postgres.url(database))}
    async with open_app_env(tmp_path, redis_url, settings=settings) as env:
        await _one_video(env, 1003)
        requests = await count_requests(env)
        await read_only("all")
        await env.user(1004).send("/create a lighthouse in a storm")

        async def told() -> bool:
            return EN("away") in sent_texts(env, 1004)

        await wait_until(told, 10, "the outage reply")
        await asyncio.sleep(8)  # five tries take 6 s
        assert len(env.api.pending_updates) == 1
        with pytest.raises(DBAPIError, match="read-only"):
            await ledger_health.write(env.app.ledger)
        assert await count_requests(env) == requests
        await read_only("none")
        await wait_for_state(env, V.DELIVERED, 1004, 40)
        assert sent_texts(env, 1004).count(EN("away")) == 1
        assert len(env.fake_provider.charges()) == 2


async def test_a_demoted_redis_is_left(tmp_path):
    """The old master becomes a replica and keeps its connections; new ones reach the new master. A command
    that is sent then is one video, soon; guards, rate limits and queue all write to the new one.
    """
    with private_redis() as old, private_redis() as new:
        new.execute("REPLICAOF", "127.0.0.1", old.port)
        async with (
            Proxy("127.0.0.1", old.port) as proxy,
            open_app_env(tmp_path, f"redis://127.0.0.1:{proxy.port}", bots=2) as env,
        ):
            await _one_video(env, 1001)
            new.execute("REPLICAOF", "NO", "ONE")
            proxy.target = ("127.0.0.1", new.port)
            old.execute("REPLICAOF", "127.0.0.1", new.port)
            await _one_video(env, 1002, HEALED_S)

            await _received(env, new)
            assert len(env.fake_provider.charges()) == 2


async def test_a_sentinel_failover_is_followed(tmp_path):
    """The master dies, three Sentinels name its replica: what is sent meanwhile is kept, and is one video."""
    with private_redis() as master, private_redis() as replica, ExitStack() as stack:
        replica.execute("REPLICAOF", "127.0.0.1", master.port)
        sentinels = [stack.enter_context(private_sentinel(master, "mymaster", 2)) for _ in range(3)]

        async def watched() -> bool:
            found = [one.client().sentinel_master("mymaster") for one in sentinels]
            return all(one["num-slaves"] == 1 and one["num-other-sentinels"] == 2 for one in found)

        await wait_until(watched, 30, "Sentinels that know each other")
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        url = f"redis+sentinel://{hosts}/mymaster/0"
        async with open_app_env(tmp_path, url, timeouts=PATIENT) as env:
            await _one_video(env, 1001)
            master.process.kill()
            await env.user(1002).send("/create a lighthouse in a storm")

            async def promoted() -> bool:
                found = sentinels[0].client().sentinel_get_master_addr_by_name("mymaster")
                return int(found[1]) == replica.port

            await wait_until(promoted, 30, "the failover")
            await _one_video(env, 1003, HEALED_S)
            await wait_for_state(env, V.DELIVERED, 1002, 40)
            await _received(env, replica)
            assert len(env.fake_provider.charges()) == 3


async def _received(env, server: RedisServer) -> None:
    """Wait until a wake-up has gone through this server's queue."""

    async def added() -> bool:
        with suppress(RedisError):
            await env.app.docket.add("notify", key="notify:tg:none")("tg:none")
            return True
        return False

    await wait_until(added, HEALED_S, "a wake-up that is taken")

    async def received() -> bool:
        return server.execute("XLEN", env.app.docket.stream_key) == 0

    await wait_until(received, HEALED_S, "a wake-up through the new master")


async def _join(nodes: list[RedisServer], replica: RedisServer) -> None:
    """Join masters with a share of the slots each, and a replica of the first."""
    share = SLOTS // len(nodes) + 1
    for n, node in enumerate(nodes):
        node.execute("CLUSTER", "ADDSLOTSRANGE", n * share, min((n + 1) * share, SLOTS) - 1)
        node.execute("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
    for node in (*nodes[1:], replica):
        node.execute("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].port + CLUSTER_PORT_OFFSET)

    async def agreed() -> bool:
        infos = [str(one.execute("CLUSTER", "INFO")) for one in (*nodes, replica)]
        return all("cluster_state:ok" in one and f"known_nodes:{len(nodes) + 1}" in one for one in infos)

    await wait_until(agreed, 30, "the cluster")
    replica.execute("CLUSTER", "REPLICATE", nodes[0].execute("CLUSTER", "MYID"))

    async def copied() -> bool:
        return replica.client().info("replication").get("master_link_status") == "up"

    await wait_until(copied, 30, "the replica")


async def test_a_cluster_loses_a_master(tmp_path):
    """The master of our slot dies, its replica is promoted: what is sent meanwhile is kept, and one video."""
    config = {"cluster-enabled": "yes", "cluster-node-timeout": "1500", "save": ""}
    with ExitStack() as stack:
        servers = [stack.enter_context(private_redis(**config)) for _ in range(4)]
        *nodes, replica = servers
        await _join(nodes, replica)
        prefix = next(
            name for n in range(100)
            if key_slot(f"{{{(name := f'onetake{n}')}}}".encode()) < SLOTS // 3
            and key_slot(f"{{{name}-1000000001}}".encode()) < SLOTS // 3
        )  # fmt: skip
        url = f"redis+cluster://127.0.0.1:{nodes[2].port}"
        async with open_app_env(tmp_path, url, settings={"key_prefix": prefix}, timeouts=PATIENT) as env:
            await _one_video(env, 1001)
            nodes[0].process.kill()
            await env.user(1002).send("/create a lighthouse in a storm")

            async def promoted() -> bool:
                return replica.client().info("replication")["role"] == "master"

            await wait_until(promoted, 30, "the promotion")
            await _one_video(env, 1003, HEALED_S)
            await wait_for_state(env, V.DELIVERED, 1002, 40)
            assert len(env.fake_provider.charges()) == 3
