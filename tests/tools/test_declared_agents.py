"""Declared agents: handoffs, agents as tools, guardrails of runs, settings; what is not supported says so."""

import json
import shutil
from dataclasses import replace

import pytest

from ledger import requests
from ledger.models import RequestState, order_id
from providers.images import ImageProvider
from sandbox.preview.images import SandboxImages
from tests.support.models import order, raw
from tests.support.pipeline_harness import tool_outputs
from tools.agent_factory import load_declarations
from tools.agent_spec import INPUT_GUARDRAILS, OUTPUT_GUARDRAILS, DeclarationError, declarations_folder
from tools.generate_image import NAME
from tools.run_guardrails import input_guardrail, output_guardrail

PAINTER = """---
name: painter
description: Orders a still.
model: gpt-5-mini
max_turns: 4
{more}tools:
  generate_image: {tool}
---
You paint.
"""
TOOL = (
    "{once: per_request, quota: 20/day, cooldown: 10s, breaker: {user: 6/5m, everyone: 60/5m},"
    " budget: {user: $1/day, everyone: $10/day}, content: image, approval: always}"
)
TURNS = "max_turns: 8\n"


@pytest.fixture
def declared(tmp_path):
    """Write the shipped declarations with a changed director, and a painter."""

    def write(director="", painter=None, old=TURNS):
        folder = tmp_path / "agents"
        shutil.copytree(declarations_folder(), folder, dirs_exist_ok=True)
        file = folder / "director.md"
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, old + director, 1))
        if painter is not None:
            (folder / "painter.md").write_text(PAINTER.replace("{tool}", TOOL).replace("{more}", painter))
        return folder

    return write


def test_agents_and_settings_are_what_is_declared(declared):
    """Handoffs, agents, guardrails, reasoning and tool_choice load, and are fields of the declaration."""
    director = (
        "handoffs: [painter]\nagents: [painter]\ninput_guardrails: [content]\noutput_guardrails: [no_links]\n"
        "settings: {reasoning: {effort: low}, tool_choice: required}\nbudget: {user: $16/day}\n"
    )
    found = load_declarations(declared(director, ""))["director"]
    assert (found.handoffs, found.agents) == (("painter",), ("painter",))
    assert found.settings.reasoning.effort == "low"
    shared = found.limits_of("generate_video", ("generate_video", NAME)).shared
    assert shared.tools == (NAME, "generate_video")


@pytest.mark.parametrize(
    ("director", "painter", "why"),
    [
        ("", "", r"painter.md: no agent uses it; name it in 'handoffs' or 'agents'"),
        (
            "handoffs: [poet]\n",
            None,
            r"director.md: handoffs: 'poet' is no other declared agent; known",
        ),
        ("agents: [director]\n", None, r"agents: 'director' is no other declared agent"),
        ("agents: [painter]\n", "agents: [painter]\n", r"painter.md: agents: 'painter' is no other"),
        (
            "input_guardrails: [kindness]\n",
            None,
            r"input_guardrails: 'kindness' is not known; known: cont",
        ),
        ("output_guardrails: [no_links, no_links]\n", None, r"output_guardrails: .* has a name twice"),
        ("handoffs: [painter]\n", "input_guardrails: [content]\n", r"painter.md: input_guardrails: they run"),
        (
            "settings: {tool_choice: none}\n",
            None,
            r"settings.tool_choice: 'none' is not known; known",
        ),
        ("settings: {reasoning: {effort: huge}}\n", None, r"settings.reasoning.effort: 'huge' is not known"),
        ("mcp_servers: []\n", None, r"'mcp_servers' is not known here; known: name, model"),
        ("output_type: Brief\n", None, r"'output_type' is not known here"),
        ("budget: {}\n", None, r"budget: it limits no one"),
    ],
)
def test_what_cannot_be_says_so(declared, director, painter, why):
    """File, field, value and what is known, in one sentence."""
    with pytest.raises(DeclarationError, match=why):
        load_declarations(declared(director, painter))


def test_an_agent_that_is_a_tool_says_what_it_is_for(declared):
    """Its description is what the calling model reads of it."""
    folder = declared("agents: [painter]\n", "")
    file = folder / "painter.md"
    file.write_text(file.read_text().replace("description: Orders a still.\n", ""))
    with pytest.raises(DeclarationError, match=r"painter.md: description is missing; director.md calls it"):
        load_declarations(folder)


def test_every_named_guardrail_exists():
    """The closed lists of declarations are those of the code."""
    for name in INPUT_GUARDRAILS:
        assert input_guardrail(name, None).run_in_parallel is False
    for name in OUTPUT_GUARDRAILS:
        assert output_guardrail(name).name == name


@pytest.fixture
async def env(pipeline_env, declared, tmp_path):
    async def make(director, painter, *turns):
        images = ImageProvider(SandboxImages(tmp_path / "images"), tmp_path / "media" / "stills")
        folder = declared(director, painter)
        made = await pipeline_env(*turns, images=images, specs=folder, compare=False)
        others = made.agent_factory.others
        for name, one in list(others.items()):
            others[name] = replace(one, policy=one.policy.model_copy(update={"approval": None}))
        return made

    return make


def still(prompt="A fox in the snow."):
    return raw(json.dumps({"prompt": prompt, "size": "720x1280"}), name=NAME)


async def test_once_holds_across_a_handoff(env):
    """The director's still is the recorded result of the painter's call, and the other way round."""
    made = await env(
        "handoffs: [painter]\n",
        "",
        [still()],
        [raw("{}", name="transfer_to_painter")],
        [still("another")],
        "ok",
    )
    request = await made.open_request()
    await made.run_agent(request)
    assert [word for word, _ in await made.refused(request)] == ["replay"]
    assert len({one for one in tool_outputs(made) if "One still" in one}) == 1


async def test_guards_travel_into_an_agent_that_is_a_tool(env):
    """What the painter ordered as a tool is once for the request: a call of the director's gets it back."""
    painted = raw('{"input": "a fox"}', name="painter")
    made = await env("agents: [painter]\n", "", [painted], [still()], "painted", [still("again")], "ok")
    request = await made.open_request()
    await made.run_agent(request)
    assert [word for word, _ in await made.refused(request)] == ["replay"]
    assert await requests.find_with_video(made.ledger, order_id(request, NAME)) is not None
    assert tool_outputs(made)[0] == "painted"


async def test_last_words_that_are_refused_leave_the_order(env):
    """An output guardrail takes the words, never what was ordered."""
    made = await env("output_guardrails: [no_links]\n", None, [order()], "see https://example.org")
    request = await made.open_request()
    await made.run_agent(request)
    found = await made.request(request)
    assert found.state is RequestState.ORDERED
    assert not found.reason_quote


async def test_an_input_guardrail_decides_before_the_first_turn(env):
    """What the content policy refuses is asked of no model."""
    made = await env("input_guardrails: [content]\n", None, [order()], "done")
    request = await made.open_request(idea="a naked celebrity, Taylor Swift, nude")
    await made.run_agent(request)
    assert (await made.request(request)).state is RequestState.NO_ORDER
    assert made.model.heard == []
