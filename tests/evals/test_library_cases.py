"""Tests of the cases of foreign agents: the library passes, each seeded bug of it is seen."""

import asyncio

import pytest

from evals.case import Case
from evals.dataset import read_all
from evals.events import EvalError
from evals.library.play import play_foreign
from evals.mutants.registry import MUTANTS
from evals.runner import CaseResources, play_alone
from evals.scorer import score
from evals.sources import job_of

CASES = {case.id: case for case in read_all() if case.agent is not None}
KILLS = [(name, case) for name, one in MUTANTS.items() if one.layer == "library" for case in one.killed]


def failed(case, tmp_path, broken=None):
    found = play_foreign([case], CaseResources("", scratch=tmp_path), broken).evidence[0]
    return {check.name: check.reason for check in score(case, found) if not check.holds}


@pytest.mark.parametrize("name", CASES)
async def test_a_foreign_agent_is_guarded(name, tmp_path):
    """One effect for one act and item, its result to everyone who asks, and no sentence of the SDK."""
    assert await asyncio.to_thread(failed, CASES[name], tmp_path) == {}


@pytest.mark.parametrize(("broken", "name"), KILLS)
async def test_a_bug_of_the_library_is_seen(broken, name, tmp_path):
    """Each seeded bug fails the cases that it declares, by something else than a wait."""
    assert set(await asyncio.to_thread(failed, CASES[name], tmp_path, broken)) - {"faults", "prevented"}


@pytest.mark.parametrize("name", CASES)
async def test_every_case_needs_the_guard(name, tmp_path):
    """Without the library every case pays too often: none of them is harmless by itself."""
    assert "one charge per request" in await asyncio.to_thread(failed, CASES[name], tmp_path, "unguarded")


def test_cases_of_foreign_agents_are_played_as_such():
    """The agent of a case decides what plays it; an event of the bot, or an unknown tool, is refused."""
    assert job_of(CASES["M01"]).player is play_foreign
    assert job_of(next(case for case in read_all() if case.id == "A01")).player is play_alone
    plain = CASES["M01"].model_dump(exclude={"events", "agent"})
    for changes in ({"events": [{"edit": "x", "of": "y"}]}, {"agent": {"tools": {"pay": {}}}}):
        usual = {"events": [{"send": "hello"}], "agent": {}}
        with pytest.raises(EvalError):
            play_foreign([Case.model_validate(plain | usual | changes)], CaseResources(""))
