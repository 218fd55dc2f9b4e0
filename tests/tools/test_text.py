"""Text is cut where readers see no difference, and fills its limit whatever its script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat.status_message import fit_utf16
from tools.text import graphemes, trimmed, utf16_units

JAPANESE = "夜の " + "雨の路地を赤い紙の船がゆっくり流れていく" * 40
FAMILY = "👨‍👩‍👧‍👦"


@pytest.mark.parametrize(("cut", "most"), [(trimmed, 200), (fit_utf16, 600)])
@pytest.mark.parametrize("text", [JAPANESE, "Look: " + "x" * 2000, "สวัสดี " + "ภาพยนตร์สั้น" * 200])
def test_a_text_without_spaces_fills_its_limit(cut, most, text):
    """One space near the beginning is no place to cut at."""
    assert most * 0.9 < len(cut(text, most)) <= most


def test_a_text_with_words_is_cut_between_them():
    """A cut word is worse than a few characters less."""
    assert trimmed("a quiet market at dawn", 15) == "a quiet market…"
    assert trimmed("a quiet market, at dawn", 18) == "a quiet market…"
    assert trimmed("a quiet market at dawn", 22) == "a quiet market at dawn"


@pytest.mark.parametrize(
    "one", [FAMILY, "🇪🇸", "👍🏽", "e\u0301", "❤️", "각", "🏴\U000e0067\U000e0062\U000e007f", "नि"]
)
def test_what_is_seen_as_one_character_is_not_cut(one):
    """No half of an emoji, flag, accent or syllable is left before the ellipsis."""
    text = one * 50
    assert list(graphemes(text)) == [one] * 50
    for most in range(len(one) + 1, 60):
        kept = trimmed(text, most).removesuffix("…")
        assert kept == one * (len(kept) // len(one))


def test_flags_are_pairs():
    """Three regional indicators are one flag and a letter."""
    assert list(graphemes("🇪🇸🇫a")) == ["🇪🇸", "🇫", "a"]


@given(st.text(), st.integers(5, 60))
def test_a_cut_text_fits_and_is_its_beginning(text, most):
    """In code points and in UTF-16 units, for any text."""
    line = " ".join(text.split())
    for size in (len, utf16_units):
        cut = trimmed(text, most, size)
        assert size(cut) <= most
        assert cut == line or line.startswith(cut.removesuffix("…"))
    assert "".join(graphemes(text)) == text
