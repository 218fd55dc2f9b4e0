"""/history in pages, [▶ #id] and /video: own videos again, free of charge, and nothing of anyone else."""

import pytest

from chat.dispatcher import publish_menu
from chat.i18n import LANGUAGES, translator
from ledger import erasure, requests
from ledger.models import RequestState, VideoState
from ledger.requests import NewRequest
from sandbox.telegram import Fault
from tests.support.app_harness import GROUP, count_requests, sent_texts, wait_for_confirmed, wait_for_texts
from tests.support.delivered import FREE, deliver_one, is_video, tap, videos_of
from tests.support.factories import put

pytestmark = pytest.mark.representative

EN = translator("en")
languages = pytest.mark.parametrize("language", LANGUAGES)


async def open_many(env, count: int, user_id: int = 1001, chat_id: int | None = None) -> list[str]:
    """Open requests that were refused; return their short ids, oldest first."""
    found = []
    for number in range(count):
        name = f"tg:{env.app.bot.id}:-:{chat_id or user_id}:{90_000 + number}"
        new = NewRequest(name, env.app.bot.id, chat_id or user_id, 1, user_id, "en", f"idea number {number}")
        request, _ = await requests.open_request(env.app.ledger, new)
        await requests.close_request(env.app.ledger, name, RequestState.REFUSED, "chat", "quota")
        found.append(request.short_id)
    return found


def buttons_of(bubble) -> list[str]:
    return [text.replace("#", "") for text in bubble.button_texts]


@languages
async def test_history_has_pages_of_five(front, language):
    """[Older] and [Newer] turn pages in one message; the first has no newer, the last no older."""
    ana, t = front.user(language=language), translator(language)
    names = (await open_many(front, 12))[::-1]
    await ana.send("/history")
    page = await ana.wait_for(lambda one: t("button_older") in one.button_texts)
    assert page.button_texts == [t("button_older")]
    assert [name for name in names if name in page.text] == names[:5]
    await tap(ana, page, t("button_older"))
    page = await ana.wait_for(lambda one: names[5] in one.text)
    assert page.button_texts == [t("button_newer"), t("button_older")]
    await tap(ana, page, t("button_older"))
    page = await ana.wait_for(lambda one: names[11] in one.text)
    assert (page.button_texts, names[10] in page.text, names[9] in page.text) == (
        [t("button_newer")],
        True,
        False,
    )
    await tap(ana, page, t("button_newer"))
    await ana.wait_for(lambda one: names[5] in one.text)
    assert len(sent_texts(front)) == 1


async def test_a_page_that_is_not_there_is_empty(front):
    """A page of a button that no one drew: no exception, an answer."""
    ana = front.user()
    await open_many(front, 6)
    await ana.send("/history")
    page = await ana.wait_for(lambda one: bool(one.buttons))
    keyboard = front.api.world.messages.find(ana.id, page.id)["reply_markup"]["inline_keyboard"]
    keyboard[-1][0]["callback_data"] = "page:-1"
    assert (await tap(ana, page, "page:-1"))["text"] == EN("tap_gone")


@pytest.mark.slow
@pytest.mark.representative
@languages
async def test_a_video_is_shown_again_for_free(app_env, language):
    """[▶ #id] and /video send it by its id: no upload, no request, no charge, with its buttons."""
    env = await app_env(changes=FREE)
    ana, request, video, shown = await deliver_one(env, language)
    t = translator(language)
    [refused] = await open_many(env, 1)
    await ana.send("/history")
    page = await ana.wait_for(
        lambda one: t("history_head").replace("<b>", "").replace("</b>", "") in one.text
    )
    assert page.button_texts == [f"▶ #{request.short_id}"]
    await tap(ana, page, f"▶ #{request.short_id}")
    again = await ana.wait_for(lambda one: is_video(one) and one.id > shown.id, 20)
    assert (again.text, again.button_texts) == (shown.text, shown.button_texts)
    for name in (f"/video #{request.short_id}", f"/video {request.short_id.upper()}"):
        before = len(videos_of(ana))
        await ana.send(name)
        await ana.wait_for(lambda one, before=before: is_video(one) and len(videos_of(ana)) > before, 20)
    calls = env.api.calls.of("sendVideo")
    assert {call.params["video"] for call in calls} == {video.file_id}
    assert len(calls) == 3
    assert await count_requests(env) == 2
    assert len(env.fake_provider.posts()) == 1
    await ana.send(f"/video {refused}")
    wanted = t("video_not", id=refused, state=t("state_REFUSED"))
    await ana.wait_for(lambda one: one.text == wanted)


@pytest.mark.slow
async def test_an_id_that_telegram_refuses_is_sent_from_the_disk(app_env):
    """And where the file is gone as well, a true word follows, by command and by tap."""
    env = await app_env(changes=FREE)
    ana, request, video, shown = await deliver_one(env)
    refused = Fault.refused(400, "Bad Request: wrong file identifier")
    env.api.fail("sendVideo", refused)
    await ana.send(f"/video {request.short_id}")
    again = await ana.wait_for(lambda one: is_video(one) and one.id > shown.id, 20)
    assert again.media.duration == shown.media.duration
    env.app.worker.asset_path(video).unlink()
    env.api.fail("sendVideo", refused, times=None)
    await ana.send(f"/video {request.short_id}")
    await ana.wait_for(lambda one: one.text == EN("video_gone", id=request.short_id))
    await ana.send("/history")
    page = await ana.wait_for(lambda one: f"▶ #{request.short_id}" in one.button_texts)
    said = await tap(ana, page, f"▶ #{request.short_id}")
    assert said["text"] == EN("video_gone", id=request.short_id)
    assert len(videos_of(ana)) == 2


@languages
async def test_another_persons_video_is_as_unknown_as_none(front, language):
    """The same words for an id that does not exist and for one of another person; without an id: how."""
    ana, eva, t = front.user(language=language), front.user(2, language=language), translator(language)
    [name] = await open_many(front, 1, ana.id)
    await put_delivered(front, name)
    for wanted in (name, "ffffff"):
        await eva.send(f"/video #{wanted}")
    await eva.send("/video")
    texts = await wait_for_texts(front, 3, eva.id)
    assert texts == [t("video_unknown", id=name), t("video_unknown", id="ffffff"), t("video_usage")]
    await eva.send("/history")
    page = (await wait_for_texts(front, 4, eva.id))[3]
    assert page == t("history_none")


async def put_delivered(env, short_id: str) -> None:
    found = await requests.find_named(env.app.ledger, short_id, 1001)
    await put(env.app.ledger, found.request_id, VideoState.DELIVERED, file_id="x")


@languages
async def test_in_a_group_a_video_is_answered_in_private(front, language):
    """/video in a group leads to the private chat by a link, and the link sends it there, or says why not."""
    ana, group, t = front.user(language=language), front.api.group(GROUP), translator(language)
    [name] = await open_many(front, 1)
    await ana.send(f"/video #{name}", chat=group)
    bubble = await ana.wait_for(lambda one: not one.mine and bool(one.buttons), chat=group)
    assert bubble.text == t("in_private")
    await ana.follow(bubble.buttons[0][0].url)
    wanted = t("video_not", id=name, state=t("state_REFUSED"))
    await ana.wait_for(lambda one: one.text == wanted)


async def test_an_ephemeral_history_has_this_group_and_a_link(front):
    """What only its sender sees in a group names the group's requests; the rest is in private."""
    await publish_menu(front.app.bot)
    ana, group = front.user(), front.api.group(GROUP)
    await open_many(front, 1)
    [shared] = await open_many(front, 1, chat_id=GROUP)
    await ana.send("/history", chat=group)
    page = await ana.wait_for(lambda one: not one.mine and shared in one.text, chat=group)
    assert page.ephemeral
    assert [button.url.endswith("?start=history") for row in page.buttons for button in row] == [True]
    assert page.text.count("#") == 1


@languages
async def test_an_erased_request_is_listed_without_its_words(front, language):
    """The list says that its person deleted it, and offers no video; /video says so too."""
    ana, t = front.user(language=language), translator(language)
    [name] = await open_many(front, 1)
    found = await requests.find_named(front.app.ledger, name, ana.id)
    await erasure.ask(front.app.ledger, found.request_id, ana.id)
    await erasure.finish(front.app.ledger, found.request_id)
    for text in ("/history", f"/video {name}", "/status"):
        await ana.send(text)
    page, video, status = await wait_for_texts(front, 3)
    assert t("idea_erased") in page
    assert "idea number" not in page
    assert (video, status) == (t("video_erased", id=name), t("status_none"))
    await wait_for_confirmed(front)
