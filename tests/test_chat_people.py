"""Whoever writes is answered in their language, about what is theirs, and as they wrote it."""

from chat_stage import (
    GROUP,
    answers,
    front_only,
    handlers_alone,  # noqa: F401  # the fixture `front`
    said,
    state_is,
    taken_up,
)

from chat.i18n import translator
from evals.environment import PRICE
from ledger import requests
from ledger.models import VideoState
from sandbox.telegram import Fault

EN = translator("en")


async def test_half_a_character_is_no_harm(front):
    """A lone surrogate becomes a replacement character: one request, and the bot goes on."""
    await front.user().send("/create half \ud83d a market")
    await taken_up(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, 1001)
    assert request.idea == "half \ufffd a market"


ODD_IDEAS = (
    '<b>&"</i><script>',
    "مرحبا \u202eevil",
    "Z\u0351\u036b\u0343a\u030a\u0301lgo",
    "👩‍👩‍👧 at dawn",
    "{price}",
)


async def test_an_idea_is_shown_as_it_was_written(front):
    """Markup, right-to-left marks and stacked accents stand in /status and /history as they were written."""
    for user, idea in enumerate(ODD_IDEAS, start=1):
        for words in (f"/create {idea}", "/status", "/history"):
            await front.user(user).send(words)
    await answers(front, 2 * len(ODD_IDEAS))
    for user, idea in enumerate(ODD_IDEAS, start=1):
        bubbles = [one for one in front.user(user).history() if not one.mine]
        assert [idea in one.text for one in bubbles] == [True, True]


async def test_everybody_reads_their_own_language(front):
    """Commands are answered in English, Spanish or Portuguese by the language of the app."""
    for user, code, region in ((1, "en", "en-GB"), (2, "es", "es-MX"), (3, "pt", "pt-br"), (4, "en", "de")):
        person = front.user(user, language=region)
        for word in ("/status", "/history", "/cancel", "/quota"):
            await person.send(word)
        say = translator(code)
        found = await answers(front, 4, user)
        assert found[:3] == [say("status_none"), say("history_none"), say("cancel_none")]
        assert say("quota_ready") in found[3]


async def test_help_names_the_provider_s_prices(front):
    """/start and /help tell the prices that the provider quotes, and the commands."""
    for word in ("/start", "/start payload", "/help"):
        await front.user().send(word)
    for words in await answers(front, 3):
        assert str(PRICE) in words
        assert "/create" in words


async def test_a_person_sees_and_touches_their_own(front):
    """Another's request is in no list, and /cancel of its id is an id that nobody knows."""
    ana, eva = front.user(), front.user(2)
    await ana.send("/create a market")
    await taken_up(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    for word in ("/status", "/history", f"/cancel #{request.short_id}", "/cancel"):
        await eva.send(word)
    found = await answers(front, 4, eva.id)
    unknown = EN("cancel_unknown", id=request.short_id)
    assert found == [EN("status_none"), EN("history_none"), unknown, EN("cancel_none")]
    await ana.send(f"/cancel #{request.short_id.upper()} please")
    assert await answers(front, 1, ana.id) == [EN("cancel_done", id=request.short_id)]
    await ana.send(f"/cancel {request.short_id}")
    assert (await answers(front, 2, ana.id))[1] == EN("cancel_done", id=request.short_id)


async def test_strangers_are_turned_away(app_env):
    """Who is not named may not use the bot, and reads so once; admins and allowed users may."""
    env = await app_env(wake=front_only, settings={"allowed_users": frozenset({1}), "admins": frozenset({2})})
    for user in (1, 2, 3, 3, 3):
        await env.user(user).send("/create a market")
    await taken_up(env)
    assert said(env) == [EN("not_allowed", user_id=3)]
    env.api.group(GROUP)
    await env.user(4).send("/create a market", chat=GROUP)
    assert await answers(env, 1, GROUP) == [EN("not_allowed", user_id=4)]
    owners = [await requests.list_for_user(env.app.ledger, user) for user in (1, 2, 3, 4)]
    assert [len(found) for found in owners] == [1, 1, 0, 0]


async def test_an_answer_that_is_lost_holds_up_nobody(front):
    """An answer that Telegram does not take is dropped: its update is done, and the next one is handled."""
    refused = Fault.refused(403, "Forbidden: bot was blocked by the user")
    for fault in (Fault.server_error(), Fault.drop(), Fault.throttled(60), refused):
        front.api.fail("sendMessage", fault)
        await front.user().send("/help")
        await taken_up(front)
    await front.user().send("/status")
    assert await answers(front, 1) == [EN("status_none")]
    assert len(front.api.calls.of("sendMessage")) == 5


async def test_status_agrees_with_the_ledger(app_env):
    """The rows of /status and /history say what the ledger says: under way, then delivered."""
    env = await app_env(changes={"approval": "always"})
    ana = env.user()
    await ana.send("/create a market")
    await state_is(env, VideoState.AWAITING_APPROVAL)
    await ana.send("/status")
    status = await ana.wait_for(lambda bubble: EN("state_AWAITING_APPROVAL") in bubble.text)
    offer = next(bubble for bubble in ana.history() if bubble.buttons)
    await ana.tap(offer.id, offer.button_texts[0])
    await state_is(env, VideoState.DELIVERED)
    await ana.send("/status")
    await ana.wait_for(lambda bubble: bubble.text == EN("status_none"))
    await ana.send("/history")
    await ana.wait_for(lambda bubble: EN("state_DELIVERED") in bubble.text and bubble.id > status.id)
    await ana.send("/cancel " + (await env.latest())[0].short_id)
    await ana.wait_for(lambda bubble: "cannot be cancelled" in bubble.text)
    await ana.send("/quota")
    await ana.wait_for(lambda bubble: "1 of 5" in bubble.text and str(PRICE) in bubble.text)
