"""The declarations of this house: packaged with it, good, and without a price."""

from pathlib import Path

from tools import agent_spec as module
from tools.agent_spec import PLACEHOLDERS, declarations_folder, load_folder

TOOLS = {"generate_video": "pays", "generate_caption": "writes", "quota_left": "reads"}


def test_a_wheel_reads_its_own_declarations_and_never_the_sdk(tmp_path, monkeypatch):
    """In site-packages the `agents` beside the code is the SDK; the packaged folder is looked at first."""
    assert declarations_folder() == Path(module.__file__).parent.parent / "agents"
    packaged = tmp_path / "declarations"
    packaged.mkdir()
    monkeypatch.setattr(module, "_PACKAGED", packaged)
    assert declarations_folder() == packaged


def test_our_own_declarations_are_good():
    """The house ships a director with every guard, and a caption writer that can call nothing."""
    ours = load_folder(declarations_folder(), tools=TOOLS)
    assert sorted(ours) == ["caption_writer", "director"]
    director, writer = ours["director"], ours["caption_writer"]
    guards = ("once", "quota", "cooldown", "breaker", "budget", "content", "approval")
    assert {name: policy.declared_fields() for name, policy in director.tools.items()} == {
        "generate_video": guards,
        "generate_caption": ("once",),
        "quota_left": ("changes",),
    }
    assert (writer.tools, writer.max_turns) == ({}, 1)


def test_prices_are_never_typed_by_hand():
    """No declaration holds a price in its instructions: the provider's quote fills it in."""
    for ours in load_folder(declarations_folder(), tools=TOOLS).values():
        assert "$" not in ours.instructions
        assert "{" not in ours.render(**dict.fromkeys(PLACEHOLDERS, "x"))
