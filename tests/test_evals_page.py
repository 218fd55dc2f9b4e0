"""docs/evals.md holds a whole kill matrix, and it was green: what CI plays in a minute is looked up there."""

import re

import pytest

from evals.dataset import read_all
from evals.mutants.registry import MUTANTS
from evals.mutation_matrix import BEGIN, END, OBLIGED, PAGE, Cell, Matrix, pairs, write

ROW = re.compile(r"(?m)^\| `(\w+)` \| \w+ \| .* \| (?:(none)|(\d+)) of (\d+)(?:: (all but )?(.*?))? \|$")
CASES = read_all()
PLAYED = {name: {case.id for one, case in pairs(CASES) if one.name == name} for name in MUTANTS}


def killers() -> dict[str, set[str]]:
    """Return by mutant the cases that killed it, as the page has them."""
    found = {}
    for name, none, count, _, but, named in ROW.findall(PAGE.read_text("utf-8")):
        ids = set(re.findall(r"\b[A-K]\d\d\w*", named))
        found[name] = set() if none else PLAYED[name] - ids if but else ids
        assert none or len(found[name]) >= int(count), name  # more: a case is younger than the row
    return found


def test_the_page_has_every_mutant():
    """A broken house without a row was never shown to be caught."""
    assert killers().keys() == MUTANTS.keys()


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_killed_by_whom_it_names(name):
    """Each broken house fell to the cases that it declares; with guard or key removed the house paid once."""
    found = killers()[name]
    assert found >= set(MUTANTS[name].killed)
    assert bool(found) is not MUTANTS[name].control


@pytest.mark.parametrize("case", [one for one in CASES if one.category in OBLIGED], ids=lambda case: case.id)
def test_a_case_kills_in_the_layer_that_it_names(case):
    """A case of B to G and I that no bug of its layer fails is no test of that layer."""
    assert [
        name for name, found in killers().items() if case.id in found and MUTANTS[name].layer == case.layer
    ]


def test_rows_that_are_played_alone_say_so(tmp_path):
    """The line above the table is that of the last whole matrix; every younger row is named beside it."""
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
