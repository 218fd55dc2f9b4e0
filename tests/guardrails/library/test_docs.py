"""docs/guardrails.md: each claim names tests that exist, and each public name is written down."""

import re

import pytest

import guardrails
from tests.support.services import ROOT

PAGE = (ROOT / "docs" / "guardrails.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.partition("## What is guaranteed")[2].partition("\n## ")[0].splitlines()
    if line.startswith("|")
][2:]
TESTS = set(
    re.findall(
        r"^(?:async )?def (test_\w+)",
        "\n".join(path.read_text("utf-8") for path in (ROOT / "tests/guardrails/library").glob("test_*.py")),
        re.MULTILINE,
    )
)


def test_there_are_claims():
    assert len(ROWS) > 10


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_each_claim_names_its_tests(row):
    """A claim without a test is not made: the last column names tests of this folder."""
    assert len(row) == 5
    named = re.findall(r"`(test_\w+)`", row[4])
    assert named
    assert set(named) <= TESTS


@pytest.mark.parametrize(
    "name", ["Guard", "SqlStore", "NotSent", "Happened", "DidNotHappen", "CannotSay", "current_key"]
)
def test_each_name_of_the_example_is_explained(name):
    """What the page uses can be imported from the root of the package."""
    assert f"{name}" in PAGE
    assert getattr(guardrails, name).__doc__


@pytest.mark.parametrize("name", guardrails.__all__)
def test_every_public_name_can_be_imported(name):
    """The root imports lazily, so that nothing is loaded before it is used."""
    assert getattr(guardrails, name)
    assert guardrails._PLACES.keys() == set(guardrails.__all__)


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="'Gard'"):
        guardrails.__getattr__("Gard")
