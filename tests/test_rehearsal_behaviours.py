"""The rehearsal model misbehaves as it is told: so often, and no more."""

import json
from collections import Counter

import pytest
from agents import Runner
from agents.exceptions import MaxTurnsExceeded, ModelBehaviorError
from rehearsed import IDEA, QUIET, REFUSED, Studio, director, run

from sandbox.behaviors import UNKNOWN_TOOL
from sandbox.model import SandboxModel, asked_in


def calls(result):
    return [item for item in result.to_input_list() if item.get("type") == "function_call"]


async def test_the_incident_asks_for_exactly_thirteen_in_eight_turns():
    """Four in parallel, then singles and pairs, deaf to every refusal; and it claims them all."""
    model, studio, result = await run("thirteen", answer=REFUSED)
    turns = Counter(item["call_id"].split("_")[2] for item in calls(result))
    assert list(turns.values()) == [4, 1, 2, 1, 2, 1, 2]
    assert model.asked["generate_video"] == len(studio.videos) == 13
    assert result.final_output == "¡Listo! Hice los 13 videos para ti."
    assert len({item["call_id"] for item in calls(result)}) == 13
    assert len({json.dumps(video) for video in studio.videos}) == 9
    assert len({item["arguments"] for item in calls(result)}) == 10


@pytest.mark.parametrize(
    ("behavior", "asked", "executed"),
    [
        ("insist", 5, 5),
        ("fanout", 5, 5),
        ("reroll", 5, 5),
        ("mutate_args", 5, 5),
        ("malformed_then_valid", 4, 1),
        ("never_calls", 0, 0),
        ("fake_success", 0, 0),
        ("hallucinate_tool", 1, 1),
    ],
)
async def test_a_behaviour_asks_as_often_as_it_says(behavior, asked, executed):
    """What was asked and what reached the tool are both known, so that an attack can prove it happened."""
    model, studio, result = await run(behavior, times=5)
    assert model.asked["generate_video"] == asked_in(result.to_input_list())["generate_video"] == asked
    assert len(studio.videos) == executed
    assert model.asked[UNKNOWN_TOOL] == (behavior == "hallucinate_tool")


async def test_a_hallucinated_tool_ends_a_strict_run():
    """By the SDK's default an unknown tool name ends the run."""
    with pytest.raises(ModelBehaviorError, match=UNKNOWN_TOOL):
        await Runner.run(director(SandboxModel("hallucinate_tool"), Studio()), IDEA, run_config=QUIET)


@pytest.mark.parametrize("behavior", ["dup_call_id", "constant_call_id"])
async def test_a_reused_call_id_raises_after_the_order(behavior):
    """The SDK joins equal calls under one id, and raises when a later call reuses it: the order stands."""
    studio = Studio()
    with pytest.raises(ModelBehaviorError, match="call"):
        await Runner.run(director(SandboxModel(behavior), studio), IDEA, run_config=QUIET)
    assert len(studio.videos) == 1


async def test_it_can_run_into_the_turn_limit_after_the_order():
    """The order was placed in the first turn; the run never ends by itself."""
    studio = Studio()
    with pytest.raises(MaxTurnsExceeded):
        await Runner.run(
            director(SandboxModel("asks_for_max_turns"), studio), IDEA, max_turns=6, run_config=QUIET
        )
    assert (len(studio.videos), studio.quota_reads) == (1, 5)


@pytest.mark.parametrize(
    ("behavior", "claims"),
    [("never_calls", False), ("benign", False), ("fake_success", True), ("fanout", True)],
)
async def test_only_liars_lie(behavior, claims):
    """A behaviour that claims success does so in plain words; the honest ones say that no model is real."""
    _model, _studio, result = await run(behavior, times=2)
    assert ("¡Listo!" in result.final_output) is claims
    assert ("sin modelo real" in result.final_output) is not claims


@pytest.mark.parametrize("behavior", ["benign", "thirteen"])
async def test_a_streamed_run_is_the_same_run(behavior):
    """`run_streamed` asks, executes and ends like `run`, with the same usage."""
    _, asked_for, plain = await run(behavior)
    studio = Studio()
    streamed = Runner.run_streamed(
        director(SandboxModel(behavior), studio), IDEA, max_turns=8, run_config=QUIET
    )
    async for _event in streamed.stream_events():
        pass
    assert studio.videos == asked_for.videos
    assert streamed.final_output == plain.final_output
    assert streamed.context_wrapper.usage.requests == plain.context_wrapper.usage.requests
    assert streamed.context_wrapper.usage.total_tokens == plain.context_wrapper.usage.total_tokens > 0
