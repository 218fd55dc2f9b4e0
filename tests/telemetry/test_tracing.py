"""One request is one trace, as a collector receives it: real OTLP over HTTP, parsed as Jaeger does."""

import asyncio
from dataclasses import replace

import pytest
from redis.exceptions import ConnectionError as NoConnection

from guardrails.admission import Admission
from ledger import reports
from ledger.models import RequestState, VideoState
from telemetry import semconv
from telemetry.failpoints import FAILPOINTS, TAP_POINTS
from telemetry.metrics import VERDICTS
from tests.support.app_harness import APPROVE, offer_of, wait_for_state
from tests.support.crash_env import KEYED, open_crash_env, wait_settled
from tests.support.otlp import Seen, Trace, receiver, wait_for_traces
from tests.support.waiting import wait_until
from tests.support.worker_process import worker_process

NAMES = {
    "telegram /create",
    "telegram message",
    "telegram sendMessage",
    "telegram editMessageMedia",
    "telegram sendVideo",
    "telegram setMessageReaction",
    "telegram sendChatAction",
    "telegram callback",
    "telegram answerCallbackQuery",
    semconv.RECONCILE,
    semconv.PROCESS,
    semconv.STARTED,
    semconv.CREATE_VIDEO,
    semconv.SUBMIT_STARTED,
    semconv.SUBMIT,
    semconv.PROVIDER_WORK,
    semconv.FETCH,
    semconv.DELIVER,
    *(f"wait {step}" for step in ("run_agent", "submit", "deliver")),
    *(f"order {state.lower()}" for state in VideoState),
    *(f"guardrail {word}" for word in VERDICTS),
    "invoke_agent director",
    "invoke_agent caption_writer",
    "chat rehearsal",
    "execute_tool generate_video",
    "execute_tool generate_caption",
    "execute_tool quota_left",
    "EVALSHA",
}


@pytest.fixture
async def collector():
    async with receiver() as made:
        yield made


def check_trace(trace: Trace) -> None:
    """Assert one root, no orphan, no span twice, valid times, known names, one request."""
    assert [one.name for one in trace.roots] == [semconv.CREATE_VIDEO]
    assert [one.name for one in trace.orphans] == []
    assert trace.doubled == []
    assert trace.names() <= NAMES
    assert (
        len(
            {one.tags[semconv.REQUEST_KEY] for one in trace.spans.values() if semconv.REQUEST_KEY in one.tags}
        )
        == 1
    )
    for span in trace.spans.values():
        assert span.start <= span.end, span.name
        assert bool(span.tags.get("otel.status_description")) is span.error, span.name
    for tool in (one for one in trace.spans.values() if one.name.startswith("execute_tool")):
        assert trace.parent(tool).name == "invoke_agent director"
    for guard in guards_of(trace):
        assert trace.parent(guard).name == f"execute_tool {guard.tags[semconv.TOOL]}"
        assert "gen_ai.tool.name" not in guard.tags


def guards_of(trace: Trace) -> list[Seen]:
    return [one for one in trace.spans.values() if one.name.startswith(f"{semconv.GUARD} ")]


async def open_traced(app_env, collector, behavior="benign", **options):
    return await app_env(behavior, settings={"otel_exporter_otlp_endpoint": collector.url}, **options)


STEPS = {
    "wait run_agent": "PRODUCER",
    "wait submit": "PRODUCER",
    semconv.SUBMIT_STARTED: "INTERNAL",
    semconv.SUBMIT: "CLIENT",
    semconv.PROVIDER_WORK: "CLIENT",
    semconv.FETCH: "CLIENT",
    "wait deliver": "PRODUCER",
    semconv.DELIVER: "CONSUMER",
    "order accepted": "INTERNAL",
    "order succeeded": "INTERNAL",
}


async def test_one_create_is_one_trace(app_env, collector):
    """From the update to the delivery, through all tasks of the workers."""
    env = await open_traced(app_env, collector)
    _, video = await env.create()
    assert video.state is VideoState.DELIVERED
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    root, process = trace.roots[0], trace.one(semconv.PROCESS)
    update = trace.one("telegram /create")
    assert (update.kind, trace.parent(update)) == ("SERVER", root)
    children = [one for one in trace.spans.values() if one.parent_id == root.span_id]
    assert all(one.end <= root.end for one in trace.spans.values())
    assert all(root.start <= one.start for one in children if one != update)
    assert (process.kind, trace.parent(process)) == ("CONSUMER", root)
    assert process.tags[semconv.OUTCOME] == "ordered"
    director = trace.one("invoke_agent director")
    assert trace.parent(director) == process
    tool = trace.one("execute_tool generate_video")
    assert trace.parent(tool) == director
    assert tool.tags[semconv.CALL_ID]
    guard = next(one for one in guards_of(trace) if trace.parent(one) == tool)
    assert guard.name == "guardrail admitted"
    for one in (guard, tool):
        assert (one.tags[semconv.DECISION], one.tags[semconv.LAYER]) == ("admitted", "redis")
    assert "EVALSHA" in {one.name for one in trace.spans.values() if one.parent_id == guard.span_id}
    assert {trace.parent(one).name for one in trace.named("chat rehearsal")} == {
        "invoke_agent director", "invoke_agent caption_writer",
    }  # fmt: skip
    assert [event[1][semconv.TO] for event in root.events if event[0] == semconv.STATE_CHANGED] == [
        "QUEUED", "SUBMITTING", "ACCEPTED", "SUCCEEDED", "DELIVERED",
    ]  # fmt: skip
    for name, kind in STEPS.items():
        assert (trace.one(name).kind, trace.parent(trace.one(name))) == (kind, root), name
    assert trace.one(semconv.PROVIDER_WORK).events[-1][1][semconv.STATUS] == "succeeded"
    edit = trace.one("telegram editMessageMedia")
    assert (edit.kind, trace.parent(edit).name) == ("CLIENT", semconv.DELIVER)
    assert edit.tags[semconv.TELEGRAM_STATUS] == "ok"
    assert [one.name for one in trace.spans.values() if one.error] == []


@pytest.mark.slow
async def test_one_span_answers_a_search(app_env, collector):
    """Jaeger searches tags of one span: everything that operators search for is on `create video`."""
    env = await open_traced(app_env, collector, "thirteen")
    env.fake_provider.polls = 20  # the span has what was known at the end: the run has ended by then
    request, _ = await env.create()
    tags = (await wait_for_traces(collector))[0].one(semconv.CREATE_VIDEO).tags
    assert tags.items() >= {
        semconv.OUTCOME: "delivered", semconv.VIDEOS: "1", semconv.DUPLICATES: "12", semconv.COST: "0.8",
        semconv.PAID_TWICE: "false", semconv.OVER_COST: "false", semconv.OVER_TIME: "false",
        semconv.REQUEST: request.short_id, semconv.DUPLICATE_PREVENTED: "true", semconv.REFUSED: "false",
        semconv.HELD: "false", semconv.DELIVERED: "true", semconv.CHAT_KIND: "private",
        semconv.LANGUAGE: "en", semconv.LONGEST: "provider", semconv.SUBMITS: "1",
    }.items()  # fmt: skip
    assert len(tags[semconv.USER]) == 16


@pytest.mark.slow
async def test_a_refused_duplicate_is_seen_and_is_no_error(app_env, collector):
    """Thirteen calls at once: each has its own tool span and guard span; twelve are marked as prevented, none
    as an error.
    """
    env = await open_traced(app_env, collector, "fanout")
    await env.create()
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    guards = [one for one in guards_of(trace) if one.tags[semconv.TOOL] == "generate_video"]
    words = [one.tags[semconv.DECISION] for one in guards]
    assert words.count("admitted") == 1
    prevented = [one for one in guards if one.name == "guardrail replay"]
    assert all(trace.parent(one).tags[semconv.DUPLICATE_PREVENTED] == "true" for one in prevented)
    assert len(prevented) == len(guards) - 1 >= 2
    assert all(semconv.DUPLICATE in {event[0] for event in one.events} for one in prevented)
    assert len({one.parent_id for one in guards}) == len(guards)
    assert [one.name for one in trace.spans.values() if one.error] == []


@pytest.mark.slow
async def test_thirty_requests_at_once_are_thirty_traces(app_env, collector):
    """Each span is in the trace of its own request, with thirty requests in one process."""
    env = await open_traced(app_env, collector, changes={"breaker": "{everyone: 100/5m}"})
    users = range(2001, 2031)
    await asyncio.gather(*(env.user(user).send("/create a market") for user in users))
    for user in users:
        await env.wait_settled(user, seconds=90)
    traces = await wait_for_traces(collector, len(users))
    for trace in traces:
        check_trace(trace)
        assert len(trace.named(semconv.PROCESS)) == 1
    assert len({trace.one(semconv.CREATE_VIDEO).tags[semconv.REQUEST_KEY] for trace in traces}) == len(users)
    assert len({trace.one(semconv.CREATE_VIDEO).tags[semconv.USER] for trace in traces}) == len(users)


@pytest.mark.slow
async def test_a_redelivered_update_is_in_the_same_trace(app_env, collector):
    """Telegram sends the command again: its deliveries are below the first, and it is one request."""
    env = await open_traced(app_env, collector)
    ana = env.user()
    await ana.send("/create a market at dawn")
    await env.wait_settled()
    await env.api.redeliver(ana.last_update.id, times=2)

    async def again() -> bool:
        (trace,) = await wait_for_traces(collector)
        return len(trace.named("telegram /create")) == 3

    await wait_until(again, 20, "the second and third delivery")
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    again = [one for one in trace.named("telegram /create") if semconv.REDELIVERED in one.tags]
    assert [one.tags[semconv.REDELIVERED] for one in again] == ["true", "true"]
    assert len(trace.named(semconv.CREATE_VIDEO)) == 1


@pytest.mark.slow
async def test_a_guard_that_cannot_decide_is_an_error(app_env, collector, monkeypatch):
    """Redis is unavailable: the guard refuses, its span is an error, and the attempts are linked."""
    decide = Admission._run_admit

    async def unavailable(self, group, ask, mode, *rest):
        if mode == "reserve":
            raise NoConnection("CANARY-TEXT of an exception")
        return await decide(self, group, ask, mode, *rest)

    monkeypatch.setattr(Admission, "_run_admit", unavailable)
    env = await open_traced(app_env, collector)
    request, video = await env.create()
    assert (request.state, video) == (RequestState.REFUSED, None)
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    attempts = trace.named(semconv.PROCESS)
    assert len(attempts) == env.app.worker.timeouts.attempts
    guards = [one for one in guards_of(trace) if one.tags[semconv.TOOL] == "generate_video"]
    assert all(one.error and one.tags[semconv.FAIL_CLOSED] == "true" for one in guards)
    assert {one.tags[semconv.ERROR] for one in guards} == {"ConnectionError"}
    root = trace.one(semconv.CREATE_VIDEO)
    assert (root.tags[semconv.OUTCOME], root.tags[semconv.REFUSED_BY]) == ("refused", "redis")
    marks = {one.tags[semconv.ATTEMPT]: one for one in trace.named(semconv.STARTED)}
    by_number = {one.tags[semconv.ATTEMPT]: one for one in attempts}
    for number in range(2, len(attempts) + 1):
        earlier = marks[str(number - 1)]
        assert by_number[str(number)].links == ((earlier.trace_id, earlier.span_id),)
    assert b"CANARY-TEXT" not in collector.raw


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize(("outcome", "state"), [("refuse_402", "failed_unpaid"), ("charge_500", "delivered")])
async def test_an_error_is_where_it_happened(app_env, collector, outcome, state):
    """A refusal or an ambiguous answer of the provider is an error of `submit video`, by its class."""
    env = await open_traced(app_env, collector, shape="inworld")
    env.fake_provider.script(outcome)
    await env.create()
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    assert trace.named(semconv.SUBMIT)[0].error
    completed = trace.one(semconv.CREATE_VIDEO)
    assert completed.tags[semconv.OUTCOME] == state
    assert completed.error is (state == "failed_unpaid")


@pytest.mark.slow
async def test_a_run_that_breaks_is_an_error_of_its_attempt(app_env, collector):
    """A model that fails: each attempt is an error, and the last span says why there is no order."""
    from agents.testing import ModelStep, ScriptedModel

    broken = ScriptedModel([ModelStep.raise_error(RuntimeError("CANARY-MODEL")) for _ in range(9)])
    env = await open_traced(app_env, collector, model=broken)
    request, _ = await env.create()
    assert request.state is RequestState.NO_ORDER
    (trace,) = await wait_for_traces(collector)
    attempts = trace.named(semconv.PROCESS)
    assert [one.error for one in attempts] == [True] * len(attempts)
    assert {one.tags[semconv.ERROR] for one in attempts} == {"model"}
    assert trace.one(semconv.CREATE_VIDEO).error
    assert b"CANARY-MODEL" not in collector.raw


@pytest.mark.slow
async def test_a_cancelled_attempt_says_so(app_env, collector):
    """The worker is stopped during a run: the SDK marks no span as failed, the attempt is an error."""
    from sandbox.model import SandboxModel

    env = await open_traced(app_env, collector, model=SandboxModel("benign", latency_s=30))
    await env.user().send("/create a market at dawn")

    async def begun() -> bool:
        return any(one.named(semconv.STARTED) for one in collector.traces().values())

    await wait_until(begun, 20, "the attempt's mark, while it still runs")
    run = [task for task in asyncio.all_tasks() if task.get_name() == "step run_agent"]
    assert run
    for task in run:
        task.cancel()

    async def ended() -> bool:
        return any(one.named(semconv.PROCESS) for one in collector.traces().values())

    await wait_until(ended, 20, "the end of the attempt")
    (trace,) = collector.creates()
    process = trace.named(semconv.PROCESS)[0]
    assert (process.error, process.tags[semconv.ERROR]) == (True, "CancelledError")


USER = 7_300_451_199


@pytest.mark.slow
async def test_a_tap_is_in_the_trace_of_its_request(app_env, collector):
    """A tap on [Make it] is in the trace of its command; no user id is in it."""
    env = await open_traced(app_env, collector, changes={"approval": "always"})
    offer = await offer_of(env, USER)
    await env.user(USER).tap(offer.id, APPROVE)
    await wait_for_state(env, VideoState.DELIVERED, USER)
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    tap = trace.one("telegram callback")
    assert (tap.kind, trace.parent(tap)) == ("SERVER", trace.roots[0])
    moves = {event[1][semconv.WHO] for event in trace.roots[0].events if event[0] == semconv.STATE_CHANGED}
    assert moves == {"tool", "user", "shoot", "watch", "tell"}
    assert str(USER).encode() not in collector.raw


@pytest.mark.slow
async def test_a_tap_without_effect_is_a_trace_of_its_own(app_env, collector):
    """A tap on a button that belongs to no offer is not in a request's trace, and is still exported."""
    env = await open_traced(app_env, collector, changes={"approval": "always"})
    offer = await offer_of(env)
    await env.user().wait_for_answer(await env.user().tap(offer.id, APPROVE))
    stray = {"id": "9", "from": env.user().user.user(), "chat_instance": "1", "data": "make:of-no-offer"}
    env.api.world.updates.push("callback_query", stray, "tap:9", 60)
    await wait_for_traces(collector)

    async def seen() -> bool:
        return sum(bool(one.named("telegram callback")) for one in collector.traces().values()) == 2

    await wait_until(seen, 20, "both taps")
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    trace.one("telegram callback")


@pytest.mark.slow
async def test_a_reconciliation_check_says_what_was_found(app_env, collector):
    """A charge whose answer was lost: each check is a span with the provider's finding; none is an error,
    since the unknown outcome is the error of `submit video`.
    """
    env = await open_traced(app_env, collector, shape="openai")
    env.fake_provider.script("charge_drop")
    _, video = await env.create()
    assert video.state is VideoState.DELIVERED
    (trace,) = await wait_for_traces(collector)
    check_trace(trace)
    questions = trace.named(semconv.RECONCILE)
    assert trace.one(semconv.PROVIDER_WORK)
    found = [event[1][semconv.FINDING] for one in questions for event in one.events]
    assert len(found) == len(questions)
    assert set(found) <= {"found", "absent", "unsure"}
    assert "found" in found
    assert not any(one.error for one in questions)
    assert trace.one(semconv.SUBMIT).error


@pytest.mark.representative
@pytest.mark.parametrize(
    "point",
    [
        point if point in ("admitted", "accepted") else pytest.param(point, marks=pytest.mark.nightly)
        for point in FAILPOINTS
        if point not in TAP_POINTS
    ],
)
async def test_a_killed_worker_leaves_one_trace(valkey, tmp_path, point):
    """SIGKILL at a durable step, then another worker continues: one trace with one root and no orphan; the
    second attempt links to the mark of the first, of which nothing else was exported.
    """
    async with receiver() as collector, open_crash_env(tmp_path, valkey.connection_url, KEYED) as env:
        settings = {**env.config.settings, "otel_exporter_otlp_endpoint": collector.url}
        config = replace(env.config, settings=settings)
        with worker_process(replace(config, stop_at=point)) as first:
            await env.api.user(1001, "Ana").send("/create a quiet market at dawn")
            await first.wait_at_failpoint()
            if point not in ("opened", "woken"):
                await wait_until(lambda: _marked(collector), 20, "what was sent while it lived")
            first.kill()
            with worker_process(config):
                request, video = await wait_settled(env)
                assert video.state is VideoState.DELIVERED
                await wait_until(lambda: _ended(collector), 30, "the end in the trace")
        (trace,) = [one for one in collector.traces().values() if one.named(semconv.CREATE_VIDEO)]
        _check_killed_trace(trace, point)
        charged = await reports.net_charged(env.ledger, request.request_id)
        assert float(trace.one(semconv.CREATE_VIDEO).tags[semconv.COST]) == charged.micros / 1_000_000
        assert charged.micros == sum(env.fake_provider.net().values())


async def _marked(collector) -> bool:
    return any(
        one.named(semconv.STARTED) and one.named("telegram /create") for one in collector.traces().values()
    )


async def _ended(collector) -> bool:
    return any(one.named(semconv.CREATE_VIDEO) and not one.orphans for one in collector.traces().values())


def _check_killed_trace(trace, point) -> None:
    attempts = trace.named(semconv.PROCESS)
    marks = {one.tags[semconv.ATTEMPT]: one for one in trace.named(semconv.STARTED)}
    assert trace.doubled == []
    # Killed before the update was acknowledged: its span is lost, and the redelivered one is in its trace.
    assert [one.name for one in trace.roots] == [semconv.CREATE_VIDEO]
    assert trace.orphans == []
    if point in ("in_run", "admitted"):
        assert sorted(marks) == ["1", "2"]
        (second,) = attempts
        assert second.links == ((marks["1"].trace_id, marks["1"].span_id),)
    if point == "answered":  # killed between the POST and the booking of its answer
        assert trace.named(semconv.SUBMIT_STARTED)
