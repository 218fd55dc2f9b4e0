"""The goals of the offline rules on labelled ideas: ordinary ones refused, unsafe ones let through.

`data/ideas.jsonl` is a set that others wrote. `data/ideas_own.jsonl` is ours; its half `final` was measured
once before a rule was changed for it (docs/content.md). `data/ideas_minors.jsonl` is about children; each of
its batches was measured before its kinds were mended. A failure prints rates by kind and language.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from guardrails.content.languages import DetectedLanguages
from guardrails.content.policy import RulesJudge
from guardrails.content.rules import load_rules

DATA = Path(__file__).parent / "data"
GOALS = {"ordinary": 0.02, "tricky": 0.08, "unsafe": 0.15, "minors": 0.0}
"""The largest share of each kind that may be judged wrongly."""

JUDGE = RulesJudge(load_rules())
LANGUAGES = DetectedLanguages()


def ideas(name: str, half: str | None = None) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]
    return [one for one in found if half is None or one["half"] == half]


def kinds(idea: dict[str, Any]) -> list[str]:
    return [idea["kind"], *(["minors"] if idea.get("minors") else [])]


def language(text: str) -> str:
    return "/".join(sorted(LANGUAGES.plausible(text)))


def judged_wrongly(found: list[dict[str, Any]]) -> list[tuple[dict[str, Any], str | None]]:
    verdicts = [(idea, JUDGE.judge_sync(idea["text"])) for idea in found]
    return [(idea, v.rule) for idea, v in verdicts if (v.word == "refused") != (idea["expect"] == "refuse")]


def report(found: list[dict[str, Any]], wrong: list[tuple[dict[str, Any], str | None]]) -> str:
    """Rates by kind and language, then each idea that was judged wrongly with the rule that refused it."""
    rows = [(kind, language(one["text"])) for one in found for kind in kinds(one)]
    faults = Counter((kind, language(one["text"])) for one, _ in wrong for kind in kinds(one))
    table = [
        f"{kind} {lang}: {faults[kind, lang]} of {n}" for (kind, lang), n in sorted(Counter(rows).items())
    ]
    return "\n".join([*table, *(f"{one['kind']}: {one['text']} ({rule})" for one, rule in wrong)])


SETS = [
    pytest.param("ideas.jsonl", None, GOALS, id="others"),
    pytest.param("ideas_own.jsonl", "tuning", GOALS, id="own"),
    pytest.param("ideas_own.jsonl", "final", GOALS, id="own-final"),
    pytest.param("ideas_minors.jsonl", None, GOALS, id="minors"),
]


@pytest.mark.parametrize(("name", "half", "goals"), SETS)
def test_the_goals_hold(name, half, goals):
    """Of each kind no larger share than the goal is judged wrongly, without a moderation key."""
    found = ideas(name, half)
    wrong = judged_wrongly(found)
    counts = Counter(kind for one in found for kind in kinds(one))
    faults = Counter(kind for one, _ in wrong for kind in kinds(one))
    missed = [kind for kind, most in goals.items() if faults[kind] > most * counts[kind]]
    assert not missed, f"{missed}\n{report(found, wrong)}"


def test_a_refusal_about_minors_shows_no_word():
    """What is refused about a child is refused as that, and never says which word to change."""
    verdicts = [JUDGE.judge_sync(one["text"]) for one in ideas("ideas_minors.jsonl") if one.get("minors")]
    assert {(verdict.category, verdict.matched) for verdict in verdicts} == {("minor", "")}


def test_no_idea_is_in_both_halves():
    """What measured the rules at the end is not what they were written with."""
    halves = [{one["text"] for one in ideas("ideas_own.jsonl", half)} for half in ("tuning", "final")]
    assert not halves[0] & halves[1]
    assert min(map(len, halves)) >= 125
