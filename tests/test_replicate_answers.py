"""What Replicate answers: pauses, words for a prediction, and nothing that breaks the reader."""

import contextlib
import json
from typing import Any

import httpx2
import pytest
from hosts import (
    quick,  # noqa: F401  # a fixture of every law here
)
from hypothesis import given
from hypothesis import strategies as st

from providers.base import Gone, InDoubt, JobFailed, JobModerated, Rejected, Status, Throttled
from providers.http import Reply
from providers.replicate import PAUSE_S, ReplicateReader

pytestmark = pytest.mark.all  # minutes in all: `make test-rest`
READ = ReplicateReader(lambda text: text)


def reply(status: int, body: object, **headers: str) -> Reply:
    return Reply(status, httpx2.Headers(headers), json.dumps(body).encode())


@pytest.mark.parametrize(
    ("body", "headers", "pause"),
    [
        ({"detail": "Request was throttled. Your rate limit resets in ~30s."}, {}, 30.0),
        ({"detail": "Request was throttled.", "status": 429, "retry_after": 5}, {}, 5.0),
        ({"detail": "Request was throttled. It resets in ~30s."}, {"Retry-After": "2"}, 2.0),
        ({"detail": "Request was throttled."}, {"Retry-After": "soon"}, PAUSE_S),
        ({"detail": "Request was throttled.", "retry_after": True}, {}, PAUSE_S),
        ({"detail": "Request was throttled.", "retry_after": -3}, {}, PAUSE_S),
    ],
)
def test_a_throttled_order_waits_as_long_as_it_is_told(body: Any, headers: Any, pause: float) -> None:
    """Header, field, words, and a minute where nothing is told: a 429 in Replicate's words costs nothing."""
    with pytest.raises(Throttled) as caught:
        READ.accepted(reply(429, body, **headers))
    assert caught.value.retry_after == pause


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["detail", "title", "id", "status", "error", "data_removed", "retry_after"]), inner,
        max_size=4,
    ),
)  # fmt: skip


@given(status=st.integers(200, 599), body=json_values)
def test_no_answer_crashes_the_reader(status: int, body: object) -> None:
    """Any answer is a job, a documented refusal or doubt; no refusal is read out of a 2xx, 3xx or 5xx."""
    answer = reply(status, body)
    try:
        READ.accepted(answer)
    except Rejected:
        assert status in (401, 402, 404, 422)
    except Throttled:
        assert status == 429
    except InDoubt:
        pass
    else:
        assert status < 300
    with contextlib.suppress(JobFailed, Gone):
        READ.status(answer.json() or {})


# A prediction


def test_every_documented_word_has_its_meaning() -> None:
    """Words of the lifecycle page; what never started costs nothing, of the rest nobody says so."""
    assert READ.status({"status": "starting"}) == Status("queued")
    assert READ.status({"status": "processing"}) == Status("running")
    assert READ.status({"status": "succeeded"}) == Status("succeeded", progress=100)
    for word, billing in (("failed", "unknown"), ("canceled", "unknown"), ("aborted", "unbilled")):
        with pytest.raises(JobFailed) as caught:
            READ.status({"status": word})
        assert caught.value.billing == billing


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("The input or output was flagged as sensitive. Please try again. (E005) (x1)", JobModerated),
        ("CUDA out of memory (E1001)", JobFailed),
        (None, JobFailed),
        ({"nested": 1}, JobFailed),
    ],
)
def test_moderation_is_told_by_its_code(error: Any, kind: type[JobFailed]) -> None:
    """E005 is Replicate's word for content that was taken away."""
    with pytest.raises(JobFailed) as caught:
        READ.status({"status": "failed", "error": error})
    assert type(caught.value) is kind
