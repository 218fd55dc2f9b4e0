"""The trials of bench/peers: played with our guard, red for no guard and for one that refuses all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.peers import page
from bench.peers.adapter import AWAY, IN_PROGRESS, NOT_SENT, REFUSED, UNKNOWN
from bench.peers.catalog import ALL
from bench.peers.environments import HERE, ROOT
from bench.peers.picture import drawn
from bench.peers.place import Place, append
from bench.peers.trials import EDGES, TRIALS
from bench.peers.words import claim_of, faults, invites_retry

TRIAL_NAMES = [trial.name for trial in TRIALS]


def played(folder: Path, adapter: str, trials: str, seeds: int = 1) -> dict:
    """Play trials in a process of their own, as any library would."""
    report = folder / f"{adapter}.json"
    command = [sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), "-p", "bench.peers.plugin"]
    command += ["--adapter", f"bench.peers.adapters.{adapter}", "--seeds", str(seeds), "--trials", trials]
    command += ["--peers-report", str(report), "--basetemp", str(folder / "runs")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert report.exists(), done.stdout + done.stderr
    return json.loads(report.read_text())


def wrong(report: dict) -> dict[str, list[str]]:
    """Return what is wrong, by trial."""
    return {
        one["trial"]: [*one["effects"], *one["words"]]
        for one in report["results"]
        if one["effects"] or one["words"]
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_our_guard_is_right_in_all_sixteen_trials_and_at_both_edges(tmp_path):
    report = played(tmp_path, "ours:Ours", "")
    assert [one["trial"] for one in report["results"]] == [*TRIAL_NAMES, "quota", "budget"]
    assert wrong(report) == {}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_guard_pays_twice_and_invites_a_retry(tmp_path):
    red = wrong(played(tmp_path, "bare:Bare", "parallel,timeout,two_items"))
    assert "13 effects, wanted 1" in red["parallel"][0]
    assert any("invites a retry" in one for one in red["timeout"])
    assert "two_items" not in red


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_guard_that_refuses_everything_is_red_everywhere(tmp_path):
    red = wrong(played(tmp_path, "bare:Deny", "parallel,timeout,kill,two_items,not_sent"))
    assert sorted(red) == ["kill", "not_sent", "parallel", "timeout", "two_items"]


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_our_guard_is_right_in_twenty_seeds(tmp_path):
    assert wrong(played(tmp_path, "ours:Ours", "", seeds=20)) == {}


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        ("A was charged. Receipt R-0a1b2c3d-A.", "done"),
        ("The outcome is unknown and is being checked. Do not call it again.", "unknown"),
        ("This call is in progress already; nothing new was charged.", "in progress"),
        ("Nothing was sent, and nothing was charged.", "not done"),
        ("Refused: the limit of 5 a day is used up.", "refused"),
        ("Its store is unavailable; nothing new was charged.", "unavailable"),
        ("Hello.", "nothing"),
    ],
)
def test_a_sentence_is_read_for_what_it_claims(text, claim):
    assert claim_of(text) == claim


@pytest.mark.parametrize(
    ("text", "invites"),
    [
        ("An error occurred while running the tool. Please try again.", True),
        ("The service is busy; you may retry.", True),
        ("Do not try it again.", False),
        ("It is not made a second time.", False),
        *[(one, False) for one in (AWAY, IN_PROGRESS, NOT_SENT, REFUSED, UNKNOWN)],
    ],
)
def test_an_invitation_to_call_again_is_found(text, invites):
    assert invites_retry(text) is invites


def said(place: Place, text: str, item: str = "A", at: float = 10) -> None:
    append(place.sentences, {"act": "act-1", "item": item, "text": text, "since": at - 1, "until": at})


def charged(place: Place, item: str = "A") -> str:
    return place.charge("act-1", item, began=5)


def test_true_sentences_have_no_fault(tmp_path):
    place = Place(tmp_path)
    said(place, "Nothing was sent, and nothing was charged.", at=4)
    receipt = charged(place)
    said(place, "The outcome is unknown.", at=9)
    said(place, f"A was charged. Receipt {receipt}.")
    assert faults(place) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Nothing was charged.", "says that nothing was charged, and it was"),
        ("A was charged. Receipt R-ffffffff-A.", "hands back the receipt of something else"),
        ("It failed. Please try again.", "invites a retry of what was charged"),
        ("It is in progress.", "says in progress, and no call was running"),
        ("Error 17.", "says nothing about the effect"),
    ],
)
def test_an_untrue_sentence_is_found(tmp_path, text, fault):
    place = Place(tmp_path)
    charged(place)
    said(place, text)
    assert [one.partition(":")[0] for one in faults(place)] == [fault]


def test_one_item_does_not_get_the_receipt_of_another(tmp_path):
    place = Place(tmp_path)
    receipt = charged(place, "A")
    charged(place, "B")
    said(place, f"B was charged. Receipt {receipt}.", item="B")
    assert faults(place)[0].startswith("hands back the receipt of something else")


def test_done_is_untrue_where_nothing_was_charged(tmp_path):
    place = Place(tmp_path)
    said(place, "It was already done.")
    assert faults(place)[0].startswith("says done, and nothing was charged")


def report(effects: dict[str, int] | None = None, outside: dict[str, str] | None = None) -> dict:
    """Make a report of two seeds in which some trials are wrong in so many."""
    results = [
        {
            "trial": name,
            "seed": seed,
            "effects": ["act-1 A: 2 effects, wanted 1"] if seed < (effects or {}).get(name, 0) else [],
            "words": [],
            "answers": 4,
            "receipts": 3,
        }
        for name in TRIAL_NAMES
        for seed in range(2)
    ]
    return {
        "packages": {"x": "1.0"},
        "store": "SQLite",
        "outside": outside or {},
        "results": results,
    }


def test_the_page_names_the_lead_what_is_excluded_and_where_a_library_is_better():
    reports = {
        "onetake-guardrails": report({"slow": 1}),
        "agent-once": report({"kill": 2, "emptied": 2}, outside={"emptied": "one record"}),
    }
    text = page.render(reports, {})
    assert "right in 15 of 16 trials; the best of the others, agent-once, in 14: a lead of 1" in text
    assert "| kill -9 between effect and answer | ✓ | e2 |" in text
    assert "| store emptied between two calls | ✓ | (e2) |" in text
    assert "| slow call beyond any lease | e1 | ✓ better |" in text
    assert "- **agent-once**. store emptied between two calls: one record" in text


def test_a_trial_is_right_only_if_it_is_right_in_every_seed():
    assert page.right(report({"kill": 1})) == 15


def test_every_trial_has_a_title_and_every_library_its_pins():
    assert list(page.TITLES) == TRIAL_NAMES
    assert list(page.EDGES) == [trial.name for trial in EDGES]
    for one in ALL:
        pins = (HERE / "requirements" / f"{one.module}.txt").read_text().splitlines()
        assert pins[0] == "-r common.txt"
        assert all("==" in pin for pin in pins[1:] if not pin.startswith("#")), one.name


def test_the_picture_shows_what_was_charged():
    text = drawn([(minute * 2, 3 * (minute + 1)) for minute in range(13)], [(0, 3)])
    assert "no guard $39" in text
    assert ">guard $3<" in text
