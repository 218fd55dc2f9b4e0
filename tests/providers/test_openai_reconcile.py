"""After an unknown outcome the `/v1/videos` adapter replays or reads the list, and links only proven jobs."""

import time
from dataclasses import replace
from typing import Any

import pytest

from providers import job_matching, openai_compat
from providers.base import Absent, Found, InDoubt, Job, Unsure
from providers.job_matching import Window, compare_job, match_job, reaches_back
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import DIALECTS, INWORLD, SGLANG
from sandbox.video_api.openai import FakeProvider
from tests.support.provider_cases import NOW, SORA_REQUEST, all_claimed, claiming, unclaimed

WINDOW = Window.around(NOW, 60)


# Replay


async def test_a_replay_is_the_same_bytes_under_the_same_key(connect, fake_openai: FakeProvider) -> None:
    """Where the key is documented, sending the very same request again finds the lost job: one charge."""
    provider = connect(INWORLD)
    fake_openai.script("charge_drop")
    with pytest.raises(InDoubt):
        await provider.submit(SORA_REQUEST)
    found = await provider.reconcile(SORA_REQUEST, time.time(), unclaimed)
    first, second = fake_openai.posts()
    assert first["digest"] == second["digest"]
    assert first["headers"] == second["headers"]
    assert first["headers"]["idempotency-key"] == SORA_REQUEST.key
    assert found == Found(Job(fake_openai.charges()[0]["job"]))
    assert len(fake_openai.charges()) == 1


async def test_an_old_key_is_not_trusted(connect, fake_openai: FakeProvider) -> None:
    """After `replay_for_s` the key may be forgotten: no second POST."""
    provider = connect(INWORLD)
    assert await provider.reconcile(SORA_REQUEST, time.time() - 3601, unclaimed) == Unsure("cannot be asked")
    assert fake_openai.posts() == []


@pytest.mark.parametrize("answer", ["refuse_400", "refuse_402", "429", "500", "drop", "charge_html"])
async def test_a_refused_replay_proves_nothing(connect, fake_openai: FakeProvider, answer: Any) -> None:
    """The answer to the second POST says nothing about the first: never Absent."""
    provider = connect(INWORLD)
    fake_openai.script(answer)
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)


async def test_a_replay_that_meets_a_claimed_job_is_unsure(connect, fake_openai: FakeProvider) -> None:
    """A job that belongs to another request is never linked."""
    provider = connect(INWORLD)
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), all_claimed), Unsure)


# The list


def _listed(**shown: Any) -> dict[str, Any]:
    return {"id": "v1", "prompt": "a fox", "size": "720x1280", "seconds": "8", "created_at": NOW} | shown


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({}, "ours"),
        ({"seconds": 8}, "ours"),
        ({"prompt": "a fox\n"}, "ours"),
        ({"created_at": NOW * 1000}, "ours"),
        ({"created_at": "2026-11-18T10:26:40Z"}, "other"),
        ({"seed": 77, "prompt": "rewritten by the model"}, "ours"),
        ({"seed": "77", "prompt": None}, "ours"),
        ({"seed": 78}, "other"),
        ({"prompt": "a wolf"}, "other"),
        ({"created_at": NOW - 601}, "other"),
        ({"created_at": NOW + 661}, "other"),
        ({"prompt": None}, "perhaps"),
        ({"created_at": None}, "perhaps"),
        ({"created_at": "yesterday"}, "perhaps"),
        ({"size": "704x1280"}, "perhaps"),
        ({"seconds": None}, "perhaps"),
        ({"seconds": True}, "perhaps"),
    ],
)
def test_a_listed_job_is_ours_only_on_proof(shown: dict[str, Any], expected: str) -> None:
    """The seed decides alone; else prompt, size, seconds and time together; what shows less may be ours."""
    assert compare_job(_listed(**shown), SORA_REQUEST, WINDOW) == expected


@pytest.mark.parametrize(
    ("jobs", "complete", "expected"),
    [
        ([], True, Absent),
        ([], False, Unsure),
        ([_listed(prompt="a wolf")], True, Absent),
        ([_listed()], True, Found),
        ([_listed()], False, Unsure),
        ([_listed(seed=77)], False, Found),
        ([_listed(), _listed(id="v2")], True, Unsure),
        ([_listed(), _listed(id="taken")], True, Found),
        ([_listed(id="taken")], True, Absent),
        ([_listed(prompt=None)], True, Unsure),
        ([_listed(seed=77), _listed(id="v2", prompt=None)], True, Found),
    ],
)
async def test_only_a_whole_list_proves_absence(
    jobs: list[dict[str, Any]], complete: bool, expected: type
) -> None:
    """Found is exactly one unclaimed job; Absent needs the whole time window; all else is Unsure."""
    found = await match_job(jobs, SORA_REQUEST, WINDOW, claiming("taken"), complete=complete)
    assert type(found) is expected


@pytest.mark.parametrize(
    ("times", "expected"),
    [([90, 50, 9], True), ([90, 50], False), ([9, 50, 90, 8], False), ([90, None, 9], False), ([], False)],
)
def test_only_a_list_in_order_reaches_back(times: list[Any], expected: bool) -> None:
    """A list has passed a moment if it runs from new to old, every time is shown, and the last is older."""
    assert reaches_back([{"created_at": time} for time in times], 10) is expected


async def _submit_others(provider: OpenAICompat, count: int) -> None:
    for number in range(count):
        await provider.submit(replace(SORA_REQUEST, key=f"k{number}", prompt=f"another {number}"))


async def test_the_list_is_followed_page_by_page(connect, fake_openai: FakeProvider, monkeypatch) -> None:
    """Our job is found behind those of others, over several pages."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    provider = connect()
    fake_openai.script("charge_drop")
    with pytest.raises(InDoubt):
        await provider.submit(SORA_REQUEST)
    await _submit_others(provider, 5)
    found = await provider.reconcile(SORA_REQUEST, time.time(), unclaimed)
    assert found == Found(Job(fake_openai.charges()[0]["job"]))
    assert [r["query"].get("after") for r in fake_openai.requests() if "order" in r["query"]] == [
        None,
        fake_openai.charges()[4]["job"],
        fake_openai.charges()[2]["job"],
    ]


@pytest.mark.parametrize("shape", ["openai", "sglang"])
async def test_a_server_that_ignores_the_cursor_ends_the_search(
    connect, fake_openai: FakeProvider, shape: Any, monkeypatch
) -> None:
    """The same page twice means that the rest cannot be seen: Unsure after two questions, never Absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    provider = connect(DIALECTS[shape], ignores_after=True, shows=("prompt", "size", "seconds"))
    await _submit_others(provider, 5)
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)
    assert sum("order" in r["query"] for r in fake_openai.requests()) == 2


async def test_a_list_with_an_unreadable_id_is_not_whole(connect, fake_openai: FakeProvider) -> None:
    """A job whose id is longer than we store may be ours: it is not found, and nothing is called absent."""
    provider = connect()
    fake_openai.script("charge_drop")
    with pytest.raises(InDoubt):
        await provider.submit(SORA_REQUEST)
    [(known, job)] = fake_openai.jobs.items()
    del fake_openai.jobs[known]
    long = replace(job, id="video_" + "x" * 600)
    fake_openai.jobs[long.id] = long
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)


async def test_a_list_without_end_is_given_up(connect, fake_openai: FakeProvider, monkeypatch) -> None:
    """At most MAX_LIST_PAGES pages are read; a job on a later page is not called absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 1)
    monkeypatch.setattr(job_matching, "MAX_LIST_PAGES", 3)
    provider = connect()
    await _submit_others(provider, 5)
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)


async def test_the_search_stops_before_the_time_of_the_post(
    connect, fake_openai: FakeProvider, monkeypatch
) -> None:
    """A list, newest first, that reaches behind the time window is complete enough for Absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    provider = connect(clock_s=-5000)
    await _submit_others(provider, 5)
    assert await provider.reconcile(SORA_REQUEST, time.time(), unclaimed) == Absent()
    assert sum("order" in r["query"] for r in fake_openai.requests()) == 1


@pytest.mark.parametrize("clock_s", [-500, 0, 500])
async def test_a_wrong_clock_does_not_hide_our_job(
    connect, fake_openai: FakeProvider, clock_s: float
) -> None:
    """Eight minutes between the clocks change nothing."""
    provider = connect(clock_s=clock_s)
    fake_openai.script("charge_500")
    with pytest.raises(InDoubt):
        await provider.submit(SORA_REQUEST)
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Found)


async def test_two_orders_of_the_same_words_are_not_mixed_up(connect, fake_openai: FakeProvider) -> None:
    """The claimed one is left alone and the other is found; two unclaimed ones are for a person."""
    provider = connect()
    first = await provider.submit(SORA_REQUEST)
    fake_openai.script("charge_drop")
    with pytest.raises(InDoubt):
        await provider.submit(replace(SORA_REQUEST, key="second"))
    found = await provider.reconcile(SORA_REQUEST, time.time(), claiming(first.job_id))
    both = await provider.reconcile(SORA_REQUEST, time.time(), unclaimed)
    assert found == Found(Job(fake_openai.charges()[1]["job"]))
    assert both == Unsure("2 unclaimed jobs fit")


async def test_a_list_that_shows_a_seed_finds_a_job_whose_prompt_was_rewritten(
    connect, fake_openai: FakeProvider
) -> None:
    """The seed is the fingerprint."""
    provider = connect(SGLANG, shows=("seed",))
    fake_openai.script("charge_cut")
    with pytest.raises(InDoubt):
        await provider.submit(SORA_REQUEST)
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Found)
    assert await provider.reconcile(replace(SORA_REQUEST, seed=5), time.time(), unclaimed) == Absent()


async def test_a_broken_list_is_unsure(connect, fake_openai: FakeProvider) -> None:
    """A missing list proves nothing."""
    provider = connect(listing=False)
    assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)
