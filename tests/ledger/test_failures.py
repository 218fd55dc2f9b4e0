"""One closed table of reasons: every one that the code can write has its words, for users and operators."""

import ast
import re
from typing import get_args

import pytest

from chat.i18n import LANGUAGES, translator
from chat.status_message import reason_text
from ledger import due_work, requests, transitions
from ledger.failures import EXPLANATIONS, REASONS, Failure, explanation
from ledger.models import VideoState
from providers.base import EndedAs, RejectedFor
from tests.support.factories import accepted, ordered, put
from tests.support.services import ROOT

SETTINGS = {
    "VIDEO_PRICES", "VIDEO_DIALECT", "VIDEO_API_KEY", "VIDEO_BASE_URL", "VIDEO_PROVIDER", "MEDIA_DIR",
    "VIDEO_ACCOUNT",
}  # fmt: skip
WITHOUT_SETTING = {
    "policy", "absent", "settled", "failed", "moderated", "expired", "overdue", "bad_asset",
    "late", "chat_refused", "withdrawn", "banned", "not_offered", "picture_gone",
}  # fmt: skip
WRITERS = [*(ROOT / "worker").glob("*.py"), *(ROOT / "ledger").glob("*.py"), *(ROOT / "chat").rglob("*.py")]


def test_every_reason_has_a_state_and_a_sentence():
    """No reason is left without a place, and the provider's own words for refusals and ends are reasons."""
    assert EXPLANATIONS.keys() == set(Failure)
    assert set().union(*REASONS.values()) | {Failure.LATE} == set(Failure)
    assert {*get_args(RejectedFor)} <= REASONS["FAILED_UNPAID"]
    assert {*get_args(EndedAs)} <= REASONS["FAILED_PAID"] & REASONS["FAILED_UNPAID"]
    assert [state for state in REASONS if state not in set(VideoState)] == []
    assert (explanation(None), explanation("of another version")) == ("", "")


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_has_its_own_text_in_every_language(language):
    """No two reasons of a state share a text, and none has the general one."""
    t = translator(language)
    for state, failures in REASONS.items():
        names = {failure: reason_text(VideoState(state), failure) for failure in failures}
        usual = reason_text(VideoState(state), None)
        assert usual not in names.values(), state
        texts = [t(name, price="$1") for name in (*names.values(), usual)]
        assert len(set(texts)) == len(texts), state
        assert all(failure in name for failure, name in names.items()), state


def test_the_sentence_names_the_setting_that_mends_it():
    """Where a setting mends the cause, the operator reads its name."""
    for failure, sentence in EXPLANATIONS.items():
        named = any(name in sentence for name in SETTINGS)
        assert named is (failure not in WITHOUT_SETTING), failure


def test_no_code_writes_a_reason_as_a_bare_word():
    """A reason is written as a `Failure`, so mypy knows that it is in the table."""
    bare = [
        f"{path.name}:{node.value.lineno}"
        for path in WRITERS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.keyword)
        and node.arg == "failure"
        and isinstance(node.value, ast.Constant)
        and node.value.value is not None
    ]
    assert bare == []


@pytest.mark.parametrize("text", ["hold", "paid", "failed", "expired", "stuck"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_says_that_the_operator_was_told(language, text):
    """Only `operator_told` says so, which is added where an admin has received the alert."""
    t = translator(language)
    told = {"en": r"notified|been told", "es": "avisa", "pt": "avisado"}[language]
    assert re.search(told, t("operator_told"))
    names = [name for name in t._texts if name.partition("_")[0] == text]
    assert [name for name in names if re.search(told, t._texts[name])] == []


@pytest.mark.any_ledger
async def test_a_disk_that_refuses_is_marked_once_and_unmarked(ledger, opened):
    """The mark changes no state, is written once, and leaves another reason as it is."""
    request = await ordered(ledger, opened)

    async def video():
        return (await requests.find_with_video(ledger, request))[1]

    first = await video()
    assert await due_work.mark_blocked(ledger, first, Failure.DISK, "the disk is full")
    assert not await due_work.mark_blocked(ledger, first, Failure.DISK, "the disk is full")
    marked = await video()
    assert (marked.state, marked.failure, marked.failure_detail) == (
        VideoState.QUEUED, "disk", "the disk is full",
    )  # fmt: skip
    assert await due_work.mark_blocked(ledger, marked, None)
    assert (await video()).failure is None
    late = await accepted(ledger, opened, "job-late")
    await put(ledger, late, VideoState.ACCEPTED, failure="late")
    row = (await requests.find_with_video(ledger, late))[1]
    assert not await due_work.mark_blocked(ledger, row, Failure.DISK, "x")
    assert transitions.LATE_CHARGE == "late"
