"""/privacy says what is stored; /forget erases it after two taps, and nothing is paid twice or lost."""

import pytest

from chat.i18n import LANGUAGES, translator
from evals.environment import PRICE
from ledger import erasure, people, requests
from ledger.models import RequestState, VideoState
from ledger.pruning import PRUNED
from tests.ledger.test_erasure import everything
from tests.support.app_harness import GROUP, chat_only, count_requests, wait_for_state, wait_for_texts
from tests.support.crash_env import is_offer
from tests.support.delivered import FREE, deliver_one, is_video, tap, videos_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.representative

EN = translator("en")
languages = pytest.mark.parametrize("language", LANGUAGES)


def bare(text: str) -> str:
    return text.replace("<b>", "").replace("</b>", "")


async def forget(person, t) -> dict:
    """Send /forget, tap twice, and return the answer to the last tap."""
    await person.send("/forget")
    asked = await person.wait_for(lambda one: t("button_forget") in one.button_texts)
    await tap(person, asked, t("button_forget"))
    sure = await person.wait_for(lambda one: t("button_yes_forget") in one.button_texts)
    assert sure.id == asked.id
    assert bare(t("forget_really")) in sure.text
    return await tap(person, sure, t("button_yes_forget"))


@languages
async def test_privacy_is_short_and_without_a_link(front, language):
    """One message: what, why, how long, who sees it, how it goes."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("/privacy")
    [text] = await wait_for_texts(front, 1)
    assert text == f"{t('privacy_stored')}\n\n{t('privacy_seen')}"
    assert "/forget" in text
    assert "http" not in text
    assert len(text) < 1500


@languages
async def test_forget_says_what_stays_and_no_keeps_all(front, language):
    """Before any tap it is said what goes and what stays; [No] changes nothing."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("/create a quiet market at dawn")
    await ana.send("/forget")
    asked = await ana.wait_for(lambda one: t("button_forget") in one.button_texts)
    assert asked.text == bare(t("forget_ask"))
    assert (await tap(ana, asked, t("button_no")))["text"] == t("tap_kept")
    kept = await ana.wait_for(lambda one: one.id == asked.id and not one.buttons)
    assert kept.text == t("forget_kept")
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert (request.idea, request.erasure) == ("a quiet market at dawn", None)


@languages
async def test_in_a_group_it_is_done_in_private(front, language):
    """A link leads from a group to the private chat."""
    ana, group, t = front.user(language=language), front.api.group(GROUP), translator(language)
    await ana.send("/forget", chat=group)
    bubble = await ana.wait_for(lambda one: not one.mine and bool(one.buttons), chat=group)
    assert bubble.text == t("in_private")
    await ana.follow(bubble.buttons[0][0].url)
    await ana.wait_for(lambda one: t("button_forget") in one.button_texts)


@pytest.mark.slow
@pytest.mark.representative
@languages
async def test_forget_erases_what_has_ended(app_env, language):
    """Two taps: texts, files, settings, what was asked; another person's stay, and so do the amounts."""
    env = await app_env(changes=FREE)
    forgotten: list[int] = []

    async def forget_more(user_id: int) -> None:
        forgotten.append(user_id)

    object.__setattr__(env.app.chat, "forgets", (forget_more,))
    eva = env.user(2, "Eva")
    await env.create("a quiet harbour at noon", user_id=2)
    ana, request, video, _ = await deliver_one(env, language)
    t, ledger = translator(language), env.app.ledger
    await people.save(ledger, ana.id, ask_below=PRICE)
    path = env.app.worker.asset_path(video)
    await ana.send("/create")
    said = await forget(ana, t)
    assert said["text"] == t("tap_forgetting")
    await ana.wait_for(lambda one: one.text == t("forget_done"), 20)
    assert "quiet market" not in await everything(ledger)
    assert "harbour" in await everything(ledger)
    gone, row = await requests.find_with_video(ledger, request.request_id)
    assert (gone.erasure, gone.idea, row.prompt, row.cost) == ("done", PRUNED, PRUNED, PRICE)
    assert list(path.parent.glob(f"{path.stem}*")) == []
    assert (await people.find(ledger, ana.id)).ask_below is None
    assert forgotten == [ana.id]
    before = await count_requests(env)
    await ana.send("a dog on the beach")  # it was asked for before, and is not awaited any more
    await ana.wait_for(lambda one: one.text == t("confirm_idea"))
    assert await count_requests(env) == before
    assert len(videos_of(eva)) == 1
    assert len(videos_of(ana)) == 1, "the messages stay until their person deletes them"


@pytest.mark.slow
@languages
async def test_forget_with_an_order_in_flight(app_env, language):
    """What is paid is made once, delivered, and erased when it has ended."""
    env = await app_env(changes=FREE)
    ana, t, ledger = env.user(language=language), translator(language), env.app.ledger
    env.fake_provider.polls = 1000
    await ana.send("/create a quiet market at dawn")
    await wait_for_state(env, VideoState.ACCEPTED, seconds=30)
    await forget(ana, t)
    wanted = t("forget_waiting", count=1)
    await ana.wait_for(lambda one: wanted in one.text, 20)
    request, video = await env.latest()
    assert (request.erasure, request.idea) == ("asked", "a quiet market at dawn")
    env.fake_provider.polls = 1
    shown = await ana.wait_for(is_video, 30)
    assert shown.buttons == [], "there is nothing that could be done with it"

    async def erased() -> bool:
        found = await requests.find(ledger, request.request_id)
        return found is not None and found.erasure == "done"

    await wait_until(erased, 60, "the erasure")
    assert "quiet market" not in await everything(ledger)
    assert not env.app.worker.asset_path(video).exists()
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1


@pytest.mark.slow
async def test_forget_cancels_what_is_free(app_env):
    """An offer and an open request end without a charge, and are erased at once."""
    env = await app_env(changes=FREE | {"approval": "always"})
    ana, ledger = env.user(), env.app.ledger
    await ana.send("/create a quiet market at dawn")
    await ana.wait_for(is_offer, 20)
    await forget(ana, EN)
    await ana.wait_for(lambda one: one.text == EN("forget_done"), 20)
    request, video = await env.latest()
    assert (video.state, request.erasure) == (VideoState.CANCELLED, "done")
    assert env.fake_provider.posts() == []
    assert await erasure.count_waiting(ledger, ana.id, env.app.bot.id) == 0


async def test_a_request_that_is_being_read_is_cancelled_too(front):
    """Without a worker it would wait: it ends, and its idea is gone."""
    ana = front.user()
    await ana.send("/create a quiet market at dawn")
    await forget(ana, EN)
    await ana.wait_for(lambda one: one.text == EN("forget_done"), 20)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert (request.state, request.idea, request.erasure) == (RequestState.CANCELLED, PRUNED, "done")


@pytest.mark.slow
async def test_a_chosen_language_is_forgotten_at_once(app_env):
    """The answer is in the language of their Telegram again, in this process without a delay."""
    env = await app_env(wake=chat_only)
    ana = env.user(language="pt")
    await people.save(env.app.ledger, ana.id, language="es")
    await forget(ana, translator("es"))
    await ana.wait_for(lambda one: one.text == translator("pt")("forget_done"), 20)
    assert (await people.find(env.app.ledger, ana.id)).language is None
