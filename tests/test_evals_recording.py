"""A recording says the same again."""

import asyncio
import json

import pytest

from evals.adversaries.catalog import make_adversary
from evals.adversaries.scripted import normalised, read_recording, record
from evals.case import Case
from evals.events import EvalError
from evals.evidence import Turn
from evals.runner import CaseResources, play

CASE = {
    "id": "D01", "title": "t", "policy": {"name": "fanout", "times": 5},
    "events": [{"send": "/create a market"}],
    "expect": {"paid": 1, "delivered": 1, "attempts": {"least": 5}},
}  # fmt: skip


async def test_a_recorded_fanout_replays_to_the_same(valkey, tmp_path):
    """Charges, attempts and everything that was said are the same when a recording plays."""
    where = CaseResources(valkey.connection_url, scratch=tmp_path)
    case = Case.model_validate(CASE)
    first = await asyncio.to_thread(play, case, where)
    path = record(tmp_path / "said", case, first)
    again = Case.model_validate(CASE | {"policy": {"name": "replay", "options": {"file": str(path)}}})
    second = await asyncio.to_thread(play, again, where)
    assert (first.paid, first.attempts) == (second.paid, second.attempts) == (1, 5)
    assert normalised(first.turns) == normalised(second.turns)
    assert record(tmp_path / "twice", case, second).read_text() == path.read_text()


def test_ids_are_numbered_and_stay_as_equal_as_they_were():
    """What varies from run to run is not kept; that two calls shared an id is."""
    ids = ["a91", "b7", "a91", ""]
    items = [{"type": "function_call", "name": "x", "arguments": "{}", "call_id": one} for one in ids]
    turn = Turn(agent="director", idea="i", position=1, items=[*items, {"type": "reasoning", "text": ""}])
    kept = normalised([turn])[0].items
    assert [item["call_id"] for item in kept] == ["call_1", "call_2", "call_1", ""]


def test_a_file_that_is_no_recording_is_named(tmp_path):
    """A wrong file, or none, is refused in one sentence before anything is played."""
    path = tmp_path / "x.json"
    path.write_text(json.dumps({"turns": 1}))
    with pytest.raises(EvalError, match=r"x\.json is no recording"):
        read_recording(path)
    policy = Case.model_validate(CASE | {"policy": "replay"}).policy
    with pytest.raises(EvalError, match="replay"):
        make_adversary(policy)
