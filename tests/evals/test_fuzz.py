"""Tests of the fuzzer: it finds mutants, passes the shipped app, and writes counterexamples as cases."""

from collections.abc import Iterator

import pytest
import yaml

from evals.adversaries.catalog import make_adversary
from evals.case import Case, flat
from evals.events import Send, Worker
from evals.fuzz.pipeline import FuzzResources
from evals.fuzz.state_machine import CaseWriter, fuzz, open_fuzz_resources

GAMES = 60
SEED = 4
"""Fixed: without one, hypothesis derives the examples from the source, and a renamed name changes them."""


@pytest.fixture(scope="module")
def resources() -> Iterator[FuzzResources]:
    with open_fuzz_resources() as found:
        yield found


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(
    "broken", ["no_guard", "hash_of_raw_arguments", "keyed_by_call_id", "check_then_set"]
)
def test_a_broken_guard_is_falsified(resources: FuzzResources, broken: str):
    """The machine finds a request that is paid twice, or refused without reason."""
    with pytest.raises((AssertionError, BaseExceptionGroup)) as found:
        fuzz(resources, GAMES, broken=broken, shrink=False, number=SEED)
    assert any("as a case:" in line for line in _notes(found.value))


@pytest.mark.nightly  # CI plays `make fuzz` and `make mutants`
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "broken",
    ["hash_of_canonical_arguments", "hash_of_folded_arguments", "release_on_error", "claim_before_validation",
     "never_released", "server_error_is_failure"],
)  # fmt: skip
def test_other_bugs_are_falsified(resources: FuzzResources, broken: str):
    """Bugs around errors, kills and unknown outcomes, which need several steps, are found too."""
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        fuzz(resources, 4 * GAMES, broken=broken, shrink=False, steps=12, number=SEED)


def _notes(error: BaseException) -> list[str]:
    inner = getattr(error, "exceptions", ())
    return [*getattr(error, "__notes__", ()), *(line for one in inner for line in _notes(one))]


@pytest.mark.slow
def test_the_shipped_app_passes_a_few_games(resources: FuzzResources):
    """Paid at most once, and exactly once without obstacles; `make fuzz` plays more."""
    fuzz(resources, 12)


@pytest.mark.nightly
@pytest.mark.timeout(590)
@pytest.mark.parametrize("broken", [None, "guard_removed", "key_removed"])
def test_the_shipped_app_passes(resources: FuzzResources, broken: str | None):
    """Complete, or with either the guard or the order's key removed."""
    fuzz(resources, 200 if broken is None else GAMES, broken=broken)


def test_a_game_becomes_a_case():
    """What the machine writes is a valid case."""
    writer = CaseWriter()
    writer.deliver()
    writer.model_calls([{"calls": [{"times": 2}]}])
    writer.redeliver(1)
    writer.provider_fault("charge_drop")
    writer.crash_worker("admitted")
    writer.redis_flush()
    writer.advance_clock(130)
    writer.work()
    (found,) = yaml.safe_load(writer.yaml())
    case = Case.model_validate(found)
    make_adversary(case.policy)
    kinds = [type(one) for one in flat(case.events)]
    assert kinds[:3] == [Worker, Worker, Send], "kills are set before anything is sent"
    assert case.provider.script == ("charge_drop",)
    assert str(case.expect.paid) == "≤ 1", "a provider that fails need not be paid"
    assert "in doubt" in case.expect.errors
    assert "&id" not in writer.yaml(), "no anchors: people read it"


@pytest.mark.parametrize(("sound", "paid"), [(True, "2"), (False, "≤ 2")])
def test_a_game_without_obstacles_expects_every_video(sound: bool, paid: str):
    """An app that makes no video is a counterexample too, so its case must fail."""
    writer = CaseWriter()
    writer.deliver()
    writer.deliver()
    writer.sound = sound
    expect = Case.model_validate(writer.case()).expect
    assert (str(expect.paid), str(expect.delivered), expect.errors) == (paid, paid, ())
