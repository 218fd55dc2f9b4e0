"""The machine finds what is broken, holds what is shipped, and writes a counterexample down as a case."""

from collections.abc import Iterator

import pytest
import yaml

from evals.adversaries.catalog import make_adversary
from evals.case import Case, flat
from evals.events import Send, Worker
from evals.fuzz.pipeline import FuzzResources
from evals.fuzz.state_machine import CaseWriter, fuzz, open_fuzz_resources

GAMES = 60


@pytest.fixture(scope="module")
def where() -> Iterator[FuzzResources]:
    with open_fuzz_resources() as found:
        yield found


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken", ["no_guard", "hash_of_raw_arguments", "keyed_by_call_id", "check_then_set"]
)
def test_a_broken_guard_is_falsified(where: FuzzResources, broken: str):
    """The machine finds a request that such a guard pays twice, or refuses for nothing."""
    with pytest.raises((AssertionError, BaseExceptionGroup)) as found:
        fuzz(where, GAMES, broken=broken, shrink=False)
    assert any("as a case:" in line for line in _notes(found.value))


@pytest.mark.all
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "broken",
    ["hash_of_canonical_arguments", "hash_of_folded_arguments", "release_on_error", "claim_before_validation",
     "never_released", "server_error_is_failure"],
)  # fmt: skip
def test_other_bugs_are_falsified(where: FuzzResources, broken: str):
    """So are bugs of errors, deaths and doubts, which need a story of several steps."""
    with pytest.raises((AssertionError, BaseExceptionGroup)):
        fuzz(where, 4 * GAMES, broken=broken, shrink=False, steps=12)


def _notes(error: BaseException) -> list[str]:
    inner = getattr(error, "exceptions", ())
    return [*getattr(error, "__notes__", ()), *(line for one in inner for line in _notes(one))]


@pytest.mark.slow
def test_the_shipped_house_holds_a_few_games(where: FuzzResources):
    """Paid at most once, and exactly once where nothing was in the way; `make fuzz` plays more."""
    fuzz(where, 12)


@pytest.mark.all
@pytest.mark.timeout(590)
@pytest.mark.parametrize("broken", [None, "guard_removed", "key_removed"])
def test_the_shipped_house_holds(where: FuzzResources, broken: str | None):
    """Whole, or with either the guard or the order's key taken away."""
    fuzz(where, 200 if broken is None else GAMES, broken=broken)


def test_a_game_becomes_a_case():
    """What the machine tells is a case that the runner takes as it is."""
    story = CaseWriter()
    story.deliver()
    story.model_calls([{"calls": [{"times": 2}]}])
    story.redeliver(1)
    story.provider_fault("charge_drop")
    story.crash_worker("admitted")
    story.redis_flush()
    story.advance_clock(130)
    story.work()
    (found,) = yaml.safe_load(story.yaml())
    case = Case.model_validate(found)
    make_adversary(case.policy)
    kinds = [type(one) for one in flat(case.events)]
    assert kinds[:3] == [Worker, Worker, Send], "whoever dies waits there before anything is sent"
    assert case.provider.script == ("charge_drop",)
    assert str(case.expect.paid) == "≤ 1", "a provider that fails need not be paid"
    assert "in doubt" in case.expect.errors
    assert "&id" not in story.yaml(), "a person reads it: no anchors"


@pytest.mark.parametrize(("sound", "paid"), [(True, "2"), (False, "≤ 2")])
def test_a_game_with_nothing_in_the_way_expects_every_video(sound: bool, paid: str):
    """A house that makes nothing is a counterexample as well, and its case must be red."""
    story = CaseWriter()
    story.deliver()
    story.deliver()
    story.sound = sound
    expect = Case.model_validate(story.case()).expect
    assert (str(expect.paid), str(expect.delivered), expect.errors) == (paid, paid, ())
