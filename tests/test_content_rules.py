"""Rule files: strict, typed, and plain about what is wrong with them."""

import pytest

from guardrails.content.rules import ContentRulesError, load_rules
from guardrails.content.verdict import SEVERITY


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("category: people\n", "category"),
        ("category: sexual\nrules: {a: {en: []}}\n", r"rules\.a\.en"),
        ("category: sexual\nrules: {a: {fr: [x]}}\n", r"rules\.a\.fr"),
        ("category: sexual\nrules: {a: {en: [yes]}}\n", "valid string, found True"),
        ("category: sexual\nrules: {a: {en: ['!!']}}\n", "'a': a phrase holds no letter"),
        (
            "category: sexual\nrules: {a: {en: [x y]}, b: {es: [X-Y]}}\n",
            "'x y' stands under both 'a' and 'b'",
        ),
        (
            "category: sexual\ntogether: {a: {lists: [kids, sexual], within: 3}}\n",
            "'kids' is unknown; known: .*minor",
        ),
        ("category: [\n", "line 2"),
        ("", "the file"),
    ],
)
def test_a_broken_rule_file_is_refused_with_its_place(tmp_path, text, named):
    """A rule file that cannot be used stops the start, naming file, place and what is wrong there."""
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ContentRulesError, match=rf"(?s)own\.yaml.*{named}"):
        load_rules(tmp_path)


def test_an_empty_folder_is_no_policy(tmp_path):
    """No rules are an error, never a policy that allows everything."""
    with pytest.raises(ContentRulesError, match="no rule files"):
        load_rules(tmp_path)


def test_the_lists_are_as_long_as_they_are_said_to_be():
    """At least 120 real people and 100 characters are known."""
    phrases = [phrase for known in load_rules().phrases.values() for phrase in known]
    count = {tag: len({p.rule for p in phrases if p.tag == tag}) for tag in SEVERITY}
    assert count["real_person"] >= 120
    assert count["copyrighted_character"] >= 100
