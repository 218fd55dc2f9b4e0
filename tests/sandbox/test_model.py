"""Tests of the sandbox model: deterministic, without a key, and its texts say that it is no real model."""

import json
import unicodedata
from collections import Counter

import pytest
from agents import Agent, Runner
from agents.exceptions import MaxTurnsExceeded, ModelBehaviorError
from agents.memory import SQLiteSession
from hypothesis import example, given
from hypothesis import strategies as st

from sandbox.behaviors import (
    BEHAVIORS,
    MUTATIONS,
    SECONDS,
    UNKNOWN_TOOL,
    caption_of,
    read_scene,
    video_call_of,
)
from sandbox.model import SandboxModel, asked_in
from tests.support.models import IDEA, KINDS, ORDERED, QUIET, REFUSED, RecordingTools, director, run
from tools.agent_spec import declarations_folder, load_folder


async def test_a_benign_director_orders_one_video_and_one_caption():
    """One idea: one `generate_video`, then one `generate_caption`, then the tool's own answer."""
    model, toolset, result = await run()
    assert [video["seconds"] for video in toolset.videos] == [8]
    assert toolset.videos[0]["size"] == "720x1280"
    assert toolset.videos[0]["prompt"].startswith(f"{IDEA}. Un solo plano")
    assert toolset.captions == [IDEA]
    assert result.final_output == f"Director de prueba, sin modelo real: la herramienta dice «{ORDERED}»"
    assert model.asked == asked_in(result.to_input_list()) == Counter(generate_video=1, generate_caption=1)


async def test_a_refusal_ends_the_benign_run_with_its_reason():
    """After a refusal there is no second call and no caption; the reason is passed on."""
    model, _toolset, result = await run(answer=REFUSED)
    assert model.asked == Counter(generate_video=1)
    assert REFUSED in result.final_output


@pytest.mark.parametrize(
    ("idea", "seconds", "size"),
    [
        ("a cat on a roof", 8, "720x1280"),
        ("a cat, 4 seconds", 4, "720x1280"),
        ("a cat, 12 s", 12, "720x1280"),
        ("un gato de 12 segundos, horizontal", 12, "1280x720"),
        ("a 4-second wide shot", 4, "1280x720"),
        ("um gato 4s 16:9", 4, "1280x720"),
        ("a cat, 10 seconds", 8, "720x1280"),
        ("a disco of the 80s", 8, "720x1280"),
        ("13 gatos bailando", 8, "720x1280"),
        ("a cat, 1000000 seconds", 8, "720x1280"),
        ("a cat, 0 s", 8, "720x1280"),
        ("a widely known cat", 8, "720x1280"),
    ],
)
def test_length_and_shape_follow_the_idea(idea, seconds, size):
    """The nearest offered length is used; numbers that are no lengths change nothing."""
    shot = video_call_of(read_scene(None, idea, []))
    assert (shot.seconds, shot.size) == (seconds, size)


@pytest.mark.parametrize("behavior", [word for word in BEHAVIORS if word != "constant_call_id"])
async def test_the_same_conversation_gets_the_same_answer(behavior):
    """Two equal models answer the same to the byte: no memory, no randomness."""
    first, second = (SandboxModel(behavior, seed=7) for _ in range(2))
    for turn in range(2):
        items = [{"role": "user", "content": IDEA}, *([{"role": "assistant", "content": "x"}] * turn)]
        answers = [await respond(model, items) for model in (first, second, first)]
        assert answers[0] == answers[1] == answers[2]


async def respond(model, items):
    from agents import ModelSettings
    from agents.models.interface import ModelTracing

    answer = await model.get_response(
        None, items, ModelSettings(), RecordingTools().tools, None, [], ModelTracing.DISABLED,
        previous_response_id=None, conversation_id=None, prompt=None,
    )  # fmt: skip
    return [item.model_dump() for item in answer.output]


async def test_the_seed_orders_the_mutations():
    """Another seed mutates in another order."""
    orders = [
        [video["prompt"] for video in (await run("mutate_args", seed=seed))[1].videos] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


async def test_two_runs_of_one_session_are_two_runs():
    """A run begins at the user's last message; call ids of an earlier run are not reused."""
    toolset, session = RecordingTools(), SQLiteSession("chat")
    for _ in range(2):
        agent = director(SandboxModel(), toolset)
        await Runner.run(agent, IDEA, session=session, run_config=QUIET)
    assert len(toolset.videos) == len(toolset.captions) == 2
    session.close()


@pytest.mark.parametrize(
    ("language", "end"),
    [
        ("English", "one small film, just for this chat"),
        ("Spanish", "una pequeña película, solo para este chat"),
        ("Portuguese", "um pequeno filme, só para este chat"),
        ("pt", "um pequeno filme, só para este chat"),
        ("Klingon", "one small film, just for this chat"),
    ],
)
async def test_without_tools_it_writes_a_caption_in_the_users_language(language, end):
    """As caption writer it answers with nothing but the caption."""
    declared = load_folder(declarations_folder(), tools=KINDS)["caption_writer"]
    agent = Agent(
        name="caption_writer",
        instructions=declared.render(language=language),
        model=SandboxModel("thirteen"),
    )
    result = await Runner.run(agent, "un mercado 🌅 al amanecer.", max_turns=1, run_config=QUIET)
    assert result.final_output == f"Un mercado al amanecer — {end}"


@given(st.text(st.characters(exclude_categories=()), max_size=400))
@example("una palabra " * 100)
@example("x" * 1000)
@example("half an emoji \ud83c")
def test_any_idea_becomes_a_valid_call_and_caption(idea):
    """Any text: valid arguments, and a caption of one line, at most 200 characters, without emoji."""
    scene = read_scene("Language of the user: Spanish", idea, [])
    shot, caption = video_call_of(scene), caption_of(scene)
    assert shot.seconds in SECONDS
    assert len(shot.prompt) <= 900
    assert 0 < len(caption) <= 200
    assert len(caption.splitlines()) == 1
    assert not [sign for sign in caption if unicodedata.category(sign) in ("So", "Cs")]
    for change in MUTATIONS.values():
        changed = change(shot)
        changed.prompt.encode()
        assert changed.seconds in SECONDS
        assert changed != shot


def test_an_unknown_behavior_is_refused():
    """The set of behaviors is closed; the error lists it."""
    with pytest.raises(ValueError, match="'kind' is not a behavior; known: benign, thirteen"):
        SandboxModel("kind")


def calls(result):
    return [item for item in result.to_input_list() if item.get("type") == "function_call"]


async def test_the_incident_makes_exactly_thirteen_calls_in_eight_turns():
    """Four in parallel, then singles and pairs, ignoring every refusal; and it claims them all."""
    model, toolset, result = await run("thirteen", answer=REFUSED)
    turns = Counter(item["call_id"].split("_")[2] for item in calls(result))
    assert list(turns.values()) == [4, 1, 2, 1, 2, 1, 2]
    assert model.asked["generate_video"] == len(toolset.videos) == 13
    assert result.final_output == "¡Listo! Hice los 13 videos para ti."
    assert len({item["call_id"] for item in calls(result)}) == 13
    assert len({json.dumps(video) for video in toolset.videos}) == 9
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
async def test_number_of_calls_of_a_behavior(behavior, asked, executed):
    """Calls made and calls executed are both counted, so that an attack can prove that it happened."""
    model, toolset, result = await run(behavior, times=5)
    assert model.asked["generate_video"] == asked_in(result.to_input_list())["generate_video"] == asked
    assert len(toolset.videos) == executed
    assert model.asked[UNKNOWN_TOOL] == (behavior == "hallucinate_tool")


async def test_a_hallucinated_tool_ends_a_strict_run():
    """By the SDK's default an unknown tool name ends the run."""
    with pytest.raises(ModelBehaviorError, match=UNKNOWN_TOOL):
        await Runner.run(director(SandboxModel("hallucinate_tool"), RecordingTools()), IDEA, run_config=QUIET)


@pytest.mark.parametrize("behavior", ["dup_call_id", "constant_call_id"])
async def test_a_reused_call_id_raises_after_the_order(behavior):
    """The SDK joins equal calls under one id, and raises when a later call reuses it: the order remains."""
    toolset = RecordingTools()
    with pytest.raises(ModelBehaviorError, match="call"):
        await Runner.run(director(SandboxModel(behavior), toolset), IDEA, run_config=QUIET)
    assert len(toolset.videos) == 1


async def test_it_can_run_into_the_turn_limit_after_the_order():
    """The order was placed in the first turn; the run never ends by itself."""
    toolset = RecordingTools()
    with pytest.raises(MaxTurnsExceeded):
        await Runner.run(
            director(SandboxModel("asks_for_max_turns"), toolset), IDEA, max_turns=6, run_config=QUIET
        )
    assert (len(toolset.videos), toolset.quota_reads) == (1, 5)


@pytest.mark.parametrize(
    ("behavior", "claims"),
    [("never_calls", False), ("benign", False), ("fake_success", True), ("fanout", True)],
)
async def test_only_dishonest_behaviors_claim_success(behavior, claims):
    """A dishonest behavior claims success; the others say that the model is not real."""
    _model, _toolset, result = await run(behavior, times=2)
    assert ("¡Listo!" in result.final_output) is claims
    assert ("sin modelo real" in result.final_output) is not claims


@pytest.mark.parametrize("behavior", ["benign", "thirteen"])
async def test_a_streamed_run_is_the_same_run(behavior):
    """`run_streamed` calls, executes and ends like `run`, with the same usage."""
    _, expected, plain = await run(behavior)
    toolset = RecordingTools()
    streamed = Runner.run_streamed(
        director(SandboxModel(behavior), toolset), IDEA, max_turns=8, run_config=QUIET
    )
    async for _event in streamed.stream_events():
        pass
    assert toolset.videos == expected.videos
    assert streamed.final_output == plain.final_output
    assert streamed.context_wrapper.usage.requests == plain.context_wrapper.usage.requests
    assert streamed.context_wrapper.usage.total_tokens == plain.context_wrapper.usage.total_tokens > 0
