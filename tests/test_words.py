"""Texts and code keep pace: no text is dead, and no text knows a figure that the declaration sets."""

import re
from pathlib import Path

import pytest
import yaml

from chat import i18n as module
from chat.i18n import LANGUAGES, translator
from ledger.models import RequestState, VideoState

CHAT = Path(module.__file__).parent
WORDS = {code: yaml.safe_load((CHAT / "locales" / f"{code}.yaml").read_text("utf-8")) for code in LANGUAGES}
OWN = re.compile(r"24|\bdays?\b|\b(al|del) día\b|\b(por|do) dia\b")
SPANS = {
    86_400: "24 h",
    172_800: "2 d",
    90_000: "1 d 1 h",
    43_200: "12 h",
    5400: "1 h 30 min",
    90: "1 min 30 s",
    30: "30 s",
}

every_language = pytest.mark.parametrize("code", LANGUAGES)


@every_language
def test_a_window_is_said_exactly(code):
    """A rolling window is told as long as it is, and a day not as one of the calendar."""
    assert {seconds: translator(code).window(seconds) for seconds in SPANS} == SPANS


@every_language
def test_no_text_knows_a_window_of_its_own(code):
    """Lengths of windows stand in the declaration alone."""
    assert [name for name, text in WORDS[code].items() if OWN.search(text)] == []


def test_no_text_is_dead():
    """Every text is asked for by its name, by the first part of it, or is a state of a request or video."""
    code = "\n".join(path.read_text("utf-8") for path in CHAT.rglob("*.py"))
    quoted, begun = set(re.findall(r'["\'](\w+)["\']', code)), tuple(re.findall(r'f"(\w+_)\{', code))
    states = {str(state).lower() for state in (*VideoState, *RequestState)}
    assert {"quota_", "state_", "menu_"} <= set(begun)
    assert [name for name in WORDS["en"] if name not in quoted | states and not name.startswith(begun)] == []
