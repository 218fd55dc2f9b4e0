"""/report: kept in SQL before it is answered, alerted once, decided by an admin; it reveals nothing."""

import pytest
from sqlalchemy import select

from chat.i18n import LANGUAGES, translator
from chat.keyboards import report_buttons
from ledger import members, requests, user_reports
from ledger.models import VideoState
from ledger.schema import user_reports as table
from sandbox.telegram import Fault
from tests.support.app_harness import GROUP, chat_only, sent_texts, wait_for_confirmed, wait_for_texts

pytestmark = pytest.mark.representative

EVA, ANA, BEN = 1, 1001, 1002
EN = translator("en")
languages = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture
async def env(app_env):
    """The whole app, with an admin who has pressed Start."""
    made = await app_env(settings={"admins": frozenset({EVA})})
    await made.user(EVA, "Eva").send("/start")
    return made


@pytest.fixture
async def quiet(app_env):
    """Handlers alone, with an admin: nothing is alerted."""
    return await app_env(wake=chat_only, settings={"admins": frozenset({EVA})})


async def reports(env):
    async with env.app.ledger.read() as conn:
        return (await conn.execute(select(table).order_by(table.c.report_id))).all()


async def alert_about(env, short_id):
    return await env.user(EVA).wait_for(lambda one: "Reported" in one.text and short_id in one.text, 20)


@pytest.mark.slow
async def test_an_admin_sees_the_video_and_bans_its_user(env):
    """[See the video], [Ban …] with a question, [Yes]: banned in the admin's name, and the buttons go."""
    request, _ = await env.create()
    await env.user(BEN, "Ben").send(f"/report #{request.short_id} it shows <me>")
    alert = await alert_about(env, request.short_id)
    assert "it shows <me>" in alert.text
    assert alert.button_texts == [EN("button_see"), EN("button_ban"), EN("button_dismiss")]
    eva = env.user(EVA)
    await eva.tap(alert.id, EN("button_see"))
    shown = await eva.wait_for(lambda one: one.media is not None)
    assert request.short_id in shown.text
    for button in (EN("button_ban"), EN("button_back"), EN("button_ban")):
        await eva.tap(alert.id, button)
        await env.api.calls.wait_for(lambda call: call.method == "editMessageReplyMarkup")
        await wait_for_confirmed(env)
    sure = EN("button_really_ban", user_id=ANA)
    await eva.wait_for(lambda one: sure in one.button_texts)
    answer = await eva.wait_for_answer(await eva.tap(alert.id, sure))
    assert answer["text"].startswith(f"{ANA} is banned")
    assert await members.membership(env.app.ledger, ANA) == "banned"
    [row] = await reports(env)
    assert (row.state, row.decided_by) == ("banned", f"admin:{EVA}")
    assert not next(one for one in eva.history() if one.id == alert.id).buttons


@pytest.mark.slow
async def test_a_report_is_alerted_once_though_telegram_fails(env):
    """The alert is sent when Telegram is back; a second report of the same video joins the first."""
    request, _ = await env.create()
    env.api.fail("sendMessage", Fault.server_error(), times=6)
    await env.user(BEN, "Ben").send(f"/report {request.short_id}")
    alert = await alert_about(env, request.short_id)
    await env.user(ANA).send(f"/report {request.short_id} mine, by mistake")
    await env.user(ANA).wait_for(lambda one: one.text == EN("report_kept", id=request.short_id))
    assert [row.state for row in await reports(env)] == ["open", "joined"]
    eva = env.user(EVA)
    answer = await eva.wait_for_answer(await eva.tap(alert.id, EN("button_dismiss")))
    assert answer["text"] == EN("report_dismissed")
    assert [row.state for row in await reports(env)] == ["dismissed", "dismissed"]
    assert len([text for text in sent_texts(env, EVA) if "Reported" in text]) == 1
    assert await members.membership(env.app.ledger, ANA) == "unknown"


@languages
async def test_the_answer_reveals_nothing(quiet, language):
    """One's own video, another person's and one that does not exist are answered in the same words."""
    env, t = quiet, translator(language)
    ana, ben = env.user(ANA, language=language), env.user(BEN, "Ben", language)
    for person in (ana, ben):
        await person.send(f"/create a quiet market at dawn {person.id}")
    await wait_for_confirmed(env)
    names = [(await env.latest(person.id))[0].short_id for person in (ana, ben)] + ["0f0f0f"]
    for name in names:
        await ana.send(f"/report #{name.upper()} why")
        await ana.wait_for(lambda one, name=name: one.text == t("report_kept", id=name))
    kept = await reports(env)
    assert [row.state for row in kept] == ["open", "open", "unknown"]
    assert [row.words for row in kept] == ["why"] * 3


@languages
async def test_too_many_reports(quiet, language):
    """The sixth within an hour is not kept, in words; one that is delivered again is the same report."""
    env, t = quiet, translator(language)
    ana = env.user(ANA, language=language)
    for number in range(6):
        await ana.send(f"/report #{number:06d}")
    said = await wait_for_texts(env, 6, ANA)
    assert said[5] == t("report_many", when=t.when(3_600_000, 0))
    await env.api.redeliver(ana.last_update.id, times=3)
    await wait_for_confirmed(env)
    assert len(await reports(env)) == 5
    env.app.ledger.shift = 3601
    await ana.send("/report #000009")
    await ana.wait_for(lambda one: one.text == t("report_kept", id="000009"))


@languages
async def test_a_video_of_a_group_is_reported_by_reply(quiet, language):
    """Anyone there may, by a reply or by its id; a video of another chat is not found from there."""
    env, t = quiet, translator(language)
    group = env.api.group(GROUP)
    ana, ben = env.user(ANA, language=language), env.user(BEN, "Ben", language)
    await ana.send("/create a quiet market at dawn", chat=group)
    await ana.send("/create in private")
    await wait_for_confirmed(env)
    here, elsewhere = "", ""
    for request, _ in await requests.list_for_user(env.app.ledger, ANA):
        if request.chat_id == group:
            here = request.short_id
        else:
            elsewhere = request.short_id
    shown = await env.app.bot.send_message(group, f"a market\n\n#{here} · 8 s")
    await ben.send("/report it is cruel", chat=group, reply_to=shown.message_id)
    await ben.wait_for(lambda one: one.text == t("report_kept", id=here), chat=group)
    await ben.send(f"/report {elsewhere}", chat=group)
    await ben.wait_for(lambda one: one.text == t("report_kept", id=elsewhere), chat=group)
    first, second = await reports(env)
    assert (first.state, first.words) == ("open", "it is cruel")
    assert second.state == "unknown"


@languages
async def test_a_report_without_a_name_says_how(quiet, language):
    ana, t = quiet.user(ANA, language=language), translator(language)
    await ana.send("/report")
    await ana.send("/report this is bad")
    assert await wait_for_texts(quiet, 2, ANA) == [t("report_usage")] * 2
    assert await reports(quiet) == []


async def test_only_admins_decide(quiet):
    """A forged tap of another person changes nothing."""
    env = quiet
    ana = env.user(ANA)
    await ana.send("/create a quiet market at dawn")
    await wait_for_confirmed(env)
    request, _ = await env.latest(ANA)
    await ana.send(f"/report {request.short_id}")
    await wait_for_confirmed(env)
    [row] = await reports(env)
    sent = await env.app.bot.send_message(ANA, "x", reply_markup=report_buttons(EN, row.report_id))
    for button in ("button_see", "button_ban", "button_dismiss"):
        answer = await ana.wait_for_answer(await ana.tap(sent.message_id, EN(button)))
        assert answer["text"] == EN("tap_operators")
    assert (await user_reports.find(env.app.ledger, row.report_id)).state == "open"


@pytest.mark.slow
async def test_a_report_of_what_is_not_delivered_yet(env):
    """[See the video] says that there is none."""
    env.fake_provider.polls = 500
    await env.user(ANA).send("/create a quiet market at dawn")
    await env.user(ANA).wait_for(lambda one: "being made" in one.text)
    request, video = await env.latest(ANA)
    assert video.state is VideoState.ACCEPTED
    await env.user(BEN, "Ben").send(f"/report {request.short_id}")
    alert = await alert_about(env, request.short_id)
    eva = env.user(EVA)
    answer = await eva.wait_for_answer(await eva.tap(alert.id, EN("button_see")))
    assert answer["text"] == EN("report_no_video")
    env.fake_provider.polls = 1
