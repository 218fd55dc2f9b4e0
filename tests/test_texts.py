"""What users read: the same in every language, and valid for Telegram."""

import ast
import re
import shutil
from typing import get_args

import pytest
from wording import CHAT, HOSTILE, WORDS, every_language, fields_of, read

from chat import i18n as module
from chat import status_message
from chat.dispatcher import MENU
from chat.i18n import LANGUAGES, LocaleError, check_locales, translator
from guardrails.content.verdict import SEVERITY, ContentCategory
from ledger.models import AdmissionVerdict as AdmissionWord
from ledger.models import RequestState, VideoState
from providers.base import RejectedFor


def rendered(code, name, value):
    return translator(code)(name, **dict.fromkeys(fields_of(WORDS["en"][name]), value))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the words that a law may break."""
    copy = shutil.copytree(CHAT / "locales", tmp_path / "words")
    monkeypatch.setattr(module, "_FOLDER", copy)
    module._read.cache_clear()
    yield copy
    module._read.cache_clear()


def test_the_reader_is_strict():
    """The parser of these laws refuses what Telegram refuses."""
    broken = (
        "<u>x</u>",
        "<b>x",
        "x</b>",
        "<b><i>x</b></i>",
        "a & b",
        "a < b",
        "<b/>",
        "&nbsp;",
        "x<b",
        "<!-- -->",
    )
    for html in (*broken, '<b class="x">y</b>', "<a>y</a>"):
        with pytest.raises(AssertionError):
            read(html)
    assert read('<b>a</b> &lt;&amp; <a href="https://x">ö</a> &#x27;') == "a <& ö '"


def test_all_languages_say_the_same_things():
    """Every language has the names and placeholders of English, and nothing else."""
    check_locales()
    for code in LANGUAGES:
        assert WORDS[code].keys() == WORDS["en"].keys()


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('tap_gone: "', 'tap_went: "', "tap_gone.*one language only"),
        ("{price}", "{prize}", "fills"),
        ("{price}", "{}", "not a name"),
        ("{price}", "{price", "no text to fill"),
        ("unit_day: d", "unit_day: no", "unit_day is no text"),
        ("unit_day: d", "unit_day: 1", "unit_day is no text"),
    ],
)
def test_a_broken_language_stops_the_start(folder, old, new, why):
    """A missing name, another placeholder, a lone brace, a YAML boolean: found at start, not by a user."""
    file = folder / "pt.yaml"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), "utf-8")
    with pytest.raises(LocaleError, match=f"pt.yaml: .*{why}" if "one language" not in why else why):
        check_locales()


@every_language
def test_no_name_stands_twice(code):
    """YAML would silently keep the last of two texts with one name."""
    names = re.findall(r"(?m)^(\w+):", (CHAT / "locales" / f"{code}.yaml").read_text("utf-8"))
    assert len(names) == len(set(names)) == len(WORDS[code])


@every_language
@pytest.mark.parametrize("value", HOSTILE, ids=ascii)
def test_no_value_writes_markup(code, value):
    """Whatever a user, a model or a provider wrote stands in the text as they wrote it, never as markup."""
    for name, text in WORDS[code].items():
        assert read(rendered(code, name, value)).count(value) >= len(fields_of(text)), name


@every_language
def test_texts_that_hold_texts_are_html(code):
    """/start and /help take the prices as HTML of ours, whose own values are escaped already."""
    t = translator(code)
    for value in HOSTILE:
        for name in ("start", "help"):
            assert value in read(t.html(name, prices=t("prices", list=value, quota=value, window=value)))


@every_language
def test_plain_texts_hold_no_markup(code):
    """What Telegram shows without parsing (taps, buttons, menu) or we escape once more holds no markup."""
    for name, text in WORDS[code].items():
        if name.partition("_")[0] in {"tap", "button", "menu", "category", "state", "when", "unit"}:
            assert not set("<>&") & set(text), name
    assert not set("<>&") & set(WORDS[code]["not_allowed"]), "it answers taps too"


@every_language
def test_limits_of_telegram(code):
    """A callback answer has at most 190 characters, a command's words 100."""
    limits = {"tap": 190, "menu": 100}
    for name, text in WORDS[code].items():
        assert 0 < len(text) <= limits.get(name.partition("_")[0], 1000), name
    assert len(translator(code)("not_allowed", user_id=2**53)) <= 190
    assert {f"menu_{name}" for name in MENU} == {name for name in WORDS[code] if name.startswith("menu_")}


@every_language
def test_same_commands_figures_and_emphasis(code):
    """A translation names the same commands and figures, in the same emphasis."""
    marks = re.compile(r"/[a-z]+|\d+|<\w+>")
    for name, text in WORDS[code].items():
        assert sorted(marks.findall(text)) == sorted(marks.findall(WORDS["en"][name])), name


AGAIN = {"en": r"send .*again", "es": r"env[ií]\w* .*de nuevo|volver a enviar", "pt": r"envi\w+ .*de novo"}


@every_language
def test_no_language_invites_a_retry_alone(code):
    """Who may send something again may do so in every language; after a doubt or a payment nobody may."""
    asked = {
        one: {name for name, text in WORDS[one].items() if re.search(AGAIN[one], text, re.IGNORECASE)}
        for one in ("en", code)
    }
    assert asked[code] == asked["en"]
    assert len(asked["en"]) > 10
    assert not asked[code] & {"in_doubt", "hold", "failed_paid", "failed_policy", "refused_content"}
    assert not asked[code] & {"refused_quota", "refused_cooldown", "refused_breaker", "refused_budget"}


@every_language
def test_every_word_of_the_ledger_has_its_text(code):
    """Every state, failure, refusal and category that can be written can be told."""
    t = translator(code)
    words = [f"state_{one}" for one in (*RequestState, *VideoState)]
    words += [f"failed_{one}" for one in (*status_message._FAILURES, "unpaid", "paid")]
    words += [f"refused_{one}" for one in (*status_message._REFUSALS, "content", "content_closed")]
    words += [f"category_{one}" for one in get_args(ContentCategory)]
    assert [word for word in words if not t.has(word)] == []
    assert set(SEVERITY) == set(get_args(ContentCategory))


def test_status_knows_every_word_of_the_others():
    """The words of providers and of admission reach the user as what they are, not as a general sorry."""
    ours = {"unreachable", "absent", "settled", "moderated", "failed"}
    assert {*get_args(RejectedFor), *ours} == status_message._FAILURES
    assert {*get_args(AdmissionWord), "busy"} - {"admitted", "replay"} == status_message._REFUSALS


def asked_for():
    """Return every `say("name", field=…)` of the room: file and line, name, fields; None for `**fields`."""
    for path in CHAT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Call(func=func, args=[ast.Constant(value=name)], keywords=keywords):
                    if ast.unparse(func) in ("t", "t.html"):
                        filled = {word.arg for word in keywords}
                        yield f"{path.name}:{node.lineno}", name, None if None in filled else filled


def test_the_code_fills_what_the_texts_ask_for():
    """No handler asks for a text that is not there, or leaves one of its placeholders open."""
    asked = list(asked_for())
    assert len(asked) > 30
    for where, name, filled in asked:
        assert name in WORDS["en"], where
        assert filled is None or filled >= set(fields_of(WORDS["en"][name])), where
