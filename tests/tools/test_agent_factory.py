"""Each field of a declaration is applied to the agent, a guard or the run, or is refused."""

from dataclasses import replace
from pathlib import Path

import pytest

from evals.environment import PRICES
from guardrails.content.policy import ContentPolicy
from guardrails.limits import BreakerRates, Limits, StartRate
from guardrails.money import Money
from guardrails.policy import Allowance, Approval, Breaker, Budget, GuardPolicy, limits_of, rates_of
from guardrails.policy import Rate as DeclaredRate
from providers.openai_dialects import DIALECTS
from providers.pricing import ModelPrice, PriceList, capabilities_of
from sandbox.model import SandboxModelProvider
from tests.support.models import order
from tests.support.services import ROOT
from tools.agent_factory import CAPTION_WRITER, DIRECTOR, AgentFactory, load_declarations
from tools.agent_spec import AgentSettings, Declaration, DeclarationError, Reasoning
from tools.generate_video import NAME
from tools.offer import Offer

FACTS = capabilities_of(DIALECTS["inworld"], PRICES)
OFFER = Offer("fake", "sora-2", FACTS, PRICES.quote, "fake")


class Row:
    """As much of a request as a run is made of."""

    request_id, user_id, language, idea, picture = "tg:1:-:7:1", 7, "es", "un mercado", None


def factory_of(folder: Path) -> AgentFactory:
    declarations = load_declarations(folder)
    return AgentFactory(declarations, SandboxModelProvider(), None, None, ContentPolicy(), OFFER, None)  # type: ignore[arg-type]


def copied(folder: Path, file: str = "director", old: str = "", new: str = "") -> Path:
    """Copy agents/ and change one line of one file."""
    folder.mkdir(exist_ok=True)
    for path in (ROOT / "agents").glob("*.md"):
        text = path.read_text()
        if path.stem == file and old:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        (folder / path.name).write_text(text)
    return folder


def built(factory: AgentFactory) -> dict[str, object]:
    """Return all that the factory makes of its declarations, by name."""
    run = factory.run_context(Row(), 1)  # type: ignore[arg-type]
    found: dict[str, object] = {
        "limits": run.limits, "policy": run.policy, "rates": rates_of(run.policy),
        "turns": factory.declarations[DIRECTOR].max_turns, "caption turns": run.caption_turns,
    }  # fmt: skip
    for name in (DIRECTOR, CAPTION_WRITER):
        agent = factory.agent(name, "es")
        found |= {
            f"{name} name": agent.name, f"{name} model": agent.model,
            f"{name} words": agent.instructions, f"{name} settings": agent.model_settings,
            f"{name} tools": [tool.name for tool in agent.tools],
            f"{name} description": agent.handoff_description,
            f"{name} handoffs": [one.name for one in agent.handoffs],
            f"{name} guardrails": [one.name for one in (*agent.input_guardrails, *agent.output_guardrails)],
        }  # fmt: skip
        for tool in agent.tools:
            for guard in tool.tool_input_guardrails or ():
                spec = guard.guardrail_function.__self__._spec
                found |= {f"{tool.name} limits": spec.limits, f"{tool.name} content": spec.text is not None}
    return found


QUOTA, COOLDOWN = "    quota: 5/day               #", "    cooldown: 10m\n"
BUDGET, CONTENT = (
    "{user: $15/day, everyone: $100/day}",
    ("    content: video             # the content policy, on the final arguments\n"),
)
BREAKER_LINE = "    breaker: {user: 3/5m, everyone: 20/5m}   # more paid starts than this open it\n"
BREAKER, APPROVAL = "{user: 3/5m, everyone: 20/5m}", "    approval: always           #"
COUNTED, SETTINGS = {"limits", "policy", f"{NAME} limits"}, {"director settings"}
GONE = {"director tools", "generate_caption limits", "generate_caption content"}
ONE_BY_ONE, TURNS = "settings: {parallel_tool_calls: false}\n", "max_turns: 8"
CAPTION = "  generate_caption:\n    once: per_request\n"
THINKS = "settings: {{reasoning: {{effort: {}}}}}\nmax_turns: 8"
MUST_CALL = "settings: {tool_choice: required}\nmax_turns: 8"
CHANGES = {
    "GuardPolicy.quota": ("director", QUOTA, "    quota: 6/day  #", COUNTED),
    "Rate.count": ("director", QUOTA, "    quota: 4/day  #", COUNTED),
    "Rate.window_s": ("director", QUOTA, "    quota: 5/2h  #", COUNTED),
    "GuardPolicy.cooldown": ("director", COOLDOWN, "    cooldown: 9m\n", COUNTED),
    "GuardPolicy.budget": ("director", f"    budget: {BUDGET}\n", "", COUNTED),
    "Budget.user": ("director", BUDGET, "{user: $14/day, everyone: $100/day}", COUNTED),
    "Budget.everyone": ("director", BUDGET, "{user: $15/day, everyone: $99/day}", COUNTED),
    "Allowance.money": ("director", BUDGET, "{user: $15.01/day, everyone: $100/day}", COUNTED),
    "Allowance.window_s": ("director", BUDGET, "{user: $15/day, everyone: $100/2h}", COUNTED),
    "GuardPolicy.breaker": ("director", BREAKER_LINE, "", {"rates", "policy"}),
    "Breaker.user": ("director", BREAKER, "{user: 2/5m, everyone: 20/5m}", {"rates", "policy"}),
    "Breaker.everyone": ("director", BREAKER, "{user: 3/5m, everyone: 20/6m}", {"rates", "policy"}),
    "GuardPolicy.content": ("director", CONTENT, "", {"policy", f"{NAME} content"}),
    "GuardPolicy.approval": ("director", APPROVAL, "    approval: never #", {"policy"}),
    "Approval.mode": ("director", APPROVAL, "    approval: over $2 #", {"policy"}),
    "Approval.over": ("director", APPROVAL, "    approval: over $0.01 #", {"policy"}),
    "caption content": ("director", CAPTION, CAPTION + "    content: video\n", {"generate_caption content"}),
    "caption quota": ("director", CAPTION, CAPTION + "    quota: 9/day\n", {"generate_caption limits"}),
    "Declaration.model": ("director", "model: gpt-5-mini", "model: gpt-6", {"director model"}),
    "Declaration.max_turns": ("director", TURNS, "max_turns: 3", {"turns"}),
    "Declaration.settings": ("director", TURNS, "settings: {max_tokens: 99}\nmax_turns: 8", SETTINGS),
    "AgentSettings.temperature": ("director", TURNS, "settings: {temperature: 0.5}\nmax_turns: 8", SETTINGS),
    "AgentSettings.max_tokens": ("director", TURNS, "settings: {max_tokens: 64}\nmax_turns: 8", SETTINGS),
    "AgentSettings.parallel_tool_calls": ("director", TURNS, ONE_BY_ONE + TURNS, SETTINGS),
    "AgentSettings.reasoning": ("director", TURNS, THINKS.format("low"), SETTINGS),
    "Reasoning.effort": ("director", TURNS, THINKS.format("high"), SETTINGS),
    "AgentSettings.tool_choice": ("director", TURNS, MUST_CALL, SETTINGS),
    "Declaration.budget": ("director", TURNS, "max_turns: 8\nbudget: {user: $9/day}", {"limits"}),
    "Declaration.description": (
        "caption_writer", "Writes the caption", "Words a caption", {"caption_writer description"}
    ),
    "Declaration.handoffs": (
        "director", TURNS, "max_turns: 8\nhandoffs: [caption_writer]", {"director handoffs"}
    ),
    "Declaration.agents": ("director", TURNS, "max_turns: 8\nagents: [caption_writer]", {"director tools"}),
    "Declaration.input_guardrails": (
        "director", TURNS, "max_turns: 8\ninput_guardrails: [content]", {"director guardrails"}
    ),
    "Declaration.output_guardrails": (
        "director", TURNS, "max_turns: 8\noutput_guardrails: [no_links]", {"director guardrails"}
    ),
    "Declaration.tools": ("director", CAPTION, "", GONE),
    "Declaration.instructions": ("director", "You are the director.", "You film.", {"director words"}),
    "caption model": ("caption_writer", "model: gpt-5-mini", "model: gpt-6", {"caption_writer model"}),
    "caption turns": ("caption_writer", "max_turns: 1 ", "max_turns: 2 ", {"caption turns"}),
    "caption words": ("caption_writer", "be warm", "be cold", {"caption_writer words"}),
}  # fmt: skip
REFUSED = {"GuardPolicy.once", "GuardPolicy.changes", "Declaration.name"}
"""Fields that a file cannot change alone: one is the file's name, two say which kind of tool it is."""


@pytest.mark.representative
@pytest.mark.parametrize("field", CHANGES)
def test_every_field_arrives(tmp_path, field):
    """One field of a copied declaration is changed: what is built of it changes there, and nowhere else."""
    file, old, new, where = CHANGES[field]
    before = built(factory_of(copied(tmp_path / "a")))
    after = built(factory_of(copied(tmp_path / "b", file, old, new)))
    assert {name for name in before | after if before.get(name) != after.get(name)} == where


def test_no_field_is_left_out():
    """The table above names every field that a declaration can have."""
    models = (
        GuardPolicy,
        AgentSettings,
        Reasoning,
        Declaration,
        Breaker,
        Budget,
        Approval,
        Allowance,
        DeclaredRate,
    )
    known = {f"{model.__name__}.{name}" for model in models for name in model.model_fields}
    assert known == {name for name in CHANGES if "." in name} | REFUSED


def test_the_figures_in_the_file_are_those_that_apply(tmp_path):
    """The shipped director, read to its last figure."""
    policy = factory_of(copied(tmp_path / "a")).video_policy
    day = 86_400
    assert limits_of(policy) == Limits(
        5, day, 600, Money.parse("$15"), day, Money.parse("$100"), day
    )  # fmt: skip
    assert rates_of(policy) == BreakerRates(StartRate(3, 300), StartRate(20, 300))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("    once: per_request          # the", "    changes: nothing  # the", "changes: nothing"),
        ("name: director", "name: other", "is not the file's name"),
        ("  generate_video:", "  make_video:", "is not a tool"),
    ],
)
def test_a_field_that_cannot_be_changed_alone_is_refused(tmp_path, old, new, words):
    """What a tool is, and what a file is called, cannot be declared away."""
    with pytest.raises(DeclarationError, match=words):
        load_declarations(copied(tmp_path / "a", "director", old, new))


def test_a_second_set_of_figures_for_the_paid_tool_is_refused(tmp_path):
    """Orders are counted by the director's figures: another agent's own would guard nothing."""
    folder = copied(
        tmp_path / "a", "caption_writer", "tools: {}", "tools: {generate_video: {once: per_request}}"
    )
    with pytest.raises(DeclarationError, match="its values differ from those of director"):
        load_declarations(folder)


@pytest.mark.parametrize("missing", ["director", "caption_writer"])
def test_an_agent_that_the_app_needs_must_be_there(tmp_path, missing):
    """A folder without one of the two agents stops the start in one sentence."""
    folder = copied(tmp_path / "a")
    (folder / f"{missing}.md").unlink()
    with pytest.raises(DeclarationError, match=rf"{missing}\.md is missing"):
        load_declarations(folder)


def test_instructions_name_the_price_of_each_size():
    """One price for all sizes is named once; where sizes differ, each price is named with its sizes."""
    assert OFFER.price_list() == "4 s: $0.40, 8 s: $0.80, 12 s: $1.20"
    wide = {
        "720x1280": Money.parse("$0.10"),
        "1280x720": Money.parse("$0.10"),
        "1792x1024": Money.parse("$0.30"),
    }
    prices = PriceList(
        priced_on=PRICES.priced_on, source="us", models={"sora-2": ModelPrice(seconds=(4,), per_second=wide)}
    )
    offer = replace(OFFER, capabilities=capabilities_of(DIALECTS["inworld"], prices), quote=prices.quote)
    assert offer.price_list() == "4 s: $0.40 (720x1280, 1280x720) or $1.20 (1792x1024)"


async def test_the_declared_turns_bound_the_run(pipeline_env):
    """`max_turns` is how often the model is asked."""
    env = await pipeline_env(*([order()] for _ in range(9)))
    declared = env.agent_factory.declarations[DIRECTOR]
    three = {**env.agent_factory.declarations, DIRECTOR: declared.model_copy(update={"max_turns": 3})}
    env.agent_factory = replace(env.agent_factory, declarations=three)
    await env.run_agent(await env.open_request())
    assert len(env.model.heard) == 3


@pytest.mark.parametrize(("approval", "state"), [("always", "AWAITING_APPROVAL"), ("over $0.80", "QUEUED")])
async def test_the_declared_approval_decides_whether_a_tap_is_awaited(pipeline_env, approval, state):
    """`always` waits for a tap and says so; at $0.80 exactly, `over $0.80` does not."""
    env = await pipeline_env([order()], changes={"approval": approval})
    request = await env.open_request()
    await env.run_agent(request)
    assert (await env.video(request)).state == state
    assert ("waits for the user's tap" in env.model.words) is (approval == "always")


def test_a_director_is_told_of_a_picture(tmp_path):
    """With a picture its instructions say so, in a separate agent; all else is the same."""
    factory = factory_of(copied(tmp_path))
    plain, pictured = factory.agent(DIRECTOR, "en"), factory.agent(DIRECTOR, "en", has_picture=True)
    assert pictured is factory.agent(DIRECTOR, "en", has_picture=True)
    assert str(pictured.instructions).startswith(str(plain.instructions))
    assert "begins with that picture" in str(pictured.instructions)
    assert "picture" not in str(plain.instructions)
    assert [one.name for one in pictured.tools] == [one.name for one in plain.tools]
