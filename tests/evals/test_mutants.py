"""Tests of the kill matrix: every mutant is caught by a case, and both controls pay once."""

import asyncio
import re

import pytest

from evals.case import Case
from evals.dataset import read_all
from evals.mutants.registry import MUTANTS, mutant
from evals.mutation_matrix import (
    BEGIN,
    END,
    OBLIGED,
    PAGE,
    Cell,
    Matrix,
    idle,
    pairs,
    play_pairs,
    unproven,
    write,
    wrong,
)
from evals.pool import open_pool

LAYERS = {"guard": 13, "ledger": 10, "worker": 6, "chat": 8, "model": 5, "library": 5}


def _case(name="C01", layer="guard"):
    return Case.model_validate(
        {
            "id": name,
            "title": "t",
            "layer": layer,
            "events": [{"send": "/create a market"}],
            "expect": {"paid": 1, "delivered": 1, "attempts": 1},
        }
    )


def test_every_layer_has_its_mutants():
    """The number of mutants of each layer, and each can be applied and removed again."""
    found = [one for one in MUTANTS.values() if not one.control]
    assert {layer: sum(one.layer == layer for one in found) for layer in LAYERS} == LAYERS
    assert {one.name for one in MUTANTS.values() if one.control} == {"guard_removed", "key_removed"}
    for name in MUTANTS:
        with mutant(name):
            pass


def test_declared_killers_exist():
    """A mutant that names a deleted case would not be checked."""
    known = {case.id for case in read_all()}
    missing = {name: set(one.killed) - known for name, one in MUTANTS.items() if set(one.killed) - known}
    assert not missing


def test_cases_that_are_obliged_name_their_layer():
    """Every case of B–G, I and M names the layer whose mutants it must kill."""
    assert [case.id for case in read_all() if case.category in OBLIGED and case.layer is None] == []


def test_what_is_wrong_is_named():
    """A sentence each for a mutant that survives, a declared killer that does not kill, a control that pays
    twice, and a mutant that could not be played.
    """
    case, bug, control = _case("D01"), MUTANTS["no_guard"], MUTANTS["guard_removed"]
    found = [
        *wrong(Matrix([Cell(bug, case)], [case], 1)),
        *wrong(Matrix([Cell(control, case, ("one charge per request",))], [case], 1)),
        *wrong(Matrix([Cell(control, case, trouble="gone")], [case], 1)),
        *wrong(Matrix([Cell(bug, _case(), trouble="gone"), Cell(bug, _case(), ("paid",))], [case], 1)),
    ]
    assert found == [
        "no_guard is killed by no case",
        "D01 is declared to kill no_guard and does not",
        "guard_removed pays more than once in D01",
        "guard_removed × D01: gone",
    ]


def test_other_refusals_are_no_second_payment():
    """A control may refuse with other reasons; a mutant that is only slow is not caught."""
    case = _case("D01")
    assert not Cell(MUTANTS["guard_removed"], case, ("reasons", "prevented")).killed
    assert not Cell(MUTANTS["no_guard"], case, ("rest",)).killed


def test_a_fault_that_a_bug_kept_away_neither_hides_it_nor_proves_it():
    """A mutant may never reach the fault: only what else it did wrong catches it."""
    case = _case("D01")
    assert not Cell(MUTANTS["no_guard"], case, ("faults",)).killed
    assert Cell(MUTANTS["no_guard"], case, ("faults", "paid")).killed
    assert Cell(MUTANTS["no_guard"], case, ("faults", "events")).killed
    assert not Cell(MUTANTS["no_guard"], case, ("rest", "delivered")).killed
    assert Cell(MUTANTS["no_guard"], case, ("rest", "one charge per request")).killed
    assert Cell(MUTANTS["no_guard"], case, ("rest", "no charge too many")).killed


def test_a_bug_that_was_missed_on_a_busy_machine_is_unproven():
    """It is neither caught nor missed: the run is incomplete, and names it. A kill is always a kill."""
    case, mutant = _case("D01"), MUTANTS["no_guard"]
    f01 = Cell(mutant, _case("F01"), ("paid",))
    missed = Matrix([Cell(mutant, case, excused=True), f01], [case], 1)
    assert list(wrong(missed)) == []
    assert [line.partition(":")[0] for line in unproven(missed)] == ["no_guard × D01"]
    assert list(wrong(Matrix([Cell(mutant, case), f01], [case], 1))) != []
    killed = Matrix([Cell(mutant, case, ("paid",), excused=True), f01], [case], 1)
    assert [*wrong(killed), *unproven(killed)] == []


def test_a_case_must_kill_in_its_own_layer():
    """A kill in another layer does not count, and A, H, J, K need none."""
    mine, other, free = _case("C01"), _case("C02", "chat"), _case("A01", None)
    cells = [Cell(MUTANTS["no_guard"], one, ("paid",)) for one in (mine, other, free)]
    assert list(idle(Matrix(cells, [mine, other, free], 1))) == ["C02 kills no mutant of the layer chat"]


def test_the_run_writes_its_table_between_the_marks(tmp_path):
    """The rest of the page stays as it is."""
    page = tmp_path / "evals.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n", encoding="utf-8")
    write(Matrix([Cell(MUTANTS["no_guard"], _case(), ("paid",))], [_case()], 7), page)
    written = page.read_text("utf-8")
    assert written.startswith("before\n")
    assert written.count("`no_guard`") == 1
    assert written.endswith(f"{END}\nafter\n")
    assert "| `no_guard` | guard | every call passes | 1 of 1: C01 |" in written
    assert "old" not in written


@pytest.mark.nightly  # CI plays the same by `make mutants`
@pytest.mark.timeout(590)
def test_every_mutant_is_caught():
    """Each mutant fails its declared cases; without either guard or order key, the app pays once."""
    with open_pool() as pool:
        matrix = asyncio.run(play_pairs(pairs(read_all(), quick=True), pool))
    assert list(wrong(matrix)) == []
    assert {cell.mutant.name for cell in matrix.cells} == set(MUTANTS)


ROW = re.compile(r"(?m)^\| `(\w+)` \| \w+ \| .* \| (?:(none)|(\d+)) of (\d+)(?:: (all but )?(.*?))? \|$")
CASES = read_all()
PLAYED = {name: {case.id for one, case in pairs(CASES) if one.name == name} for name in MUTANTS}


def killers() -> dict[str, set[str]]:
    """Return the killers of each mutant as the page lists them."""
    found = {}
    for name, none, count, _, but, named in ROW.findall(PAGE.read_text("utf-8")):
        ids = set(re.findall(r"\b[A-N]\d\d\w*", named))
        found[name] = set() if none else PLAYED[name] - ids if but else ids
        assert none or len(found[name]) >= int(count), name  # more: a case is younger than the row
    return found


def test_the_page_has_every_mutant():
    """A mutant without a row was never shown to be caught; layer and bug are those of the registry."""
    assert killers().keys() == MUTANTS.keys()
    page = PAGE.read_text("utf-8")
    for one in MUTANTS.values():
        assert f"| `{one.name}` | {one.layer} | {one.about} |" in page


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_by_its_declared_cases(name):
    """Each mutant was killed by the cases that it declares; the controls by none."""
    found = killers()[name]
    assert found >= set(MUTANTS[name].killed)
    assert bool(found) is not MUTANTS[name].control


@pytest.mark.parametrize("case", [one for one in CASES if one.category in OBLIGED], ids=lambda case: case.id)
def test_a_case_kills_in_the_layer_that_it_names(case):
    """A case of B to G and I that no bug of its layer fails does not test that layer."""
    assert [
        name for name, found in killers().items() if case.id in found and MUTANTS[name].layer == case.layer
    ]


def test_rows_that_were_played_alone_are_listed(tmp_path):
    """The line above the table describes the last whole matrix, and names every younger row."""
    page = tmp_path / "evals.md"
    page.write_text(f"{BEGIN}\n{END}\n", encoding="utf-8")
    case = next(one for one in CASES if one.id == "D01")

    def line(name: str, *, whole: bool) -> str:
        write(Matrix([Cell(MUTANTS[name], case, ("paid",))], [case], 7), page, whole=whole)
        return page.read_text("utf-8").splitlines()[1]

    first = line("no_guard", whole=True)
    assert first.endswith("1 games of 1 cases in 7 s, 0 faults.")
    for name in ("no_guard", "keyed_by_call_id", "no_guard"):
        again = line(name, whole=False)
    assert again.startswith(f"{first} Played again since: `no_guard` (")
    assert [again.count(f"`{name}` (") for name in ("no_guard", "keyed_by_call_id")] == [1, 1]
    assert line("no_guard", whole=True) == first
