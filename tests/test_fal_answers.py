"""What fal answers: refusals by their words, and the result that stands behind COMPLETED."""

import contextlib
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hosts import (
    HOSTS,
    quick,  # noqa: F401  # a fixture of every law here
)
from hypothesis import given
from hypothesis import strategies as st
from peer_fal import MODEL, FalPeer

from providers.base import Gone, InDoubt, JobFailed, JobModerated, Rejected, Transient
from providers.fal import FalReader
from providers.http import Reply

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`

TAKE, build = HOSTS["fal"].request, HOSTS["fal"].build
READ = FalReader(lambda text: text)


def reply(status: int, body: object) -> Reply:
    return Reply(status, httpx2.Headers(), json.dumps(body).encode())


# What comes back


def test_funds_are_told_from_the_words_of_a_locked_account() -> None:
    """fal has one status for a bad key and for an empty purse."""
    for words, reason in (("User is locked. Reason: Exhausted balance.", "funds"), ("Forbidden", "auth")):
        with pytest.raises(Rejected) as caught:
            READ.accepted(reply(403, {"detail": words}), MODEL)
        assert caught.value.reason == reason


@pytest.mark.parametrize("status", [400, 402, 408, 409, 425, 429, 500, 503])
def test_a_refusal_that_is_not_documented_is_doubt(status: int) -> None:
    """fal's own shape is not enough: a 429 is documented only for a queue limit that we never set."""
    with pytest.raises(InDoubt):
        READ.accepted(reply(status, {"detail": "no", "error_type": "rate_limited"}), MODEL)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["detail", "type", "msg", "error", "error_type", "request_id", "status"]), inner,
        max_size=4,
    ),
)  # fmt: skip


@given(status=st.integers(200, 599), body=json_values, told=json_values)
def test_no_answer_crashes_the_reader(status: int, body: object, told: object) -> None:
    """Any answer is a job, a documented refusal or doubt; any result a video, a failure, or asked again."""
    answer = reply(status, body)
    try:
        READ.accepted(answer, MODEL)
    except Rejected:
        assert status in (401, 403, 404, 422)
    except InDoubt:
        pass
    else:
        assert status < 300
    with contextlib.suppress(JobFailed, Gone, Transient):
        assert READ.result(told if isinstance(told, dict) else {}, answer) is not None
        assert status == 200


TIMED_OUT = {"detail": "Request timed out", "error_type": "request_timeout"}
TOLD = {"status": "COMPLETED", "error": "Request timed out", "error_type": "request_timeout"}
REFUSED = {"detail": [{"type": "content_policy_violation", "msg": "no", "input": "the prompt"}]}


@pytest.mark.parametrize(
    ("told", "status", "body", "error", "billing"),
    [
        (TOLD, 504, TIMED_OUT, JobFailed, "unbilled"),
        (TOLD, 422, TIMED_OUT, JobFailed, "unknown"),
        (TOLD, 403, TIMED_OUT, JobFailed, "unknown"),
        (TOLD, 500, {"detail": "oops"}, JobFailed, "unknown"),
        (TOLD, 502, "<html>", JobFailed, "unknown"),
        ({}, 504, TIMED_OUT, Transient, None),
        ({}, 401, {"detail": "Unauthorized"}, Transient, None),
        ({}, 404, {"detail": "Not Found"}, Gone, None),
        ({}, 200, [], Transient, None),
        ({}, 422, REFUSED, JobModerated, "unknown"),
        ({}, 422, {"detail": "too long"}, JobFailed, "unknown"),
        ({}, 422, "<html>", Transient, None),
    ],
)
def test_only_a_failure_of_the_platform_that_both_answers_name_is_unbilled(
    told: Any, status: int, body: Any, error: type[Exception], billing: str | None
) -> None:
    """5xx is never charged, if status and result name the same error; a 422 may be; the rest says nothing."""
    with pytest.raises(error) as caught:
        READ.result(told, reply(status, body))
    assert type(caught.value) is error
    assert getattr(caught.value, "billing", None) == billing
    assert "the prompt" not in str(caught.value)


async def test_a_failed_validation_shows_only_in_the_result(tmp_path: Path) -> None:
    """COMPLETED says that the work ended: the 422 behind it is a failure, and it may be billed."""
    async with FalPeer(tmp_path) as fake_provider:
        fake_provider.fates.append("invalid")
        provider = build(fake_provider.url)
        job = await provider.submit(TAKE)
        with pytest.raises(JobFailed) as caught:
            await provider.state(job.job_id)
        await provider.close()
    assert (type(caught.value), caught.value.billing) == (JobFailed, "unknown")
