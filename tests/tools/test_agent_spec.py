"""An agent is a file: read once, strictly, and never run."""

from pathlib import Path

import pytest

from guardrails.policy import Rate
from tools import agent_spec as module
from tools.agent_spec import (
    PLACEHOLDERS,
    DeclarationError,
    declarations_folder,
    load_declaration,
    load_folder,
    refuse_python,
)
from tools.registry import TOOLS

FIELDS = {"name": "actor", "model": "gpt-5-mini", "max_turns": "8"}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "agents"
    made.mkdir()
    return made


@pytest.fixture
def load(folder):
    def write_and_load(content, name="actor.md"):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return load_declaration(path, tools=TOOLS)

    return write_and_load


def markdown(body="You act.", **fields):
    lines = "".join(f"{key}: {value}\n" for key, value in (FIELDS | fields).items() if value is not None)
    return f"---\n{lines}---\n{body}\n"


def video(guards):
    return markdown(tools=f"{{generate_video: {{{guards}}}}}")


def test_every_field_of_a_declaration_arrives(load):
    """What the file says is what the program has, under the same names."""
    read = load(
        markdown(
            "You act in {language}.",
            settings="{temperature: 0.7, max_tokens: 500, parallel_tool_calls: false}",
            tools="{quota_left: {changes: nothing}, generate_video: {once: per_request, quota: 5/day}}",
        )
    )
    assert (read.name, read.model, read.max_turns) == ("actor", "gpt-5-mini", 8)
    assert read.settings.model_dump(exclude_none=True) == {
        "temperature": 0.7, "max_tokens": 500, "parallel_tool_calls": False,
    }  # fmt: skip
    assert list(read.tools) == ["quota_left", "generate_video"]
    assert read.tools["generate_video"].quota == Rate(count=5, window_s=86_400)
    assert read.instructions == "You act in {language}.\n"
    assert read.model_dump()["tools"]["generate_video"]["quota"] == {"count": 5, "window_s": 86_400}


def test_a_declaration_cannot_change_after_it_was_read(load):
    """Neither a field nor the set of tools can be replaced."""
    read = load(video("once: per_request"))
    with pytest.raises(ValueError, match="frozen"):
        read.max_turns = 32
    with pytest.raises(TypeError, match="item assignment"):
        read.tools["generate_video"] = None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "agents/actor.md: no front matter"),
        ("You act.\n", "no front matter"),
        ("---\nname: actor\n", "no front matter"),
        ("\n" + markdown(), "no front matter"),
        (markdown("  \n "), "the instructions are empty"),
        (
            "---\n---\nYou act.\n",
            "None is not a set of fields; known: name, model, max_turns, settings, budget",
        ),
        ("---\n- name\n---\nYou act.\n", "['name'] is not a set of fields"),
        (markdown().encode("utf-16"), "is not UTF-8"),
        (markdown().encode() + b"\xff", "is not UTF-8"),
        (markdown("x" * 70_000), "bytes are too many; a declaration has at most 65536"),
        (markdown(name="director"), "name: 'director' is not the file's name 'actor'"),
        (markdown(name="Actor"), "name: 'Actor' is refused"),
        (markdown(name=None), "name: it is missing"),
        (markdown(model="7"), "model: 7 is refused: input should be a valid string"),
        (markdown(model="a b"), "model: 'a b' is refused"),
        (markdown(max_turns="0"), "max_turns: 0 is refused: input should be greater than or equal to 1"),
        (markdown(max_turns="33"), "max_turns: 33 is refused: input should be less than or equal to 32"),
        (markdown(max_turns="true"), "max_turns: True is refused"),
        (markdown(max_turns="8.0"), "max_turns: 8.0 is refused"),
        (markdown(max_turns='"8"'), "max_turns: '8' is refused"),
        (
            markdown(hooks="[]"),
            "'hooks' is not known here; known: name, model, max_turns, settings, budget",
        ),
        (markdown(instructions="x"), "'instructions' is not known here"),
        (markdown(settings="{temperature: 3}"), "settings.temperature: 3 is refused"),
        (markdown(settings="{temperature: .nan}"), "settings.temperature: nan is refused"),
        (
            markdown(settings="{top_p: 1}"),
            "'top_p' is not known here; known: temperature, max_tokens, parallel_tool_",
        ),
        (markdown(model=""), "line 3: 'model' has no value; give one or leave the line out"),
        (markdown(max_turns="8\nmax_turns: 9"), "line 5: 'max_turns' is given twice"),
        (markdown(max_turns="8\n\ttools: {}"), "line 5 has a tab; YAML is indented with spaces"),
        (markdown(on="x"), "line 5: a name that YAML does not read as text"),
        (markdown(model="&m x", settings="*m"), "line 5: aliases (*name) are refused"),
        (markdown(model="!!python/object/apply:os.getcwd []"), "line 3: could not determine a constructor"),
        (markdown(model="[1"), "line 4: "),
        (markdown(model="2026-99-99"), "the front matter is not YAML: month must be in 1..12"),
        (markdown(model="[" * 20_000), "the front matter is not YAML"),
        (markdown(tools="[generate_video]"), "tools: ['generate_video'] is refused"),
        (
            markdown(tools="{generate_movie: {once: per_request}}"),
            "'generate_movie' is not a tool; known: generate_v",
        ),
        (markdown(tools="{generate_video: }"), "'generate_video' has no value"),
        (video(""), "tools.generate_video: no tool without guards"),
        (video("quota: 5/day"), "tools.generate_video: no tool without guards"),
        (video("once: always"), "tools.generate_video.once: 'always' is not known; known: 'per_request'"),
        (
            video("once: per_request, quota: 5/week"),
            "tools.generate_video.quota: '5/week' is not written like '5/day'",
        ),
        (video("once: per_request, quota: "), "'quota' has no value; give one or leave the line out"),
        (
            video("once: per_request, cooldown: 600"),
            "tools.generate_video.cooldown: 600 is not a length of time",
        ),
        (
            video("once: per_request, breaker: {all: 3/m}"),
            "tools.generate_video.breaker: 'all' is not known here",
        ),
        (video("once: per_request, quota: 0/day, content: x"), "(and 1 more)"),
        (video("changes: nothing"), "tools.generate_video: 'changes: nothing' is not true of it"),
        (markdown(tools="{quota_left: {once: per_request}}"), "tools.quota_left: it only reads"),
        (
            markdown(tools="{generate_caption: {once: per_request, budget: {user: $1/day}}}"),
            "tools.generate_caption.budget: it costs nothing",
        ),
        (markdown("Speak {langauge}."), "{langauge} is no placeholder; known: language, price_list, sizes"),
        (markdown("Speak {language.upper}."), "'{language.upper}.' opens no placeholder"),
        (markdown("Speak {}."), "opens no placeholder; a literal brace is written twice"),
        (markdown("Speak }."), "opens no placeholder"),
    ],
)
def test_a_broken_declaration_is_refused_in_one_sentence(load, content, words):
    """The message names the file, the field, the value found and the names that are known."""
    with pytest.raises(DeclarationError) as caught:
        load(content)
    message = str(caught.value)
    assert message.startswith("agents/actor.md: ")
    assert words in message
    assert "\n" not in message
    assert len(message) < 300


def test_nothing_in_a_declaration_is_run(load, tmp_path):
    """Tags that build objects, and templates that reach into them, stay text or are refused."""
    trap = tmp_path / "trap"
    with pytest.raises(DeclarationError):
        load(markdown(model=f"!!python/object/apply:os.mkdir ['{trap}']"))
    assert not trap.exists()


def test_windows_files_are_read_like_all_others(load):
    """CRLF line ends and a byte-order mark change nothing."""
    plain = load(markdown("Act.\n\nWell."))
    assert load(b"\xef\xbb\xbf" + markdown("Act.\n\nWell.").replace("\n", "\r\n").encode()) == plain


def test_a_ruler_in_the_body_ends_nothing(load):
    """Only the second fence closes the front matter."""
    assert load(markdown("One.\n---\nTwo.")).instructions == "One.\n---\nTwo.\n"


def test_values_are_text_and_never_templates(load):
    """Braces inside a value come out as they went in, and doubled braces come out single."""
    read = load(markdown('{language}: {{"a": 1}} {price_list} {language}'))
    values = {"language": "{price_list}", "price_list": "{{x}} {0} \\1", "sizes": "unused"}
    assert read.render(**values) == '{price_list}: {"a": 1} {{x}} {0} \\1 {price_list}\n'


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "{language} got no value"),
        ({"language": "es", "lang": "es"}, "'lang' is no placeholder; known: language, price_list, sizes"),
    ],
)
def test_no_placeholder_stays_open(load, values, words):
    """A missing value and an unknown one are both refused."""
    with pytest.raises(DeclarationError) as caught:
        load(markdown("Speak {language}.")).render(**values)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["__init__.py", "helper.py", "deep/er/x.py", "agent.pyi", "fast.so"])
def test_python_next_to_the_declarations_is_refused_in_one_sentence(folder, name):
    """agents/ is the SDK's import name: Python there would hide the SDK, and the message says so."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).touch()
    (folder / "actor.md").write_text(markdown())
    for check in (refuse_python, lambda found: load_folder(found, tools=TOOLS)):
        with pytest.raises(DeclarationError, match="hides the OpenAI Agents SDK") as caught:
            check(folder)
        assert str(folder / name) in str(caught.value)


def test_a_folder_holds_declarations_and_nothing_else(folder):
    """Empty, missing and foreign content stop the start; hidden files and editors' copies do not."""
    with pytest.raises(DeclarationError, match="is missing"):
        load_folder(folder / "nowhere", tools=TOOLS)
    with pytest.raises(DeclarationError, match="holds no declaration"):
        load_folder(folder, tools=TOOLS)
    for name in ("actor.md", "actor.md~", ".actor.md.swp"):
        (folder / name).write_text(markdown())
    assert list(load_folder(folder, tools=TOOLS)) == ["actor"]
    (folder / "notes.txt").touch()
    with pytest.raises(DeclarationError, match=r"agents/notes\.txt is not a declaration"):
        load_folder(folder, tools=TOOLS)
    (folder / "notes.txt").rename(folder / "dir.md")
    (folder / "dir.md").unlink()
    (folder / "dir.md").mkdir()
    with pytest.raises(DeclarationError, match=r"agents/dir\.md cannot be read"):
        load_folder(folder, tools=TOOLS)


def test_a_wheel_reads_its_own_declarations_and_never_the_sdk(tmp_path, monkeypatch):
    """In site-packages the `agents` next to the code is the SDK; the packaged folder is read first."""
    assert declarations_folder() == Path(module.__file__).parent.parent / "agents"
    packaged = tmp_path / "declarations"
    packaged.mkdir()
    monkeypatch.setattr(module, "_PACKAGED", packaged)
    assert declarations_folder() == packaged


def test_our_own_declarations_are_good():
    """The app ships a director with every guard, and a caption writer that can call nothing."""
    ours = load_folder(declarations_folder(), tools=TOOLS)
    assert sorted(ours) == ["caption_writer", "director"]
    director, writer = ours["director"], ours["caption_writer"]
    guards = ("once", "quota", "cooldown", "breaker", "budget", "content", "approval")
    assert {name: policy.declared_fields() for name, policy in director.tools.items()} == {
        "generate_video": guards,
        "generate_image": guards,
        "generate_caption": ("once",),
        "quota_left": ("changes",),
    }
    assert (writer.tools, writer.max_turns) == ({}, 1)


def test_prices_are_never_typed_by_hand():
    """No declaration holds a price in its instructions: the provider's quote fills it in."""
    for ours in load_folder(declarations_folder(), tools=TOOLS).values():
        assert "$" not in ours.instructions
        assert "{" not in ours.render(**dict.fromkeys(PLACEHOLDERS, "x"))
