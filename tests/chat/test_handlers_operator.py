"""Operators resolve a HOLD from the chat, by command or button; no one else can."""

import re

import pytest

from chat.i18n import translator
from evals.environment import PRICE
from guardrails.money import Money
from ledger import reports, transitions
from ledger.models import VideoState
from providers.base import Status
from tests.support.app_harness import GROUP, push_update, sent_texts, wait_for_state
from tests.support.factories import out_of_hold
from tests.support.waiting import wait_until

V = VideoState
EN = translator("en")
ADMIN, OTHER, ANA = 1, 2, 1001


@pytest.fixture
async def env(app_env):
    """An app with two admins and a provider without a job list, whose orders end on HOLD."""
    made = await app_env(
        shape="openai",
        fake_provider_options={"listing": False},
        settings={"admins": frozenset({ADMIN, OTHER})},
    )
    for admin in (ADMIN, OTHER):
        await made.user(admin, "Eva").send("/start")
    return made


async def hold(env, outcome="charge_drop"):
    """Bring Ana's order to HOLD; return its request and the first admin's alert."""
    env.fake_provider.script(outcome)
    await env.user(ANA).send("/create a quiet market at dawn")
    await wait_for_state(env, V.HOLD)
    request, _ = await env.latest()
    alert = await env.user(ADMIN).wait_for(lambda one: "HOLD" in one.text and request.short_id in one.text)
    return request, alert


async def hears(env, user, text, **where):
    return await env.user(user).wait_for(lambda one: not one.mine and text in one.text, **where)


@pytest.mark.slow
async def test_a_hold_resolved_as_paid_is_delivered(env):
    """`/resolve #id paid JOB why`: linked in the admin's name, made, delivered; the user reads each step."""
    request, _ = await hold(env)
    assert EN("hold_in_doubt") in env.user(ANA).history()[-1].text
    [job] = env.fake_provider.jobs
    await env.user(ADMIN).send(f"/resolve #{request.short_id} paid {job} seen on their page")
    await hears(env, ADMIN, f"#{request.short_id}: being made")
    [(_, video)] = await env.wait_settled(ANA)
    assert video.state is V.DELIVERED
    assert str(PRICE) in next(one.text for one in env.user(ANA).history() if one.media)
    to, who, why = (await out_of_hold(env.app.ledger, request.request_id))[0]
    assert (to, who) == (V.ACCEPTED, f"admin:{ADMIN}")
    assert "seen on their page" in why
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_a_job_that_the_provider_does_not_know_is_refused(env):
    """`/resolve … paid JOB` is checked at the provider first; the right id is accepted afterwards."""
    request, _ = await hold(env)
    await env.user(ADMIN).send(f"/resolve #{request.short_id} paid video_of_another")
    await hears(env, ADMIN, "does not know job")
    assert (await env.latest())[1].state is V.HOLD
    [job] = env.fake_provider.jobs
    await env.user(ADMIN).send(f"/resolve #{request.short_id} paid {job}")
    await wait_for_state(env, V.DELIVERED)


@pytest.mark.slow
async def test_unpaid_takes_two_taps(env):
    """[Unpaid …] asks for confirmation, [Back] returns, [Yes] releases the money; the user reads it, the
    buttons are removed, and the other admin's tap finds it resolved.
    """
    request, alert = await hold(env, "drop")
    eva, other = env.user(ADMIN), env.user(OTHER)
    assert alert.button_texts == [EN("button_paid"), EN("button_unpaid"), EN("button_acknowledge")]
    assert all(len(button.data.encode()) <= 64 for row in alert.buttons for button in row)
    how = await eva.wait_for_answer(await eva.tap(alert.id, EN("button_paid")))
    assert how["text"] == EN("tap_how_paid", id=request.short_id)
    theirs = await hears(env, OTHER, request.short_id)
    await other.tap(theirs.id, EN("button_unpaid"))
    theirs = await other.wait_for(lambda one: EN("button_really") in one.button_texts)
    for button in (EN("button_unpaid"), EN("button_back"), EN("button_unpaid")):
        await eva.tap(alert.id, button)
        wanted = EN("button_unpaid") if button == EN("button_back") else EN("button_really")
        await eva.wait_for(lambda one, wanted=wanted: one.id == alert.id and wanted in one.button_texts)
    assert (await env.latest(ANA))[1].state is V.HOLD
    answered = await eva.wait_for_answer(await eva.tap(alert.id, EN("button_really")))
    assert request.short_id in answered["text"]
    await hears(env, ANA, EN("failed_settled"))
    await eva.wait_for(lambda one: one.id == alert.id and not one.buttons)
    late = await other.wait_for_answer(await other.tap(theirs.id, EN("button_really")))
    assert late["text"] == EN("tap_settled")
    assert [who for _, who, _ in await out_of_hold(env.app.ledger, request.request_id)] == [f"admin:{ADMIN}"]


@pytest.mark.slow
async def test_an_old_button_does_not_resolve_a_later_hold(env, monkeypatch):
    """A button of one HOLD does not resolve a later one of the same order, whose job may be paid."""
    request, alert = await hold(env)
    eva = env.user(ADMIN)
    await eva.tap(alert.id, EN("button_unpaid"))
    await eva.wait_for(lambda one: one.id == alert.id and EN("button_really") in one.button_texts)
    [job] = env.fake_provider.jobs
    made = env.fake_provider.jobs.pop(job)  # known for one question, and then no more
    real = next(iter(env.app.worker.providers.values())).state
    answers = iter([Status("running")])

    async def state(job_id, links=None):
        return next(answers, None) or await real(job_id, links)

    monkeypatch.setattr(next(iter(env.app.worker.providers.values())), "state", state)
    await eva.send(f"/resolve #{request.short_id} paid {job}")
    await hears(env, ADMIN, f"#{request.short_id}: being made")

    async def again():
        env.app.ledger.shift += 20  # a 404 counts after three answers and a minute
        video = (await env.latest(ANA))[1]
        return video.state is V.HOLD and video.failure == "gone"

    await wait_until(again, 10, "the second HOLD")
    answered = await eva.wait_for_answer(await eva.tap(alert.id, EN("button_really")))
    assert answered["text"] == EN("tap_settled")
    assert (await env.latest(ANA))[1].state is V.HOLD
    env.fake_provider.jobs[job] = made
    await eva.send(f"/resolve #{request.short_id} paid {job}")

    async def delivered():
        return (await env.latest(ANA))[1].state is V.DELIVERED

    await wait_until(delivered, 10, "the delivery")


@pytest.mark.slow
async def test_gone_records_the_charge_and_says_so(env):
    """`/resolve #id gone JOB`: the charge is booked, the quota released; the user reads what was charged."""
    request, _ = await hold(env)
    [job] = env.fake_provider.jobs
    await env.user(ADMIN).send(f"/resolve #{request.short_id} gone {job}")
    await hears(env, ANA, EN("paid_gone", price=PRICE))
    [(_, video)] = await env.wait_settled(ANA)
    assert video.state is V.FAILED_PAID


@pytest.mark.slow
async def test_only_operators_can_resolve(env):
    """A user's command, even for their own request, a forwarded command, and another person's tap on an
    admin's button get a refusal; nothing changes.
    """
    request, alert = await hold(env)
    ana, eva = env.user(ANA), env.user(ADMIN)
    command = f"/resolve #{request.short_id} unpaid"
    bubble = await ana.send(command)
    await hears(env, ANA, EN("operators_only"))
    await ana.send("/breaker close everyone")
    await wait_until(lambda: _twice(env), 10, "two refusals")
    await eva.forward(bubble)
    await hears(env, ADMIN, EN("operators_only"))
    await eva.tap(alert.id, EN("button_unpaid"))
    sure = await eva.wait_for(lambda one: one.id == alert.id and EN("button_really") in one.button_texts)
    intruder = {"id": 9, "is_bot": False, "first_name": "Mal"}
    buttons = [button for row in (*alert.buttons, *sure.buttons) for button in row]
    for number, button in enumerate(buttons):
        query = {"id": f"9{number}", "from": intruder, "chat_instance": "1", "data": button.data}
        env.api.world.updates.push("callback_query", query, "tap:9", 60)
        call = await env.api.calls.wait_for(
            lambda call, number=number: call.params.get("callback_query_id") == f"9{number}"
        )
        assert call.params["text"] == EN("tap_operators")
    assert (await env.latest(ANA))[1].state is V.HOLD


async def _twice(env):
    return sent_texts(env, ANA).count(EN("operators_only")) == 2


@pytest.mark.slow
async def test_an_invalid_command_is_explained(env):
    """Too few words, an unknown outcome or request, an anonymous group admin: explained, nothing changes."""
    request, _ = await hold(env)
    eva, name = env.user(ADMIN), request.short_id
    for command, why in (
        ("/resolve", "/resolve #id unpaid"),
        (f"/resolve {name} maybe", "'maybe'"),
        (f"/resolve {name} paid", "job id"),
        ("/resolve #nobody unpaid", f"#{name}"),
    ):
        await eva.send(command)
        await hears(env, ADMIN, why)
    group = env.api.group(GROUP)
    sender = {"id": 1087968824, "is_bot": True, "first_name": "Group"}
    chat = {"id": group, "type": "supergroup", "title": "G"}
    command = f"/resolve #{name} unpaid"
    entity = [{"type": "bot_command", "offset": 0, "length": 8}]
    push_update(env, text=command, entities=entity, chat=chat, sender_chat=chat, **{"from": sender})
    await wait_until(lambda: _said_in(env, group), 10, "the refusal")
    assert (await env.latest(ANA))[1].state is V.HOLD


async def _said_in(env, group):
    return EN("no_payer") in sent_texts(env, group)


@pytest.mark.slow
async def test_a_redelivered_resolution_counts_once(env):
    """A repeated `/resolve` changes nothing: the reply says that the request is resolved already."""
    request, _ = await hold(env, "drop")
    eva = env.user(ADMIN)
    for _ in range(2):
        await eva.send(f"/resolve #{request.short_id} unpaid nothing on the invoice")
    await hears(env, ADMIN, "Nothing was changed")
    assert len(await out_of_hold(env.app.ledger, request.request_id)) == 1
    made = [line["job"] for line in env.fake_provider.charges()]
    assert await transitions.claimed_jobs(env.app.ledger, list(env.app.worker.providers), made) == set()


@pytest.mark.representative
@pytest.mark.parametrize("language", ["es", "en", "pt"])
async def test_a_correction_is_booked_and_its_user_is_told(app_env, language):
    """`/correct` of an admin: one entry; the user reads what is booked now, in their language."""
    env = await app_env(settings={"admins": frozenset({ADMIN})})
    await env.user(ADMIN, "Eva").send("/start")
    ana = env.user(ANA, "Ana")
    ana.speak(language)
    await ana.send("/create a quiet market at dawn")
    [(request, video)] = await env.wait_settled(ANA)
    assert video.state is V.DELIVERED
    await env.user(ADMIN).send(f"/correct #{request.short_id} refund $0.001 - their credit note")
    await hears(env, ADMIN, "Corrected under your name")
    assert await reports.net_charged(env.app.ledger, request.request_id) == PRICE - Money(1000)
    text = translator(language)("corrected", id=request.short_id, price=PRICE - Money(1000))
    await hears(env, ANA, re.sub("<[^>]+>", "", text))
    await env.user(ADMIN).send(f"/correct #{request.short_id} end unpaid no")
    await hears(env, ADMIN, "refund or charge")
    await ana.send(f"/correct #{request.short_id} refund all - mine")
    await hears(env, ANA, translator(language)("operators_only"))
    await env.user(ADMIN).send(f"/correct #{request.short_id} charge $0.001 - their invoice has it after all")
    await hears(env, ADMIN, f"{PRICE - Money(1000)} → {PRICE} charged")
    assert sum("market" in one.text and bool(one.media) for one in ana.history()) == 1
