"""In doubt, the `/v1/videos` adapter replays the same bytes or reads the list: it adopts only on proof."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from providers import job_matching, openai_compat
from providers.base import Absent, Found, InDoubt, Job, Unsure
from providers.job_matching import Window, compare_job, match_job
from providers.openai_compat import OpenAICompat, reaches_back
from providers.openai_dialects import DIALECTS, INWORLD, SGLANG
from sandbox.video_api.openai import FakeProvider
from tests.support.provider_cases import NOW, SORA_REQUEST, adapter, unclaimed

WINDOW = Window.around(NOW, 60)


# In doubt: replay


async def test_a_replay_is_the_same_bytes_under_the_same_key(tmp_path: Path) -> None:
    """Where the key is documented, sending the very same request again finds the lost job: one charge."""
    async with FakeProvider(tmp_path, shape="inworld") as fake_provider:
        provider = adapter(fake_provider.base_url, INWORLD)
        fake_provider.script("charge_drop")
        with pytest.raises(InDoubt):
            await provider.submit(SORA_REQUEST)
        found = await provider.reconcile(SORA_REQUEST, time.time(), unclaimed)
        await provider.close()
    first, second = fake_provider.posts()
    assert first["digest"] == second["digest"]
    assert first["headers"] == second["headers"]
    assert first["headers"]["idempotency-key"] == SORA_REQUEST.key
    assert found == Found(Job(fake_provider.charges()[0]["job"]))
    assert len(fake_provider.charges()) == 1


async def test_an_old_key_is_not_trusted(tmp_path: Path) -> None:
    """After `replay_for_s` nobody knows whether the key is remembered: no second POST."""
    async with FakeProvider(tmp_path, shape="inworld") as fake_provider:
        provider = adapter(fake_provider.base_url, INWORLD)
        assert await provider.reconcile(SORA_REQUEST, time.time() - 3601, unclaimed) == Unsure(
            "cannot be asked"
        )
        await provider.close()
    assert fake_provider.posts() == []


@pytest.mark.parametrize("answer", ["refuse_400", "refuse_402", "429", "500", "drop", "charge_html"])
async def test_a_refused_replay_proves_nothing(answer: Any, tmp_path: Path) -> None:
    """What the second POST meets says nothing about the first: never Absent."""
    async with FakeProvider(tmp_path, shape="inworld") as fake_provider:
        provider = adapter(fake_provider.base_url, INWORLD)
        fake_provider.script(answer)
        assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)
        await provider.close()


async def test_a_replay_that_meets_a_claimed_job_is_unsure(tmp_path: Path) -> None:
    """A job that belongs to another request is never adopted."""
    async with FakeProvider(tmp_path, shape="inworld") as fake_provider:
        provider = adapter(fake_provider.base_url, INWORLD)
        assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), lambda _: True), Unsure)
        await provider.close()


# In doubt: the list


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
def test_only_a_whole_list_proves_absence(jobs: list[dict[str, Any]], complete: bool, expected: type) -> None:
    """Found is exactly one unclaimed job; Absent needs the whole time window; everything else is Unsure."""
    assert (
        type(match_job(jobs, SORA_REQUEST, WINDOW, lambda job: job == "taken", complete=complete)) is expected
    )


@pytest.mark.parametrize(
    ("times", "expected"),
    [([90, 50, 9], True), ([90, 50], False), ([9, 50, 90, 8], False), ([90, None, 9], False), ([], False)],
)
def test_only_a_list_in_order_reaches_back(times: list[Any], expected: bool) -> None:
    """A list has passed a moment if it runs from new to old, every time is shown, and the last is older."""
    assert reaches_back([{"created_at": time} for time in times], 10) is expected


async def _with_others(fake_provider: FakeProvider, provider: OpenAICompat, count: int) -> None:
    for number in range(count):
        await provider.submit(replace(SORA_REQUEST, key=f"k{number}", prompt=f"another {number}"))


async def test_the_list_is_followed_page_by_page(tmp_path: Path, monkeypatch) -> None:
    """Our job is found behind other people's, over several pages."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    async with FakeProvider(tmp_path) as fake_provider:
        provider = adapter(fake_provider.base_url)
        fake_provider.script("charge_drop")
        with pytest.raises(InDoubt):
            await provider.submit(SORA_REQUEST)
        await _with_others(fake_provider, provider, 5)
        found = await provider.reconcile(SORA_REQUEST, time.time(), unclaimed)
        await provider.close()
    assert found == Found(Job(fake_provider.charges()[0]["job"]))
    assert [
        r["query"].get("after") for r in fake_provider.requests() if r["method"] == "GET" and r["query"]
    ] == [
        None,
        fake_provider.charges()[4]["job"],
        fake_provider.charges()[2]["job"],
    ]


@pytest.mark.parametrize("shape", ["openai", "sglang"])
async def test_a_server_that_ignores_the_cursor_ends_the_search(
    shape: Any, tmp_path: Path, monkeypatch
) -> None:
    """The same page twice means that the rest cannot be seen: Unsure after two questions, never Absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    async with FakeProvider(
        tmp_path, shape=shape, ignores_after=True, shows=("prompt", "size", "seconds")
    ) as fake_provider:
        provider = adapter(fake_provider.base_url, DIALECTS[shape])
        await _with_others(fake_provider, provider, 5)
        assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)
        await provider.close()
    assert sum(r["path"] == "/v1/videos" and r["method"] == "GET" for r in fake_provider.requests()) == 2


async def test_a_list_without_end_is_given_up(tmp_path: Path, monkeypatch) -> None:
    """At most LIST_PAGES pages are read; what lies behind them is not called absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 1)
    monkeypatch.setattr(job_matching, "MAX_LIST_PAGES", 3)
    async with FakeProvider(tmp_path) as fake_provider:
        provider = adapter(fake_provider.base_url)
        await _with_others(fake_provider, provider, 5)
        assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)
        await provider.close()


async def test_the_search_stops_before_the_time_of_the_post(tmp_path: Path, monkeypatch) -> None:
    """A list, newest first, that has passed the window is whole enough for Absent."""
    monkeypatch.setattr(openai_compat, "LIST_LIMIT", 2)
    async with FakeProvider(tmp_path, clock_s=-5000) as fake_provider:
        provider = adapter(fake_provider.base_url)
        await _with_others(fake_provider, provider, 5)
        assert await provider.reconcile(SORA_REQUEST, time.time(), unclaimed) == Absent()
        await provider.close()
    assert sum(r["path"] == "/v1/videos" and r["method"] == "GET" for r in fake_provider.requests()) == 1


@pytest.mark.parametrize("clock_s", [-500, 0, 500])
async def test_a_wrong_clock_does_not_hide_our_job(clock_s: float, tmp_path: Path) -> None:
    """Eight minutes between the clocks change nothing."""
    async with FakeProvider(tmp_path, clock_s=clock_s) as fake_provider:
        provider = adapter(fake_provider.base_url)
        fake_provider.script("charge_500")
        with pytest.raises(InDoubt):
            await provider.submit(SORA_REQUEST)
        assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Found)
        await provider.close()


async def test_two_orders_of_the_same_words_are_not_mixed_up(tmp_path: Path) -> None:
    """The claimed one is left alone and the other is found; two unclaimed ones are for a person."""
    async with FakeProvider(tmp_path) as fake_provider:
        provider = adapter(fake_provider.base_url)
        first = await provider.submit(SORA_REQUEST)
        fake_provider.script("charge_drop")
        with pytest.raises(InDoubt):
            await provider.submit(replace(SORA_REQUEST, key="second"))
        found = await provider.reconcile(SORA_REQUEST, time.time(), lambda job: job == first.job_id)
        both = await provider.reconcile(SORA_REQUEST, time.time(), unclaimed)
        await provider.close()
    assert found == Found(Job(fake_provider.charges()[1]["job"]))
    assert both == Unsure("2 unclaimed jobs fit")


async def test_a_list_that_shows_a_seed_finds_a_job_whose_prompt_was_rewritten(tmp_path: Path) -> None:
    """The seed is the fingerprint."""
    async with FakeProvider(tmp_path, shape="sglang", shows=("seed",)) as fake_provider:
        provider = adapter(fake_provider.base_url, SGLANG)
        fake_provider.script("charge_cut")
        with pytest.raises(InDoubt):
            await provider.submit(SORA_REQUEST)
        assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Found)
        assert await provider.reconcile(replace(SORA_REQUEST, seed=5), time.time(), unclaimed) == Absent()
        await provider.close()


async def test_a_broken_list_is_unsure(tmp_path: Path) -> None:
    """A list that is not there, or not a list, proves nothing."""
    async with FakeProvider(tmp_path, listing=False) as fake_provider:
        provider = adapter(fake_provider.base_url)
        assert isinstance(await provider.reconcile(SORA_REQUEST, time.time(), unclaimed), Unsure)
        await provider.close()
