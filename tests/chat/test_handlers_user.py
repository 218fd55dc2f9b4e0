"""Commands of users: one /create is one request; everything else makes nothing and is answered once."""

import asyncio

import pytest

from chat.i18n import LANGUAGES, translator
from chat.ideas import IDEA_CHARACTERS
from chat.keyboards import EXAMPLES
from chat.notifier import notify_request
from evals.environment import PRICE
from guardrails.admission import Admission
from ledger import offers, orders, requests
from ledger.models import VideoState
from ledger.offers import Terms
from sandbox.telegram import Fault
from tests.support.app_harness import (
    GROUP,
    chat_only,
    count_requests,
    push_update,
    sent_texts,
    wait_for_confirmed,
    wait_for_state,
    wait_for_texts,
)
from tests.support.crash_env import is_offer
from tests.support.factories import NO_LIMITS, ORDER_PRICE, order_for
from tools.registry import GENERATE_VIDEO

EN = translator("en")
ANONYMOUS = {"id": 1_087_968_824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot"}
CHANNEL = {"id": -1009, "type": "channel", "title": "News"}
SUPERGROUP = {"id": GROUP, "type": "supergroup", "title": "Group"}


async def test_a_command_is_read_in_every_form(front):
    """Any letter case, a line break after it, addressed to the bot, in a group: the idea arrives whole."""
    ana, name = front.user(), front.api.world.bot["username"]
    group = front.api.group(GROUP)
    await ana.send("/CREATE a first idea")
    await front.user(2).send("/create\na second\nidea")
    await front.user(3).send(f"/create@{name.upper()} a third idea")
    await front.user(4).send(f"/create@{name} a fourth idea", chat=group)
    await wait_for_confirmed(front)
    ideas = [(await requests.list_for_user(front.app.ledger, user))[0][0].idea for user in (1001, 2, 3, 4)]
    assert ideas == ["a first idea", "a second\nidea", "a third idea", "a fourth idea"]


async def test_the_longest_idea_fits(front):
    """An idea of exactly the longest length is a request, in any script; one character more is refused."""
    await front.user(1).send("/create " + "x" * IDEA_CHARACTERS)
    await front.user(2).send("/create " + "🎬" * (IDEA_CHARACTERS // 2))
    await front.user(3).send("/create " + "x" * (IDEA_CHARACTERS + 1))
    [reply] = await wait_for_texts(front, 1)
    assert f"{IDEA_CHARACTERS + 1} characters" in reply
    assert str(IDEA_CHARACTERS) in reply
    await wait_for_confirmed(front)
    assert await count_requests(front) == 2


@pytest.mark.slow
async def test_a_very_long_text_is_answered_once(front):
    """200 kB arrive as 50 messages: the first is refused as too long, the rest is not answered 49 times."""
    pieces = await front.user().send_long("/create " + "a market at dawn " * 12_000)
    await wait_for_confirmed(front)
    assert len(pieces) > 45
    [reply] = sent_texts(front)
    assert str(IDEA_CHARACTERS) in reply
    assert await count_requests(front) == 0


async def test_an_edit_never_creates(front):
    """An edited message is never a command, whatever it says now; an edited /create stays one request."""
    ana = front.user()
    first = await ana.send("hello")
    await wait_for_texts(front, 1)
    await ana.edit(first.id, "/create a market")
    second = await ana.send("/create a market")
    await wait_for_confirmed(front)
    await ana.edit(second.id, "/create another market")
    push_update(front, "edited_message", text="/create a third", entities=[], edit_date=2)
    await wait_for_confirmed(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, 1001)
    assert request.idea == "a market"


async def test_a_forwarded_command_does_nothing(front):
    """A forwarded /create makes nothing and a forwarded /cancel stops nothing; both are answered."""
    ana, eva = front.user(), front.user(2)
    await ana.forward(await eva.send("/create a market"))
    await ana.send("/create a lighthouse")
    await ana.forward(await eva.send("/cancel"))
    assert (await wait_for_texts(front, 2, ana.id)).count(EN("forwarded")) == 2
    await wait_for_confirmed(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert (request.idea, request.state) == ("a lighthouse", "OPEN")


NO_ACCOUNT = (
    {"from": ANONYMOUS, "sender_chat": SUPERGROUP},
    {"from": {"id": 777_000, "is_bot": False, "first_name": "Telegram"}, "sender_chat": CHANNEL},
    {"from": {"id": 136_817_688, "is_bot": True, "first_name": "Channel"}, "sender_chat": CHANNEL},
    {"from": {"id": 5, "is_bot": True, "first_name": "Another bot"}},
)


@pytest.mark.slow
async def test_only_people_pay(front):
    """Anonymous admins, channels and bots have no account: no request, and a reply that says so."""
    front.api.group(GROUP)
    for sender in NO_ACCOUNT:
        push_update(front, chat=SUPERGROUP, text="/create a market", **sender)
    assert await wait_for_texts(front, len(NO_ACCOUNT), GROUP) == [EN("no_payer")] * len(NO_ACCOUNT)
    assert await count_requests(front) == 0


async def test_a_lone_surrogate_is_replaced(front):
    """A lone surrogate becomes a replacement character: one request, and the bot continues."""
    await front.user().send("/create half \ud83d a market")
    await wait_for_confirmed(front)
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
    """Markup, right-to-left marks and stacked accents appear in /status and /history as they were written."""
    for user, idea in enumerate(ODD_IDEAS, start=1):
        for text in (f"/create {idea}", "/status", "/history"):
            await front.user(user).send(text)
    await wait_for_texts(front, 2 * len(ODD_IDEAS))
    for user, idea in enumerate(ODD_IDEAS, start=1):
        bubbles = [one for one in front.user(user).history() if not one.mine]
        assert [idea in one.text for one in bubbles] == [True, True]


@pytest.mark.slow
async def test_replies_are_in_the_users_language(front):
    """Commands are answered in English, Spanish or Portuguese, by the language of the user's Telegram app."""
    for user, code, region in ((1, "en", "en-GB"), (2, "es", "es-MX"), (3, "pt", "pt-br"), (4, "en", "de")):
        person = front.user(user, language=region)
        for command in ("/status", "/history", "/cancel", "/quota"):
            await person.send(command)
        t = translator(code)
        found = await wait_for_texts(front, 4, user)
        assert found[:3] == [t("status_none"), t("history_none"), t("cancel_none")]
        assert t("quota_ready") in found[3]


async def test_help_names_the_provider_s_prices(front):
    """/help names the commands, the prices that the provider quotes, and how to say length and shape."""
    await front.user().send("/help")
    [reply] = await wait_for_texts(front, 1)
    assert EN.money(PRICE) in reply
    assert "12 seconds, upright" in reply


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_newcomer_taps_an_example(front, language):
    """/start has three ideas, [Prices] and [What is left]; an idea that is tapped twice is one request."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("/start")
    welcome = await ana.wait_for(lambda bubble: bool(bubble.buttons))
    assert welcome.button_texts == [*map(t, EXAMPLES), t("button_prices"), t("button_left")]
    await ana.wait_for_answer(await ana.tap(welcome.id, t("button_prices")))
    await ana.wait_for_answer(await ana.tap(welcome.id, t("button_left")))
    _, prices, left = await wait_for_texts(front, 3)
    assert t.money(PRICE) in prices
    assert t("quota_ready") in left
    for _ in range(2):
        await ana.wait_for_answer(await ana.tap(welcome.id, t("example_2")))
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    assert request.idea == t("example_2")
    await ana.send("/cancel")
    await wait_for_texts(front, 4)
    said = await ana.wait_for_answer(await ana.tap(welcome.id, t("example_2")))
    assert said["text"] == t("example_used")


@pytest.mark.parametrize("language", LANGUAGES)
async def test_a_request_is_stopped_by_its_button(front, language):
    """[Cancel] stands under the status message while nothing is charged, for its person alone."""
    ana, t = front.user(language=language), translator(language)
    await ana.send("/create a quiet market at dawn")
    await wait_for_confirmed(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    await asyncio.sleep(front.app.chat.edit_limits.quiet_s)
    await notify_request(front.app.chat, request.request_id)
    shown = await ana.wait_for(lambda bubble: t("button_cancel") in bubble.button_texts)
    eva = {"id": 2, "is_bot": False, "first_name": "Eva", "language_code": language}
    tap = {"id": "78", "from": eva, "chat_instance": "1", "data": f"stop:{request.short_id}"}
    front.api.world.updates.push("callback_query", tap, "tap:2", 60)
    call = await front.api.calls.wait_for(lambda call: call.params.get("callback_query_id") == "78")
    assert call.params["text"] == t("cancel_unknown", id=request.short_id)
    said = await ana.wait_for_answer(await ana.tap(shown.id, t("button_cancel")))
    assert said["text"] == t("cancel_done", id=request.short_id)
    await notify_request(front.app.chat, request.request_id)
    ended = await ana.wait_for(lambda bubble: t("cancelled") in bubble.text)
    assert (ended.id, ended.buttons) == (shown.id, [])


async def test_a_user_sees_and_cancels_only_their_own(front):
    """Another user's request is in no list, and /cancel does not know its id."""
    ana, eva = front.user(), front.user(2)
    await ana.send("/create a market")
    await wait_for_confirmed(front)
    [(request, _)] = await requests.list_for_user(front.app.ledger, ana.id)
    for command in ("/status", "/history", f"/cancel #{request.short_id}", "/cancel"):
        await eva.send(command)
    found = await wait_for_texts(front, 4, eva.id)
    unknown = EN("cancel_unknown", id=request.short_id)
    assert found == [EN("status_none"), EN("history_none"), unknown, EN("cancel_none")]
    await ana.send(f"/cancel #{request.short_id.upper()} please")
    assert await wait_for_texts(front, 1, ana.id) == [EN("cancel_done", id=request.short_id)]
    await ana.send(f"/cancel {request.short_id}")
    assert (await wait_for_texts(front, 2, ana.id))[1] == EN("cancel_done", id=request.short_id)


@pytest.mark.parametrize("known", ["no order", "an offer"])
async def test_a_cancel_releases_by_the_version_that_it_wrote(front, monkeypatch, known):
    """The order is placed, or approved, after /cancel has read the list: counters are told the version of
    the cancel, so that no older state of the order is counted later.
    """
    ana, ledger = front.user(), front.app.ledger
    await ana.send("/create a market")
    await wait_for_confirmed(front)
    [(request, _)] = await requests.list_for_user(ledger, ana.id)
    order = order_for(request.request_id, approval_nonce="tap")
    if known == "an offer":
        await orders.place(ledger, order, NO_LIMITS)
    read, versions = requests.list_for_user, []

    async def late(*args, **options):
        found = await read(*args, **options)
        await orders.place(ledger, order, NO_LIMITS)
        terms = Terms("local", "preview", "local", ORDER_PRICE)
        tapped = await offers.approve(ledger, "tap", ana.id, terms, NO_LIMITS, valid_s=60, offer_valid_s=60)
        assert tapped.outcome == "approved"
        return found

    async def release(*args):
        versions.append(args[1:])

    monkeypatch.setattr(requests, "list_for_user", late)
    monkeypatch.setattr(Admission, "release", release)
    await ana.send("/cancel")
    await wait_for_texts(front, 1, ana.id)
    _, video = await requests.find_with_video(ledger, request.request_id)
    assert (video.state, video.version) == (VideoState.CANCELLED, 2)
    assert versions == [(GENERATE_VIDEO, request.request_id, ana.id, "unpaid", 2)]


async def test_unauthorized_users_are_refused(app_env):
    """A user who is not allowed is refused each time; admins and allowed users can use the bot."""
    env = await app_env(wake=chat_only, settings={"allowed_users": frozenset({1}), "admins": frozenset({2})})
    for user in (1, 2, 3, 3, 3):
        await env.user(user).send("/create a market")
    await wait_for_confirmed(env)
    assert sent_texts(env) == [EN("not_allowed", user_id=3)] * 3
    env.api.group(GROUP)
    await env.user(4).send("/create a market", chat=GROUP)
    assert await wait_for_texts(env, 1, GROUP) == [EN("not_allowed", user_id=4)]
    owners = [await requests.list_for_user(env.app.ledger, user) for user in (1, 2, 3, 4)]
    assert [len(found) for found in owners] == [1, 1, 0, 0]


@pytest.mark.slow
async def test_a_lost_reply_blocks_nothing(front):
    """A reply that Telegram does not accept is dropped: its update is done, and the next one is handled."""
    refused = Fault.refused(403, "Forbidden: bot was blocked by the user")
    for fault in (Fault.server_error(), Fault.drop(), refused):
        front.api.fail("sendMessage", fault)
        await front.user().send("/help")
        await wait_for_confirmed(front)
    await front.user().send("/status")
    assert await wait_for_texts(front, 1) == [EN("status_none")]
    assert len(front.api.calls.of("sendMessage")) == 4


@pytest.mark.slow
async def test_status_agrees_with_the_ledger(app_env):
    """/status and /history show the state in the ledger: in progress, then delivered."""
    env = await app_env(changes={"approval": "always"})
    ana = env.user()
    await ana.send("/create a market")
    await wait_for_state(env, VideoState.AWAITING_APPROVAL)
    await ana.send("/status")
    status = await ana.wait_for(lambda bubble: EN("state_AWAITING_APPROVAL") in bubble.text)
    offer = await ana.wait_for(is_offer)
    await ana.tap(offer.id, offer.button_texts[0])
    await wait_for_state(env, VideoState.DELIVERED)
    await ana.send("/status")
    await ana.wait_for(lambda bubble: bubble.text == EN("status_none"))
    await ana.send("/history")
    await ana.wait_for(lambda bubble: EN("state_DELIVERED") in bubble.text and bubble.id > status.id)
    await ana.send("/cancel " + (await env.latest())[0].short_id)
    await ana.wait_for(lambda bubble: "cannot be cancelled" in bubble.text)
    await ana.send("/quota")
    await ana.wait_for(lambda bubble: "1 of 5" in bubble.text and str(PRICE) in bubble.text)
