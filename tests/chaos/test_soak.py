"""The soak as a test: seeded traffic and faults end with one payment and one answer for each request."""

import time

import pytest

from tests.chaos import soak
from tests.chaos.soak import Soak
from tests.support import services

# Runs for minutes, and the order of events differs from run to run.
_ON_POSTGRES = pytest.mark.skipif(not services.looked_up(), reason="PostgreSQL does not answer")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


async def run_soak(folder, **asked) -> Soak:
    """Run one soak and print its report, which pytest shows with a failure."""
    done = await soak.run(Soak(**asked), folder, print)
    soak.report(done, soak.Console(width=110))
    return done


async def test_a_soak_pays_once_and_loses_nothing(tmp_path, capsys):
    """Kills, cuts, flushes, redeliveries, lost answers: at most one charge each, every user notified."""
    done = await run_soak(tmp_path, requests=60, seed=7)
    assert done.breaches == [], capsys.readouterr().out
    assert done.metrics["requests"] >= 60
    assert done.metrics["delivered"] > 0
    assert done.metrics["kills"] > 0
    assert done.metrics["flushes"] > 0
    assert sum(done.faults.get(f"offer {word}", 0) for word in ("taken", "twice", "again")) > 0


@pytest.mark.parametrize(
    ("provider", "seed", "database"),
    [
        ("keyed", 8, "sqlite"),
        ("listable", 9, "sqlite"),
        ("blind", 10, "sqlite"),
        pytest.param("listable", 11, "postgresql", marks=_ON_POSTGRES),
    ],
)
@pytest.mark.nightly
async def test_a_longer_soak(tmp_path, capsys, provider, seed, database):
    """Two hundred requests, for each kind of provider, and on PostgreSQL."""
    asked = {"requests": 200, "seed": seed, "provider": provider, "database": database}
    done = await run_soak(tmp_path, seconds=220, **asked)
    assert done.breaches == [], capsys.readouterr().out
    assert done.metrics["duplicates"] == done.metrics["lost"] == 0


@_ON_POSTGRES
@pytest.mark.nightly
async def test_a_rough_soak(tmp_path, capsys):
    """Two accounts, a ledger's clock that steps by five minutes, a ledger that refuses writes for a while."""
    asked = {"requests": 100, "seed": 12, "provider": "listable", "database": "postgresql"}
    done = await run_soak(tmp_path, seconds=220, rough=True, **asked)
    assert done.breaches == [], capsys.readouterr().out
    assert done.metrics["paid at the second account"] > 0
    assert done.faults["sql read-only"] > 0
    assert sum(times for name, times in done.faults.items() if name.startswith("ledger's clock")) > 0


@pytest.mark.parametrize(
    ("sabotage", "provider", "check"),
    [
        pytest.param("resends", "blind", "duplicate", marks=pytest.mark.nightly),
        pytest.param("random keys", "keyed", "unknown charge", marks=pytest.mark.nightly),
        ("silence", "keyed", "lost"),
    ],
)
async def test_a_broken_app_fails(tmp_path, sabotage, provider, check):
    """The soak can fail: with one fault in the app the failed check is named, with its request."""
    began = time.monotonic()
    done = await run_soak(tmp_path, requests=24, seed=4, provider=provider, quiet_s=20, sabotage=sabotage)
    found = [one for one in done.breaches if one["check"] == check]
    assert found, f"{sabotage} was not found in {time.monotonic() - began:.0f} s"
    assert check == "unknown charge" or any(one["transitions"] for one in found)
    assert "tests.chaos.soak" in done.command
    assert f"--sabotage '{sabotage}'" in done.command
