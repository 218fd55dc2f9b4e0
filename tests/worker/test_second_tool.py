"""A second paid tool beside the first: orders, limits, reports and workers go by tool."""

import io
import json
from uuid import uuid5

import pytest
from PIL import Image
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError

from guardrails.admission import AdmissionRequest
from guardrails.limits import BreakerRates, Limits, SharedBudget, StartRate
from guardrails.money import Money
from ledger import due_work, orders, reports, requests, transitions
from ledger.history import record_refused_call
from ledger.models import RequestState, VideoState, order_id, provider_key, seed
from ledger.orders import Order, Placed
from ledger.schema import cost_totals, usage_buckets, videos
from providers.images import ImageProvider
from sandbox.preview.images import PRICE, SandboxImages
from telemetry.redaction import NAMESPACE
from tests.support.factories import NO_LIMITS, order_for
from tests.support.models import order, raw
from tests.support.pipeline_harness import call_tool, tool_outputs
from tools.generate_image import NAME
from tools.registry import load_tool
from worker.approval import approve
from worker.stills import order_still

STILL = {"prompt": "A fox in the snow.", "size": "720x1280"}


def still(**changes):
    return raw(json.dumps(STILL | changes), name=NAME)


def still_order(request_id: str, **more) -> Order:
    return Order(
        request_id, "local_images", "poster", "a fox", 0, "720x1280", PRICE, account="local_images",
        tool=NAME, **more,
    )  # fmt: skip


@pytest.fixture
def images(tmp_path) -> ImageProvider:
    return ImageProvider(SandboxImages(tmp_path / "images"), tmp_path / "media" / "stills")


@pytest.fixture
def charges(images):
    return images._maker.charges


@pytest.fixture
async def env(pipeline_env, images):
    """A pipeline in which the agent may order stills without a tap."""

    async def make(*turns, **options):
        options = {"images": images, "compare": False} | options
        made = await pipeline_env(*turns, **options)
        for one in made.agent_factory.others.values():
            object.__setattr__(one, "policy", one.policy.model_copy(update={"approval": None}))
        return made

    return make


async def beside(env, request):
    found = await requests.find_with_video(env.ledger, order_id(request, NAME))
    assert found is not None
    return found


def test_a_video_keeps_its_key_and_seed():
    """Byte for byte as they were: orders in doubt are replayed under their own key."""
    assert order_id("tg:1:-:7:5", "generate_video") == "tg:1:-:7:5"
    assert provider_key("tg:1:-:7:5") == str(uuid5(NAMESPACE, "tg:1:-:7:5"))
    assert provider_key("tg:1:-:7:5") != provider_key(order_id("tg:1:-:7:5", NAME))
    assert seed("tg:1:-:7:5") != seed(order_id("tg:1:-:7:5", NAME))


async def test_a_still_and_a_video_of_one_request_are_two_orders(env, charges):
    """Each is made once, by its own provider, and no one's second call makes another."""
    made = await env([still(), order()], [still(prompt="another fox"), order(prompt="again")], "done")
    request = await made.open_request()
    await made.run_agent(request)
    await _shown(made.ledger, order_id(request, NAME))
    assert (await made.video(request)).tool == "generate_video"
    assert (await beside(made, request))[1].tool == NAME
    both = [request, order_id(request, NAME)]
    for _, one in await made.finish(*both):
        assert one.state is VideoState.SUCCEEDED
    assert [len(charges.lines()), len(made.fake_provider.charges())] == [1, 1]
    path = made.worker.asset_path((await beside(made, request))[1])
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == ("JPEG", (720, 1280))
    refused = await made.refused(request)
    assert [word for word, _ in refused] == ["replay", "replay"]
    answers = tool_outputs(made)
    assert "One still (720x1280) for $0.04 is ordered" in answers[0]
    assert "One video of 8 s" in answers[1]
    assert answers[2:] == answers[:2]


async def test_thirteen_stills_in_one_turn_are_one(env, charges):
    """Parallel calls with other words are the same order."""
    made = await env([still(prompt=f"fox {n}") for n in range(13)], "done")
    request = await made.open_request()
    await made.run_agent(request)
    await _shown(made.ledger, order_id(request, NAME))
    await made.finish(order_id(request, NAME))
    assert len(charges.lines()) == 1


async def test_a_request_for_a_still_alone_ends_truly(env):
    """Its own message is not "nothing was charged": the still was."""
    made = await env([still()], "The still is on its way.")
    request = await made.open_request(idea="a poster of a fox")
    await made.run_agent(request)
    found = await made.request(request)
    assert (found.state, found.reason) == (RequestState.NO_ORDER, "beside")


async def test_a_still_leaves_the_video_its_cooldown_and_quota(env):
    """1, 2: what one tool orders is not counted for another, in Redis and in SQL."""
    made = await env([still()], "done", changes={"cooldown": "10m", "quota": "1/day"})
    request = await made.open_request()
    await made.run_agent(request)
    await made.worker.admission.refresh()
    run = await made.run_context(await made.open_request())
    for tool, bounds, word in (
        ("generate_video", run.limits, "admitted"), (NAME, run.limits_of(NAME), "cooldown"),
    ):  # fmt: skip
        ask = AdmissionRequest(tool, "next", 7, price=PRICE, limits=bounds)
        assert (await made.worker.admission.check(ask)).word == word
    assert "is ordered" in await call_tool(run)


async def test_a_tool_is_recounted_with_its_own_limits(env):
    """3, 4: the body's recount uses this tool's cooldown, where Redis admits all."""
    made = await env()
    body = load_tool(NAME).tool
    first, second = [await made.run_context(await made.open_request()) for _ in range(2)]
    assert "is ordered" in await call_tool(first, body, **STILL)
    assert "a short while ago" in await call_tool(second, body, **STILL)
    made.ledger.shift += 12
    third = await made.run_context(await made.open_request())
    assert "is ordered" in await call_tool(third, body, **STILL)


async def test_a_window_of_seven_days_counts_seven_days(ledger, opened):
    """A tool's own window, whatever the video's is."""
    weekly = Limits(quota=2, quota_window_s=7 * 86_400)
    for _ in range(2):
        assert isinstance(await orders.place(ledger, still_order(await opened()), weekly), Placed)
        ledger.shift += 2 * 86_400
    denied = await orders.place(ledger, still_order(await opened()), weekly)
    assert (denied.verdict, denied.used) == ("quota", 2)
    assert isinstance(await orders.place(ledger, order_for(await opened()), weekly), Placed)
    ledger.shift += 4 * 86_400
    assert isinstance(await orders.place(ledger, still_order(await opened()), weekly), Placed)


async def test_counters_of_each_tool_are_rebuilt_after_a_flush(env, redis):
    """A lost Redis counts the still's orders again, and for the still alone."""
    made = await env([still()], "done")
    request = await made.open_request()
    await made.run_agent(request)
    await redis.flushdb()
    run = await made.run_context(await made.open_request())
    again = AdmissionRequest(NAME, request, 7, 9, price=PRICE, limits=run.limits_of(NAME))
    assert (await made.worker.admission.check(again)).word == "replay"
    other = AdmissionRequest(NAME, "next", 7, price=PRICE, limits=run.limits_of(NAME))
    assert (await made.worker.admission.check(other)).word == "cooldown"


async def test_the_still_is_made_by_the_image_provider(env, charges):
    """5: no POST of it reaches the video provider."""
    made = await env([still()], "done")
    request = await made.open_request()
    await made.run_agent(request)
    await _shown(made.ledger, order_id(request, NAME))
    await made.finish(order_id(request, NAME))
    assert made.fake_provider.charges() == []
    assert len(charges.lines()) == 1


async def test_a_budget_that_spans_tools(ledger, opened):
    """6: dollars of both are added up under the same lock; the refusal says until when."""
    bounds = Limits(shared=SharedBudget(("generate_video", NAME), user_budget=Money.parse("$3.05")))
    request = await opened()
    assert isinstance(await orders.place(ledger, still_order(request), bounds), Placed)
    assert isinstance(await orders.place(ledger, order_for(request), bounds), Placed)
    denied = await orders.place(ledger, still_order(await opened()), bounds)
    assert (denied.verdict, denied.used, denied.limit) == ("budget", 3_040_000, 3_050_000)
    assert denied.until > denied.at
    assert isinstance(await orders.place(ledger, still_order(await opened(user_id=8)), bounds), Placed)


async def test_starts_of_a_tool_open_the_breaker_at_its_own_rate(ledger, opened):
    """Two stills do not stop a video that allows two starts."""
    rates = BreakerRates(user=StartRate(2, 300))
    for _ in range(2):
        request = await opened()
        await orders.place(ledger, still_order(request), NO_LIMITS)
        await _shown(ledger, order_id(request, NAME))
        assert await transitions.begin_submit(ledger, order_id(request, NAME), "tool-f", 30, rates)
    request = await opened()
    await orders.place(ledger, order_for(request), NO_LIMITS)
    assert await transitions.begin_submit(ledger, request, "f", 30, rates)


async def _shown(ledger, request_id):
    async with ledger.write() as conn:
        await conn.execute(
            text("UPDATE requests SET status_message_id = 3 WHERE request_id = :id"), {"id": request_id}
        )


@pytest.mark.any_ledger
async def test_the_version_before_pays_for_no_still(ledger, opened):
    """Its claims, which go by account, do not find one; and the database refuses to begin its submit."""
    request = await opened()
    await orders.place(ledger, still_order(request), NO_LIMITS)
    mine = ["openai_compat:inworld@host#1", "local"]
    assert await due_work.claim_videos(ledger, [VideoState.QUEUED], 10, 5, mine) == []
    before = text(
        "UPDATE videos SET state = 'SUBMITTING', fence = 'f1', submits = submits + 1, deadline_at = 9,"
        " version = version + 1 WHERE request_id = :id AND state = 'QUEUED'"
    )
    with pytest.raises(DBAPIError, match="no tool but generate_video"):
        async with ledger.write() as conn:
            await conn.execute(before, {"id": order_id(request, NAME)})
    async with ledger.read() as conn:
        found = (await conn.execute(select(videos.c.state, videos.c.submits))).one()
    assert tuple(found) == ("QUEUED", 0)


@pytest.mark.any_ledger
async def test_sums_and_totals_go_by_tool(ledger, opened):
    """Buckets and totals of each; a report adds them up; a repeated call counts for its own tool."""
    request = await opened()
    await orders.place(ledger, order_for(request), NO_LIMITS)
    await orders.place(ledger, still_order(request), NO_LIMITS)
    await record_refused_call(ledger, request, NAME, "replay", "redis", ["prompt"])
    await _shown(ledger, order_id(request, NAME))
    assert await transitions.begin_submit(ledger, order_id(request, NAME), "tool-f", 30, BreakerRates())
    await transitions.adopt_job(ledger, order_id(request, NAME), "still-1", "shoot", None)
    async with ledger.read() as conn:
        buckets = {
            row.tool: row.micros
            for row in await conn.execute(select(usage_buckets).where(usage_buckets.c.scope == "everyone"))
        }
        rows = await conn.execute(
            select(cost_totals).where(cost_totals.c.period == "ever", cost_totals.c.dimension == "all")
        )
        totals = {row.tool: (row.charged, row.held, row.commands, row.duplicates) for row in rows}
    assert buckets == {"generate_video": 3_000_000, NAME: 40_000}
    assert totals == {"generate_video": (0, 3_000_000, 1, 0), NAME: (40_000, 0, 1, 1)}
    summary = await reports.cost_summary(ledger)
    assert (summary.paid, summary.held, summary.commands) == (PRICE, Money.parse("$3"), 2)
    report = await reports.read_report(ledger, "30d")
    assert {line.name for line in report.models} == {"local/preview", "local_images/poster"}
    assert report.users[0].costs.paid == PRICE


async def test_a_cancelled_still_gives_back_its_own(env):
    """Quota and cooldown of the still, in both stores; the video's order goes on."""
    made = await env([still(), order()], "done")
    request = await made.open_request()
    await made.run_agent(request)
    ended = await transitions.cancel(made.ledger, order_id(request, NAME), 7)
    assert ended.state is VideoState.CANCELLED
    await made.worker.apply_effects(ended.video)
    run = await made.run_context(await made.open_request())
    ask = AdmissionRequest(NAME, "next", 7, price=PRICE, limits=run.limits_of(NAME))
    assert (await made.worker.admission.check(ask)).word == "admitted"
    assert (await made.video(request)).state is VideoState.QUEUED


async def test_a_still_from_an_offer_is_the_videos_first_frame(pipeline_env, images):
    """No one is asked whether they may use it; the old button orders nothing; the film begins so."""
    made = await pipeline_env([order()], "done", images=images, compare=False, changes={"approval": "always"},
                              shape="openai", quick={"pictures": True})  # fmt: skip
    request = await made.open_request()
    await made.run_agent(request)
    offer = await made.video(request)
    placed = await order_still(made.worker, made.agent_factory.others[NAME], offer)
    again = await order_still(made.worker, made.agent_factory.others[NAME], offer)
    assert (placed.created, again.created) == (True, False)
    await _shown(made.ledger, order_id(request, NAME))
    await made.finish(order_id(request, NAME))
    shown = await made.video(request)
    takes = made.provider.capabilities.pictures
    assert (shown.picture is not None) is takes
    assert takes, "this shape documents a first frame"
    assert not shown.asks_for_rights
    assert shown.nonce != offer.nonce
    old = await approve(made.worker, made.agent_factory.offer, NO_LIMITS, offer.nonce, 7)
    assert old.outcome == "gone"
    tapped = await approve(made.worker, made.agent_factory.offer, NO_LIMITS, shown.nonce, 7)
    assert tapped.outcome == "approved"
    await made.finish(request)
    (job,) = made.fake_provider.jobs.values()
    with Image.open(io.BytesIO(job.fields["input_reference"])) as first:
        assert first.size == (720, 1280)
