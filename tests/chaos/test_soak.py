"""The soak as a law: a seeded storm over the whole house ends with one payment and one answer each."""

import time

import pytest

from tests.chaos import soak
from tests.chaos.soak import Soak
from tests.support import services
from tests.support.services import ROOT

# Minutes long, and what meets what differs from run to run: for `make test-rest`, not for `make test`.
_ON_POSTGRES = pytest.mark.skipif(not services.looked_up(), reason="PostgreSQL does not answer")
pytestmark = [pytest.mark.all, pytest.mark.slow, pytest.mark.timeout(300)]


async def ran(folder, capsys, **asked) -> Soak:
    """Run one soak and leave its page in the report, for whoever looks at a failure."""
    done = await soak.run(Soak(**asked), folder, print)
    soak.page(done, soak.Console(width=110))
    return done


async def test_a_storm_pays_once_and_loses_nothing(tmp_path, capsys):
    """Kills, cuts, flushes, redeliveries, lost answers: at most one charge each, nobody left in silence."""
    done = await ran(tmp_path, capsys, requests=60, seed=7)
    assert done.breaches == [], capsys.readouterr().out
    assert done.metrics["requests"] >= 60
    assert done.metrics["delivered"] > 0
    assert done.metrics["kills"] > 0
    assert done.metrics["flushes"] > 0


@pytest.mark.all
@pytest.mark.parametrize(
    ("provider", "seed", "database"),
    [
        ("keyed", 8, "sqlite"),
        ("listable", 9, "sqlite"),
        ("blind", 10, "sqlite"),
        pytest.param("listable", 11, "postgresql", marks=_ON_POSTGRES),
    ],
)
async def test_a_longer_storm(tmp_path, capsys, provider, seed, database):
    """Two hundred requests, for each kind of provider, and on PostgreSQL: the same law."""
    storm = {"requests": 200, "seed": seed, "provider": provider, "database": database}
    done = await ran(tmp_path, capsys, seconds=220, **storm)
    assert done.breaches == [], capsys.readouterr().out
    assert done.metrics["duplicates"] == done.metrics["lost"] == 0


@pytest.mark.parametrize(
    ("sabotage", "provider", "law"),
    [
        pytest.param("resends", "blind", "duplicate"),
        pytest.param("random keys", "keyed", "nobody's charge", marks=pytest.mark.all),
        pytest.param("silence", "keyed", "lost", marks=pytest.mark.all),
    ],
)
async def test_a_broken_house_goes_red(tmp_path, capsys, sabotage, provider, law):
    """The soak can fail: with one line of the house broken, the broken law is named, with its request."""
    began = time.monotonic()
    done = await ran(tmp_path, capsys, requests=24, seed=4, provider=provider, calm_s=20, sabotage=sabotage)
    found = [one for one in done.breaches if one["law"] == law]
    assert found, f"{sabotage} went unseen in {time.monotonic() - began:.0f} s"
    assert law == "nobody's charge" or any(one["transitions"] for one in found)
    assert (ROOT / "tests" / "soak.py").name in done.command
