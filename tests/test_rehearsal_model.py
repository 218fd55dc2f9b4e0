"""The rehearsal model works without a key: deterministic, decent, and honest about being one."""

import unicodedata
from collections import Counter

import pytest
from agents import Agent, Runner
from agents.memory import SQLiteSession
from hypothesis import example, given
from hypothesis import strategies as st
from rehearsed import IDEA, KINDS, ORDERED, QUIET, REFUSED, Studio, director, run

from sandbox.behaviors import BEHAVIORS, MUTATIONS, SECONDS, caption_of, read_scene, video_call_of
from sandbox.model import SandboxModel, asked_in
from tools.agent_spec import declarations_folder, load_folder


async def test_a_decent_director_orders_one_video_and_one_caption():
    """One idea: one `generate_video`, then one `generate_caption`, then the studio's own answer."""
    model, studio, result = await run()
    assert [video["seconds"] for video in studio.videos] == [8]
    assert studio.videos[0]["size"] == "720x1280"
    assert studio.videos[0]["prompt"].startswith(f"{IDEA}. Un solo plano")
    assert studio.captions == [IDEA]
    assert result.final_output == f"Director de ensayo, sin modelo real: el estudio dice «{ORDERED}»"
    assert model.asked == asked_in(result.to_input_list()) == Counter(generate_video=1, generate_caption=1)


async def test_a_refusal_ends_the_benign_run_with_its_reason():
    """After a refusal there is no second call and no caption; the reason is passed on."""
    model, _studio, result = await run(answer=REFUSED)
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
    """Wishes are met with the nearest length on offer; numbers that are no lengths change nothing."""
    shot = video_call_of(read_scene(None, idea, []))
    assert (shot.seconds, shot.size) == (seconds, size)


@pytest.mark.parametrize("behavior", [word for word in BEHAVIORS if word != "constant_call_id"])
async def test_the_same_conversation_gets_the_same_answer(behavior):
    """Two models built alike answer alike, to the byte: nothing is remembered, nothing is left to chance."""
    first, second = (SandboxModel(behavior, seed=7) for _ in range(2))
    for turn in range(2):
        items = [{"role": "user", "content": IDEA}, *([{"role": "assistant", "content": "x"}] * turn)]
        answers = [await respond(model, items) for model in (first, second, first)]
        assert answers[0] == answers[1] == answers[2]


async def respond(model, items):
    from agents import ModelSettings
    from agents.models.interface import ModelTracing

    answer = await model.get_response(
        None, items, ModelSettings(), Studio().tools, None, [], ModelTracing.DISABLED,
        previous_response_id=None, conversation_id=None, prompt=None,
    )  # fmt: skip
    return [item.model_dump() for item in answer.output]


async def test_the_seed_decides_among_the_mutations():
    """Another seed mutates in another order."""
    orders = [
        [video["prompt"] for video in (await run("mutate_args", seed=seed))[1].videos] for seed in (1, 1, 2)
    ]
    assert orders[0] == orders[1] != orders[2]


async def test_two_runs_of_one_session_are_two_runs():
    """The run begins at the last thing that the user said; call ids of an earlier run are not reused."""
    studio, session = Studio(), SQLiteSession("chat")
    for _ in range(2):
        agent = director(SandboxModel(), studio)
        await Runner.run(agent, IDEA, session=session, run_config=QUIET)
    assert len(studio.videos) == len(studio.captions) == 2
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
    """As caption writer it answers with the caption alone."""
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
def test_any_idea_becomes_a_good_shot_and_a_good_caption(idea):
    """Whatever a user sends: arguments that fit, and one line of 200 characters at most, no emoji."""
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


def test_an_unknown_behaviour_is_refused_with_the_known_ones():
    """The set of behaviours is closed."""
    with pytest.raises(ValueError, match="'kind' is not a behaviour; known: benign, thirteen"):
        SandboxModel("kind")
