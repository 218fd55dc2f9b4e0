"""After the video: another take, another shape, other words, as a file, delete; for its person alone."""

import asyncio

import pytest

from chat import delivery
from chat.i18n import LANGUAGES, translator
from chat.notifier import notify_request
from evals.environment import PRICE
from ledger import erasure, requests
from ledger.models import VideoState
from ledger.pruning import PRUNED
from sandbox.telegram import Fault
from tests.support.app_harness import GROUP, count_requests, wait_for_confirmed, wait_for_state
from tests.support.crash_env import is_offer
from tests.support.delivered import FREE, again_button, deliver_one, is_video, tap, videos_of
from tests.support.factories import put, update_fields

EN = translator("en")
languages = pytest.mark.parametrize("language", LANGUAGES)
pytestmark = pytest.mark.slow


@pytest.mark.representative
@languages
async def test_another_take_is_offered_once_and_paid_by_its_own_tap(app_env, language):
    """Thirteen taps open one request with an offer; [Make it] makes a second video, and names the first."""
    env = await app_env(changes=FREE)
    ana, parent, video, shown = await deliver_one(env, language)
    t, again = translator(language), again_button(PRICE, language)
    assert shown.button_texts == [
        again, t("button_words"), t("shape_wide").capitalize(),
        t("button_share"), t("button_file"), t("button_delete"),
    ]  # fmt: skip
    taps = [await ana.tap(shown.id, again) for _ in range(13)]
    said = {(await ana.wait_for_answer(one, 20))["text"] for one in taps}
    assert await count_requests(env) == 2
    offer = await ana.wait_for(is_offer, 20)
    take, offered = await env.latest()
    assert said == {t("tap_take_offered", id=take.short_id)}
    assert t("offer_take_of", id=parent.short_id) in offer.text
    assert (take.parent_id, take.idea, offer.reply_to) == (parent.request_id, parent.idea, shown.id)
    assert (offered.prompt, offered.seconds, offered.size) == (video.prompt, video.seconds, video.size)
    assert len(env.fake_provider.posts()) == 1, "nothing is paid without a tap of its own"
    await tap(ana, offer, t("button_make", price=PRICE))
    await wait_for_state(env, VideoState.DELIVERED, seconds=30)
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 2
    assert len(videos_of(ana)) == 2


@languages
async def test_a_used_button_is_drawn_again_first(app_env, language):
    """After the take has ended, one tap draws a new button, and the next one opens another take."""
    env = await app_env(changes=FREE)
    ana, _, _, shown = await deliver_one(env, language)
    t, again = translator(language), again_button(PRICE, language)
    await tap(ana, shown, again)
    offer = await ana.wait_for(is_offer, 20)
    await tap(ana, offer, t("button_cancel"))
    first, _ = await env.latest()
    said = await tap(ana, shown, again)
    assert (said["text"], said["alert"]) == (t("tap_take_ended", id=first.short_id), True)
    assert await count_requests(env) == 2
    await tap(ana, shown, again)
    second, _ = await env.latest()
    assert await count_requests(env) == 3
    assert second.parent_id == first.parent_id
    assert second.request_id != first.request_id


@languages
async def test_a_take_in_the_cooldown_says_from_when(app_env, language):
    """The button answers in the words of a refused command; no request is written, nothing is paid."""
    env = await app_env()
    ana, _, _, shown = await deliver_one(env, language)
    said = await tap(ana, shown, again_button(PRICE, language))
    assert said["alert"]
    before, _, after = translator(language)("refused_cooldown", when="|").partition("|")
    assert before.replace("<b>", "").strip()[:60] in said["text"]
    assert after.replace("</b>", "").strip() in said["text"]
    assert await count_requests(env) == len(env.fake_provider.posts()) == 1


@languages
async def test_another_shape_keeps_the_words(app_env, language):
    """[Wide] offers the same words and length in the other shape."""
    env = await app_env(changes=FREE)
    ana, parent, video, shown = await deliver_one(env, language)
    t = translator(language)
    await tap(ana, shown, t("shape_wide").capitalize())
    offer = await ana.wait_for(is_offer, 20)
    take, offered = await env.latest()
    assert (offered.size, offered.prompt, take.parent_id) == ("1280x720", video.prompt, parent.request_id)
    assert f"· {t('shape_wide')} ·" in offer.text


@languages
async def test_other_words_name_the_video(app_env, language):
    """[Change the words] asks for them; what is written is a new request with the video as its parent."""
    env = await app_env(changes=FREE | {"approval": "always"})
    ana, t = env.user(language=language), translator(language)
    await ana.send("/create a quiet market at dawn")
    await tap(ana, await ana.wait_for(is_offer, 20), t("button_make", price=PRICE))
    await wait_for_state(env, VideoState.DELIVERED, seconds=30)
    shown = await ana.wait_for(is_video)
    parent, _ = await env.latest()
    await tap(ana, shown, t("button_words"))
    question = t("ask_change", idea=parent.idea).partition("\n")[0]
    await ana.wait_for(lambda one: one.text.startswith(question))
    await ana.send("a quiet market at noon")
    offer = await ana.wait_for(lambda one: is_offer(one) and "noon" in one.text, 20)
    assert t("offer_take_of", id=parent.short_id) in offer.text
    take, _ = await env.latest()
    assert (take.parent_id, take.idea) == (parent.request_id, "a quiet market at noon")
    await ana.send("/create a fox in the snow")
    await ana.wait_for(lambda one: is_offer(one) and "fox" in one.text, 20)
    assert (await env.latest())[0].parent_id is None, "only the words that were asked for name it"


@languages
async def test_as_a_file(app_env, language):
    """[As file] sends the file itself, once for two taps at once; where it is gone the tap says so."""
    env = await app_env(changes=FREE)
    ana, _, video, shown = await deliver_one(env, language)
    t = translator(language)
    for query in [await ana.tap(shown.id, t("button_file")) for _ in range(2)]:
        assert (await ana.wait_for_answer(query, 20))["text"] == t("tap_sending")
    sent = await ana.wait_for(lambda one: one.media is not None and one.media.kind == "document", 20)
    await wait_for_confirmed(env)
    path = env.app.worker.asset_path(video)
    assert (sent.media.size, sent.reply_to) == (path.stat().st_size, shown.id)
    assert len(env.api.calls.of("sendDocument")) == 1
    path.unlink()
    said = await tap(ana, shown, t("button_file"))
    assert (said["text"], said["alert"]) == (t("tap_file_gone"), True)
    assert len(env.api.calls.of("sendDocument")) == 1


async def test_a_file_that_does_not_arrive_is_said(app_env):
    """Telegram refuses the document: a message says so, and nothing is paid."""
    env = await app_env(changes=FREE)
    ana, request, _, shown = await deliver_one(env)
    env.api.fail("sendDocument", Fault.refused(400, "Bad Request: wrong file"))
    await tap(ana, shown, EN("button_file"))
    await ana.wait_for(lambda one: one.text == EN("file_failed", id=request.short_id))
    assert len(env.fake_provider.posts()) == 1


async def test_in_a_group_only_its_person_may_tap(app_env):
    """Another member's tap on any of the buttons changes nothing and says so."""
    env = await app_env(changes=FREE)
    ana, eva = env.user(), env.user(2, "Eva")
    env.api.group(GROUP)
    await ana.send("/create a quiet market at dawn", chat=GROUP)
    await wait_for_state(env, VideoState.DELIVERED, seconds=30)
    shown = await ana.wait_for(is_video, chat=GROUP)
    await eva.send("hello", chat=GROUP)
    taps = [button.data for row in shown.buttons for button in row if button.data]
    for data in taps:
        assert (await tap(eva, shown, data, GROUP))["text"] == EN("tap_not_yours")
    assert await count_requests(env) == 1
    await tap(ana, shown, again_button(PRICE), GROUP)
    offer = await ana.wait_for(is_offer, 20, chat=GROUP)
    assert offer.reply_to == shown.id


@pytest.mark.representative
@languages
async def test_delete_asks_once_and_erases(app_env, language):
    """[Delete] asks; [No] keeps it; [Yes, delete] takes text, file, link and message. The charge stays."""
    env = await app_env(changes=FREE)
    ana, request, video, shown = await deliver_one(env, language)
    t, ledger = translator(language), env.app.ledger
    path = env.app.worker.asset_path(video)
    said = await tap(ana, shown, t("button_delete"))
    assert (said["text"], said["alert"]) == (t("tap_delete_ask", id=request.short_id), True)
    asked = await ana.wait_for(lambda one: t("button_yes_delete") in one.button_texts)
    assert asked.id == shown.id
    assert (await tap(ana, asked, t("button_no")))["text"] == t("tap_kept")
    assert (await requests.find(ledger, request.request_id)).erasure is None
    back = await ana.wait_for(lambda one: t("button_delete") in one.button_texts)
    assert back.button_texts == shown.button_texts
    await tap(ana, back, t("button_delete"))
    said = await tap(ana, shown, t("button_yes_delete"))
    assert said["text"] == t("tap_deleted", id=request.short_id)
    assert videos_of(ana) == []
    gone, row = await requests.find_with_video(ledger, request.request_id)
    assert (gone.erasure, gone.idea, gone.caption) == ("done", PRUNED, None)
    assert (row.prompt, row.file_id, row.state) == (PRUNED, None, VideoState.DELIVERED)
    assert list(path.parent.glob(f"{path.stem}*")) == []
    assert row.cost == PRICE


async def test_a_message_that_stays_loses_its_words(app_env):
    """Telegram deletes nothing that is older than 48 hours: the caption and the buttons go."""
    env = await app_env(changes=FREE)
    ana, request, _, shown = await deliver_one(env)
    env.api.fail("deleteMessage", Fault.refused(400, "Bad Request: message can't be deleted"), times=None)
    await tap(ana, shown, EN("button_delete"))
    await tap(ana, shown, EN("button_yes_delete"))
    [left] = videos_of(ana)
    assert (left.text, left.buttons) == (EN("video_deleted", id=request.short_id), [])


@languages
async def test_what_is_not_ended_cannot_be_deleted(app_env, language):
    """While a video is being delivered, or its charge is unclear, it stays, in true words."""
    env = await app_env(changes=FREE)
    ana, request, video, shown = await deliver_one(env, language)
    t, ledger = translator(language), env.app.ledger
    await tap(ana, shown, t("button_delete"))
    await put(ledger, request.request_id, VideoState.IN_DOUBT, due_at=None)
    said = await tap(ana, shown, t("button_yes_delete"))
    assert said["text"] == t("tap_delete_open", id=request.short_id)
    assert len(videos_of(ana)) == 1
    assert env.app.worker.asset_path(video).exists()
    await put(ledger, request.request_id, VideoState.DELIVERED)
    assert (await requests.find(ledger, request.request_id)).idea != PRUNED


async def test_an_erased_video_has_no_more_acts(app_env):
    """Every button of a copy that is left says that it was deleted."""
    env = await app_env(changes=FREE)
    ana, request, _, shown = await deliver_one(env)
    await ana.send(f"/video #{request.short_id}")
    copy = await ana.wait_for(lambda one: is_video(one) and one.id > shown.id, 20)
    await tap(ana, shown, EN("button_delete"))
    await tap(ana, shown, EN("button_yes_delete"))
    assert await erasure.ask(env.app.ledger, request.request_id, ana.id) == "done"
    for name in (again_button(PRICE), EN("button_words"), EN("button_file")):
        assert (await tap(ana, copy, name))["text"] == EN("tap_erased")
    assert await count_requests(env) == 1


async def test_no_price_on_a_take_that_is_not_on_offer(app_env):
    """A length that the provider no longer makes has no button; a tap on an old one says so."""
    env = await app_env(changes=FREE)
    ana, request, _, shown = await deliver_one(env)
    await put(env.app.ledger, request.request_id, VideoState.DELIVERED, seconds=5)
    said = await tap(ana, shown, again_button(PRICE))
    assert (said["text"], said["alert"]) == (EN("tap_ended"), True)
    await ana.send(f"/video {request.short_id}")
    copy = await ana.wait_for(lambda one: is_video(one) and one.id > shown.id, 20)
    assert copy.button_texts == [
        EN("button_words"), EN("button_share"), EN("button_file"), EN("button_delete"),
    ]  # fmt: skip


async def test_what_the_rules_refuse_by_now_is_not_offered(app_env):
    """The content rules are asked again: they may have changed since."""
    env = await app_env(changes=FREE)
    ana, request, _, shown = await deliver_one(env)
    await update_fields(env.app.ledger, request.request_id, idea="a child in a sexual scene")
    said = await tap(ana, shown, again_button(PRICE))
    assert (said["text"], said["alert"]) == (EN("tap_content"), True)
    assert await count_requests(env) == 1


async def test_two_kinds_at_once_leave_one_offer(app_env):
    """[Another take] and [Wide] in one moment are two requests; the newer withdraws the older's offer."""
    env = await app_env(changes=FREE)
    ana, _, _, shown = await deliver_one(env)
    taps = [await ana.tap(shown.id, name) for name in (again_button(PRICE), "Wide")]
    await asyncio.gather(*(ana.wait_for_answer(one, 20) for one in taps))
    found = await requests.list_for_user(env.app.ledger, ana.id)
    states = sorted(str(video.state) for _, video in found)
    assert states == ["AWAITING_APPROVAL", "CANCELLED", "DELIVERED"]


async def test_delete_while_it_is_being_delivered(app_env, monkeypatch):
    """Telegram shows the video before DELIVERED is written: until then no button acts, and none is lost."""
    env = await app_env(changes=FREE)
    ana, recorded = env.user(), asyncio.Event()

    async def wait_at(name: str) -> None:
        if name == "video_sent":
            await recorded.wait()

    monkeypatch.setattr(delivery, "failpoint", wait_at)
    await ana.send("/create a quiet market at dawn")
    shown = await ana.wait_for(is_video, 30)
    request, video = await env.latest()
    for name in (EN("button_delete"), again_button(PRICE), EN("button_file")):
        assert (await tap(ana, shown, name))["text"] == EN("tap_not_yet", id=request.short_id)
    recorded.set()
    await wait_for_state(env, VideoState.DELIVERED, seconds=30)
    assert env.app.worker.asset_path(video).exists()
    await tap(ana, shown, EN("button_delete"))
    await tap(ana, shown, EN("button_yes_delete"))
    assert videos_of(ana) == []
    assert len(env.fake_provider.posts()) == await count_requests(env) == 1


async def test_a_refusal_that_was_erased_asks_for_no_words(front):
    """[Change idea] under it would quote what is gone."""
    ana = front.user()
    await ana.send("/create Rambo in the jungle, close-up of Rambo")
    [(request, _)] = await _refused(front)
    await notify_request(front.app.chat, request.request_id)
    shown = await ana.wait_for(lambda one: EN("button_change_idea") in one.button_texts)
    await erasure.ask(front.app.ledger, request.request_id, ana.id)
    await erasure.finish(front.app.ledger, request.request_id)
    assert (await tap(ana, shown, EN("button_change_idea")))["text"] == EN("tap_erased")


async def _refused(env):
    await wait_for_confirmed(env)
    return await requests.list_for_user(env.app.ledger, 1001)
