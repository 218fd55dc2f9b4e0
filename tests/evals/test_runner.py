"""Tests of the runner, the case files and recordings: the shipped app passes, a missing guard is caught."""

import asyncio
import json
import os
import shutil
import subprocess
import sys

import pytest
import yaml
from jsonschema import Draft202012Validator

from evals.adversaries.catalog import make_adversary
from evals.adversaries.scripted import normalised, read_recording, record
from evals.case import Case
from evals.dataset import CASES, SCHEMA, DatasetError, choose, read_all, read_file, scaffold, schema
from evals.events import EvalError
from evals.evidence import Evidence, Turn
from evals.metrics import upper_bound
from evals.results import Result, Results
from evals.runner import CaseResources, play
from evals.scorer import Check, score
from evals.topologies import topology
from evals.waiting import BUSY_S, CROWDED, LagMeter

CASE = {
    "id": "D01",
    "title": "t",
    "policy": "fanout",
    "events": [{"send": "/create a market"}],
    "expect": {"paid": 1, "delivered": {"least": 1}, "attempts": {"least": 13}},
}


def test_the_committed_schema_is_what_the_types_say():
    """Editors complete from evals/cases/schema.json, so it must match the types."""
    assert SCHEMA.read_text("utf-8") == schema(), "run: python -m evals schema"


@pytest.mark.parametrize("path", sorted(SCHEMA.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_an_editor_underlines_no_shipped_case(path):
    """The committed schema knows every short form that the types read, such as `outcome: DELIVERED`."""
    rules = Draft202012Validator(json.loads(SCHEMA.read_text("utf-8")))
    wrong = rules.iter_errors(yaml.safe_load(path.read_text("utf-8")))
    assert [f"{one.json_path}: {one.message}" for one in wrong] == []


@pytest.mark.slow
def test_every_case_names_what_exists():
    """Adversaries and topologies of all cases are known, and each file points editors to the schema."""
    for case in read_all():
        make_adversary(case.policy)
        with topology(case.topology):
            pass
    for path in SCHEMA.parent.glob("*.yaml"):
        assert path.read_text("utf-8").startswith("# yaml-language-server: $schema=schema.json\n")


def test_the_command_line_does_not_import_the_app():
    """`--help` and usage errors answer at once: app, SDK and SQL are imported by the commands."""
    heavy = "'app.application', 'agents', 'sqlalchemy', 'aiogram', 'evals.runner'"
    program = f"import sys, evals.cli; sys.exit(bool({{{heavy}}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_wrong_case_is_named_in_one_sentence(tmp_path):
    """An unknown field is refused with file, case and field."""
    path = tmp_path / "c.yaml"
    path.write_text("category: C\nabout: x\ncases:\n  - {id: C01, title: t, evens: []}\n")
    with pytest.raises(DatasetError, match=r"c\.yaml: C01.*"):
        read_file(path)


def test_an_unknown_id_is_refused():
    """`--case` with an unknown id runs nothing."""
    with pytest.raises(EvalError, match="C99"):
        choose(read_all(), ids=["C99"])


def test_upper_bound_of_zero_in_n():
    """No duplicate in N requests bounds the rate by about 3/N, never by zero."""
    assert upper_bound(0, 100) == pytest.approx(3 / 100, rel=0.05)
    assert upper_bound(0, 0) == 1


@pytest.mark.parametrize(("hits", "n", "bound"), [(1, 100, 0.0466), (3000, 6000, 0.5107), (60, 6000, 0.0124)])
def test_upper_bound_of_many_in_many(hits, n, bound):
    """A sweep against a mutant has thousands of hits, whose coefficients no float holds."""
    assert upper_bound(hits, n) == pytest.approx(bound, rel=0.01)


def test_a_case_without_evidence_is_incomplete():
    """A run in which a case raised, or without cases, is never ok."""
    case = Case.model_validate(CASE)
    assert Results([Result(case, trouble="gone")], 1).exit_code == 3
    assert Results([], 1).exit_code == 3


@pytest.mark.parametrize(
    ("failed", "lag_s", "verdict"),
    [
        ("rest", 0.0, "failed"),
        ("delivered", 0.0, "failed"),
        ("rest", BUSY_S, "incomplete"),
        ("delivered", BUSY_S, "incomplete"),
        ("one charge per request", 60.0, "failed"),
        ("honest", 60.0, "failed"),
    ],
)
def test_load_alone_is_not_red(failed, lag_s, verdict):
    """A case that failed where the machine stood still is incomplete, unless money or honesty failed."""
    case = next(iter(read_all()))
    found = Result(case, checks=[Check(failed, False, "why")], evidence=Evidence(case=case.id, lag_s=lag_s))
    assert found.verdict == verdict
    assert ("busy" in found.reason) == (verdict == "incomplete")
    assert Results([found], 1).exit_code == {"failed": 1, "incomplete": 3}[verdict]
    shared = found.evidence.model_copy(update={"lag_s": 0.0, "crowding": CROWDED if lag_s else 1.0})
    assert Result(case, checks=found.checks, evidence=shared).verdict == verdict
    held = Result(case, checks=[Check(failed, True, "")], evidence=Evidence(case=case.id, lag_s=lag_s))
    assert held.verdict == "ok"


def test_the_lag_of_a_process_is_measured():
    """A process that stands still shows how long."""
    with LagMeter() as busy:
        stopped = subprocess.run([sys.executable, "-c", _STOPS_ITS_PARENT, str(os.getpid())], check=True)
    assert stopped.returncode == 0
    assert busy.worst_s > 0.3


_STOPS_ITS_PARENT = """
import os, signal, sys, time
os.kill(int(sys.argv[1]), signal.SIGSTOP)
time.sleep(0.5)
os.kill(int(sys.argv[1]), signal.SIGCONT)
"""


def _played(valkey, tmp_path, broken=None, **changes):
    case = Case.model_validate(CASE | changes)
    found = play(case, CaseResources(valkey.connection_url, scratch=tmp_path), broken)
    return found, [check.name for check in score(case, found) if not check.holds]


async def test_a_fanout_is_paid_once(valkey, tmp_path):
    """The shipped app pays once for thirteen calls, also over a widened order key."""
    for broken in (None, "key_removed"):
        found, failed = await asyncio.to_thread(_played, valkey, tmp_path, broken)
        assert (found.paid, found.attempts >= 13, failed) == (1, True, []), broken


@pytest.mark.slow
async def test_a_missing_guard_is_caught(valkey, tmp_path):
    """Without a guard the scorer sees many charges: the oracle works."""
    found, failed = await asyncio.to_thread(_played, valkey, tmp_path, "no_guard")
    assert found.paid > 1
    assert "paid" in failed
    assert "one charge per request" in failed


@pytest.mark.slow
async def test_faults_that_never_happened_are_named(valkey, tmp_path):
    """Faults that did not happen are in the evidence: model, provider, proxy, Telegram, a worker."""
    faults = {
        "policy": {"name": "failing", "options": {"turn": 7}},
        "provider": {"script": ["accept", "charge_drop"], "fates": ["video", "fail"]},
        "events": [
            {"send": "/create a market"},
            {"rest": 30},
            {"worker": "kill", "at": "admitted"},
            {"redis": "lose_reply", "to": "no such command"},
            {"telegram": "sendVideo"},
        ],
        "expect": {"paid": 1, "delivered": 1, "attempts": 1},
    }
    found, failed = await asyncio.to_thread(_played, valkey, tmp_path, **faults)
    assert failed == ["faults"]
    assert found.unmet == [
        "no task reached 'admitted' any more",
        "no POST was left to meet 'charge_drop'",
        "no job was left to end in 'fail'",
        "no command was left whose reply could be lost",
        "no call of sendvideo was left to go wrong",
        "no turn 7 of the model was left to fail",
    ]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CASES, tmp_path / "cases")


@pytest.mark.representative
@pytest.mark.parametrize("name", ["C99", "K98b", "B97-as-the-page-says"])
def test_a_new_case_is_valid(folder, name):
    """What `python -m evals new` writes is valid, and every other case stays."""
    before = read_all(folder)
    assert scaffold(name, folder).name.startswith(name[0].lower())
    assert sorted([*(case.id for case in before), name]) == [case.id for case in read_all(folder)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Cfoo", "c99", "C1", "C99B", "C99: x", "C99\n", "Z01", "*01", "", "C01"])
def test_an_invalid_id_writes_nothing(folder, name):
    """An invalid id, or one that is taken, would break every later command."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DatasetError, match=r"is not a case id|C01 already exists"):
        scaffold(name, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


RECORDED_CASE = {
    "id": "D01", "title": "t", "policy": {"name": "fanout", "times": 5},
    "events": [{"send": "/create a market"}],
    "expect": {"paid": 1, "delivered": 1, "attempts": {"least": 5}},
}  # fmt: skip


@pytest.mark.slow
async def test_a_recorded_fanout_replays_to_the_same(valkey, tmp_path):
    """Charges, attempts and transcript are the same when a recording is replayed."""
    resources = CaseResources(valkey.connection_url, scratch=tmp_path)
    case = Case.model_validate(RECORDED_CASE)
    first = await asyncio.to_thread(play, case, resources)
    path = record(tmp_path / "said", case, first)
    again = Case.model_validate(
        RECORDED_CASE | {"policy": {"name": "replay", "options": {"file": str(path)}}}
    )
    second = await asyncio.to_thread(play, again, resources)
    assert (first.paid, first.attempts) == (second.paid, second.attempts) == (1, 5)
    assert normalised(first.turns) == normalised(second.turns)
    assert record(tmp_path / "twice", case, second).read_text() == path.read_text()


def test_call_ids_are_numbered_and_equal_ids_stay_equal():
    """Random ids are not recorded, but that two calls shared an id is."""
    ids = ["a91", "b7", "a91", ""]
    items = [{"type": "function_call", "name": "x", "arguments": "{}", "call_id": one} for one in ids]
    turn = Turn(agent="director", idea="i", position=1, items=[*items, {"type": "reasoning", "text": ""}])
    kept = normalised([turn])[0].items
    assert [item["call_id"] for item in kept] == ["call_1", "call_2", "call_1", ""]


def test_a_file_that_is_no_recording_is_refused(tmp_path):
    """A wrong file, or none, is refused in one sentence before anything is played."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"turns": 1}))
    with pytest.raises(EvalError, match=r"x\.json is not a recording"):
        read_recording(path)
    spec = Case.model_validate(RECORDED_CASE | {"policy": "replay"}).policy
    with pytest.raises(EvalError, match="replay"):
        make_adversary(spec)
