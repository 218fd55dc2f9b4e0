"""`run_agent`: however a run ends, an order that it placed is made, and a request without one ends with a
message.
"""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import httpx2
import pytest
from agents import ModelRefusalError
from openai import APIStatusError
from sqlalchemy.exc import OperationalError

from chat.i18n import translator
from guardrails.admission import AdmissionRequest
from guardrails.redis_client import connect
from ledger import breaker, orders, requests
from ledger.database import Ledger
from ledger.models import VIDEO_TOOL, RequestState, VideoState
from sandbox.proxy import Proxy
from tests.support.factories import Opener, order_for
from tests.support.models import CAPTION_CALL, order, raw
from tests.support.pipeline_harness import PIPELINE_TIMEOUTS, open_pipeline
from tools.context import AFTER_ORDER_S
from worker.context import Timeouts

V, R = VideoState, RequestState


async def hang():
    """Wait until cancelled."""
    await asyncio.Event().wait()


async def test_run_at_its_turn_limit_makes_one_video(pipeline_env):
    """A model that calls until it is stopped: its first order is delivered, once."""
    env = await pipeline_env(*([order()] for _ in range(20)))
    request = await env.open_request()
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.model.heard) == 8
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_model_that_hangs_after_its_order_makes_one_video(pipeline_env):
    """The run ends by its timeout, and the video comes all the same."""
    env = await pipeline_env([order()], hang, timeouts=Timeouts(run_s=1, retry_s=0, poll_most_s=0.02))
    request = await env.open_request()
    assert await env.finish_video(request) is V.SUCCEEDED
    assert (await env.request(request)).attempts == 1


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("late", [False, True], ids=["before the commit", "after the commit"])
async def test_run_cancelled_in_the_tool_body(pipeline_env, monkeypatch, late):
    """A worker stopped in the middle of the order: stored or not, the request ends with one video."""
    env = await pipeline_env([order()], [order()], timeouts=replace(PIPELINE_TIMEOUTS, run_s=5))
    request = await env.open_request()
    real, reached = orders.place, asyncio.Event()

    async def place(*args):
        placed = await real(*args) if late or reached.is_set() else None
        if not reached.is_set():
            reached.set()
            await hang()
        return placed

    monkeypatch.setattr(orders, "place", place)
    task = asyncio.create_task(env.run_agent(request))
    await reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    assert (await env.request(request)).attempts == (1 if late else 2)


async def test_ledger_unavailable_when_the_order_is_stored(pipeline_env, monkeypatch):
    """SQL unavailable in the tool's body: nothing is paid, the model does not read "try again", a later
    attempt orders one video.
    """
    env = await pipeline_env([order()], "sorry", [order()])
    request = await env.open_request()
    real, failed = orders.place, []

    async def place(*args):
        if not failed:
            failed.append(1)
            raise OperationalError("INSERT", {}, OSError("gone"))
        return await real(*args)

    monkeypatch.setattr(orders, "place", place)
    await env.run_agent(request)
    assert (await env.request(request)).state is R.OPEN
    assert "try again" not in env.model.words.lower()
    assert "The request is kept and continues by itself" in env.model.words
    assert await env.finish_video(request) is V.SUCCEEDED
    assert (await env.request(request)).attempts == 2
    assert len(env.fake_provider.charges()) == 1


@pytest.mark.app_timeouts
@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("back_after", [1, 99], ids=["back in between", "unavailable for long"])
async def test_a_guard_without_redis_pays_nothing(
    tmp_path, ledger: Ledger, redis, valkey, opened: Opener, back_after
):
    """Redis unavailable: refused as closed and attempted later; with Redis back one video, without it a
    message.
    """
    async with Proxy("127.0.0.1", valkey.port) as proxy:
        client = connect(f"redis://127.0.0.1:{proxy.port}")
        runs = 0

        async def another():
            nonlocal runs
            runs += 1
            proxy.mode = "hang" if runs <= back_after else "pass"
            if proxy.mode == "pass":
                proxy.cut()
            return [order()]

        turns = [another, "closed", another, "closed", another, "closed"]
        async with open_pipeline(tmp_path, ledger, client, *turns) as env:
            await env.worker.admission.refresh()
            request = await opened()
            await env.run_agent(request)
            assert (await env.request(request)).state is R.OPEN
            assert env.fake_provider.posts() == []
            await env.finish(request)
            found = await env.request(request)
            if back_after == 1:
                assert (found.state, found.attempts) == (R.ORDERED, 2)
                assert len(env.fake_provider.charges()) == 1
            else:
                assert (found.state, found.reason, found.attempts) == (R.REFUSED, "closed", 3)
                assert env.fake_provider.posts() == []
            proxy.mode = "pass"
            proxy.cut()
        await client.aclose()


@pytest.mark.representative
@pytest.mark.parametrize(
    ("changes", "verdict", "words"),
    [
        ({"cooldown": "10m"}, "cooldown", "It will work again in 10 min"),
        ({"quota": "1/day"}, "quota", "It will work again in 1 d"),
        ({"budget": "{user: $1/day}"}, "budget", "It will work again in 1 d"),
        ({"budget": "{everyone: $1/2h}"}, "budget", "It will work again in 2 h"),
    ],
    ids=["cooldown", "quota", "user budget", "everyone budget"],
)
async def test_same_prompt_again_reaches_a_limit_with_a_time(pipeline_env, changes, verdict, words):
    """A second request of one user is refused by the declared limit, with the time when it works again."""
    env = await pipeline_env([order()], "done", [order()], changes=changes)
    first = await env.open_request()
    await env.run_agent(first)
    second = await env.open_request()
    await env.run_agent(second)
    found = await env.request(second)
    assert (found.state, found.reason) == (R.REFUSED, verdict)
    assert found.reason_until is not None
    assert words in env.model.words
    await env.finish_video(first)
    assert len(env.fake_provider.charges()) == 1


async def test_the_same_prompt_again_with_cooldown_off_is_a_second_video(pipeline_env):
    """Two commands with the same text are two requests: without a cooldown, two videos."""
    env = await pipeline_env([order()], "done", [order()])
    for _ in range(2):
        assert await env.finish_video(await env.open_request()) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 2


async def test_the_breaker_stops_what_the_cooldown_would_have(pipeline_env):
    """Cooldown off, two starts a minute allowed: the third order waits, later calls read why, and when no
    one closes the breaker it expires.
    """
    turns = [[order()], "done"] * 4
    env = await pipeline_env(*turns, changes={"breaker": "{user: 2/1m}"})
    for _ in range(2):
        assert await env.finish_video(await env.open_request()) is V.SUCCEEDED
    third = await env.open_request()
    await env.run_agent(third)
    await env.submit(third)
    assert (await env.video(third)).state is V.QUEUED
    assert [one.scope for one in await breaker.open_breakers(env.ledger)] == ["user:7"]
    await env.worker.admission.refresh()
    fourth = await env.open_request()
    await env.run_agent(fourth)
    assert (await env.request(fourth)).reason == "breaker"
    assert "until an operator has looked" in env.model.words
    env.ledger.shift += 1801
    assert await env.finish_video(third) is V.EXPIRED
    assert len(env.fake_provider.charges()) == 2


@pytest.mark.slow
async def test_final_text_is_stored_in_a_form_that_a_column_holds(pipeline_env):
    """A model that writes odd characters and orders nothing: the request ends at once, its text quoted and
    cut.
    """
    env = await pipeline_env("odd \ud800 \0 words " + "x" * 1000)
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.reason, found.attempts) == (R.NO_ORDER, "no_call", 1)
    assert found.reason_quote.startswith("odd ? words xxx")
    assert len(found.reason_quote) <= 300


async def test_order_in_flight_keeps_its_reservation(pipeline_env, monkeypatch):
    """The run ends while another attempt's order is being committed: its reservation is not released."""
    env = await pipeline_env("I shall not")
    request = await env.open_request()
    run = await env.run_context(request)
    real = requests.close_request

    async def close(*args, **more):
        await orders.place(env.ledger, order_for(request), run.limits)
        return await real(*args, **more)

    await env.worker.admission.reserve(
        AdmissionRequest("generate_video", request, 7, 1, "c", limits=run.limits)
    )
    monkeypatch.setattr(requests, "close_request", close)
    await env.run_agent(request)
    assert (await env.request(request)).state is R.ORDERED
    assert any(":user:" in key for key in await env.reservation_keys())


EN = translator("en")


@pytest.mark.slow
async def test_order_that_cannot_be_stored_is_attempted_again(app_env, monkeypatch):
    """The first two attempts meet a ledger that accepts no order: no POST, and the chat says which attempt
    it is; the third makes the video.
    """
    env = await app_env()
    real, failed, posted = orders.place, [], []

    async def place(*args, **more):
        if len(failed) < 2:
            failed.append(1)
            posted.append(len(env.fake_provider.posts()))
            raise OperationalError("INSERT", {}, OSError("the server is gone"))
        return await real(*args, **more)

    monkeypatch.setattr(orders, "place", place)
    request, video = await env.create()
    assert (request.state, request.attempts) == (RequestState.ORDERED, 3)
    assert video.state is VideoState.DELIVERED
    assert (len(failed), posted) == (2, [0, 0])
    retrying = EN("retrying", attempt=2)
    assert await env.api.calls.wait_for(lambda call: retrying in str(call.params.get("text")))
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


def _status_error(status: int, code: str | None = None) -> APIStatusError:
    request = httpx2.Request("POST", "http://model.invalid/v1/responses")
    response = httpx2.Response(status, request=request)
    return APIStatusError("no", response=response, body={"code": code})


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ModelRefusalError("I can't film that."), "model_refused"),
        (_status_error(400, "content_filter"), "model_refused"),
        (_status_error(400), "model_rejected"),
        (_status_error(401), "model_rejected"),
    ],
    ids=["refusal", "content filter", "bad request", "bad key"],
)
async def test_a_refusal_of_the_model_is_decided_in_one_attempt(pipeline_env, error, reason):
    """What the same request would meet again ends it at once, with its own reason."""
    env = await pipeline_env(error, [order()])
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.reason, found.attempts) == (R.NO_ORDER, reason, 1)
    assert len(env.model.heard) == 1
    assert found.reason_quote == ("I can't film that." if isinstance(error, ModelRefusalError) else None)


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_failure_that_may_pass_is_asked_again_in_the_same_attempt(pipeline_env, status):
    """A short outage of the endpoint costs no attempt."""
    env = await pipeline_env(_status_error(status), [order()])
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.attempts) == (R.ORDERED, 1)
    assert len(env.model.heard) == 3


@pytest.mark.parametrize(
    "turns",
    [[[raw("[1]") for _ in range(8)], [order()]], [[raw("{}")] for _ in range(9)]],
    ids=["in one turn", "in all turns"],
)
async def test_malformed_calls_are_bounded(pipeline_env, turns):
    """A model that cannot write an order is not asked without end, nor in another attempt."""
    env = await pipeline_env(*turns)
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.reason, found.attempts) == (R.NO_ORDER, "malformed", 1)
    assert len(env.model.heard) == (1 if len(turns) == 2 else 8)


async def test_a_good_call_among_many_malformed_ones_is_an_order(pipeline_env):
    """What is refused as malformed takes nothing from the request."""
    env = await pipeline_env([*(raw("[1]") for _ in range(9)), order()])
    request = await env.open_request()
    await env.run_agent(request)
    assert (await env.request(request)).state is R.ORDERED


async def test_a_run_ends_when_order_and_caption_are_stored(pipeline_env):
    """No closing answer is bought that no one reads."""
    env = await pipeline_env([order()], [raw(CAPTION_CALL, name="generate_caption")], "done")
    request = await env.open_request()
    await env.run_agent(request)
    found = await env.request(request)
    assert (found.state, found.caption) == (R.ORDERED, "A market wakes up.")
    assert len(env.model.heard) == 2


async def test_no_request_to_the_model_is_repeated_after_the_order(pipeline_env):
    """The video is made whatever the model says now: its failure ends the run."""
    env = await pipeline_env([order()], _status_error(503), "done")
    request = await env.open_request()
    await env.run_agent(request)
    assert (await env.request(request)).state is R.ORDERED
    assert len(env.model.heard) == 2


async def test_a_run_with_an_order_has_the_time_for_a_caption(pipeline_env):
    """The order shortens the time limit of its run, and never extends it."""
    env = await pipeline_env()
    request = await env.open_request()
    run = await env.run_context(request)
    loop, placed = asyncio.get_running_loop(), SimpleNamespace(tool=VIDEO_TOOL)
    for given, left in ((1000, AFTER_ORDER_S), (5, 5)):
        async with asyncio.timeout(given) as run.time_limit:
            run.keep_order(placed)
            assert run.time_limit.when() - loop.time() == pytest.approx(left, abs=2)
            await asyncio.sleep(0)
    run.keep_order(placed)  # after its run has ended: nothing happens
