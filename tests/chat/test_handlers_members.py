"""Invitations let people in, bans keep them out: in every process, in words that are true."""

import pytest
from aiogram.types import InlineQuery, Update

from chat.access import Access
from chat.dispatcher import build_dispatcher
from chat.i18n import LANGUAGES, translator
from ledger import members
from ledger.models import RequestState, VideoState
from tests.support.app_harness import (
    APPROVE,
    GROUP,
    chat_only,
    count_requests,
    forget_answers,
    offer_of,
    sent_texts,
    wait_for_confirmed,
    wait_for_state,
    wait_for_texts,
)
from tests.support.crash_env import is_offer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.representative

EVA, ANA, BEN = 1, 1001, 1002
CREATE = "/create a quiet market at dawn"
languages = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture
async def by_invitation(app_env):
    """Handlers of a bot that is open by invitation, and its admin, who has pressed Start."""
    env = await app_env(wake=chat_only, settings={"admins": frozenset({EVA}), "access": "invite"})
    await env.user(EVA, "Eva").send("/start")
    await wait_for_texts(env, 1, EVA)
    return env


async def link_of(env, command="/invite", language="en"):
    """Let the admin make an invitation; return its link, the message, and the admin."""
    eva = env.user(EVA)
    eva.speak(language)
    await eva.send(command)
    bubble = await eva.wait_for(lambda one: not one.mine and "?start=inv_" in one.text)
    return next(word for word in bubble.text.split() if "?start=inv_" in word), bubble, eva


@languages
async def test_an_invitation_lets_its_person_in(by_invitation, language):
    """Before it they read how to get in; it is used once, and the next person reads that it is used up."""
    env, t = by_invitation, translator(language)
    link, _, _ = await link_of(env)
    ana, ben = env.user(ANA, language=language), env.user(BEN, "Ben", language)
    await ana.send(CREATE)
    assert await wait_for_texts(env, 1, ANA) == [t("not_invited", user_id=ANA)]
    assert await count_requests(env) == 0
    for _ in range(3):
        await ana.follow(link)
    await ana.wait_for(lambda one: t("button_prices") in one.button_texts)
    await ana.send("/status")
    await ana.wait_for(lambda one: one.text == t("status_none"))
    await ben.follow(link)
    assert await wait_for_texts(env, 1, BEN) == [t("invite_used_up")]
    await ben.start("inv_of_another")
    assert (await wait_for_texts(env, 2, BEN))[1] == t("invite_no_invite")
    again = Access(env.app.ledger, frozenset(), frozenset(), "invite", lambda *_: None)  # as after a restart
    assert [await again.of(one) for one in (ANA, BEN)] == ["allowed", "stranger"]


@languages
async def test_an_invitation_is_made_in_words_and_can_be_ended(by_invitation, language):
    """`/invite N days` says both; delivered again it is the same link; its button ends it."""
    env, t = by_invitation, translator(language)
    link, bubble, eva = await link_of(env, "/invite 3 30", language)
    assert bubble.text == t("invite_made", link=link, count=3, span=t.days(30))
    await wait_for_confirmed(env)
    await forget_answers(env)
    await env.api.redeliver(eva.last_update.id)
    await wait_for_texts(env, 3, EVA)
    assert sent_texts(env, EVA)[1] == sent_texts(env, EVA)[2]
    await env.user(ANA).follow(link)
    await env.user(ANA).wait_for(lambda one: not one.mine)
    tapped = await eva.wait_for_answer(await eva.tap(bubble.id, t("button_end_invite")))
    assert tapped["text"] == t("invite_ended")
    await env.user(BEN, "Ben", language).follow(link)
    assert await wait_for_texts(env, 1, BEN) == [t("invite_expired")]
    assert await members.membership(env.app.ledger, ANA) == "member"


@pytest.mark.parametrize("numbers", ["0", "1 0", "two", "1001", "1 366", "1 2 3", "-1"])
async def test_an_invitation_within_bounds_only(by_invitation, numbers):
    eva, t = by_invitation.user(EVA), translator("en")
    await eva.send(f"/invite {numbers}")
    assert t.days(365) == "365 days"
    await eva.wait_for(lambda one: "/invite 10 30" in one.text and "365 days" in one.text)


@pytest.mark.parametrize("command", ["/invite", "/ban 1002", "/unban 1002", "/stats"])
async def test_admins_alone(app_env, command):
    """Everyone else reads that they may not; in a group, where others read, an admin gets a link."""
    env = await app_env(wake=chat_only, settings={"admins": frozenset({EVA})})
    t = translator("en")
    await env.user(ANA).send(command)
    assert await wait_for_texts(env, 1, ANA) == [t("operators_only")]
    group = env.api.group(GROUP)
    env.user(EVA, "Eva")
    await env.user(EVA).send(command, chat=group)
    assert await wait_for_texts(env, 1, group) == [t("in_private")]
    assert await members.membership(env.app.ledger, BEN) == "unknown"


@pytest.fixture
async def asking(app_env):
    """The whole app, which asks for a tap, and its admin."""
    env = await app_env(changes={"approval": "always"}, settings={"admins": frozenset({EVA})})
    await env.user(EVA, "Eva").send("/start")
    return env


async def ban(env, command=f"/ban {ANA} spam"):
    eva = env.user(EVA)
    await eva.send(command)
    return await eva.wait_for(lambda one: not one.mine and str(ANA) in one.text)


@pytest.mark.slow
@languages
async def test_a_ban_ends_what_is_not_paid(asking, language):
    """The offer is withdrawn in words, a tap on it orders nothing, and the person is told once an hour."""
    env, t = asking, translator(language)
    ana = env.user(ANA, language=language)
    await ana.send(CREATE)
    offer = await ana.wait_for(is_offer)
    await wait_for_state(env, VideoState.AWAITING_APPROVAL)
    said = await ban(env)
    assert said.text.startswith(f"{ANA} is banned")
    assert "1 unpaid" in said.text
    await ana.wait_for(lambda one: t("cancelled_banned") in one.text)
    await wait_for_state(env, VideoState.CANCELLED)
    assert not next(one for one in ana.history() if one.id == offer.id).buttons
    before = len(sent_texts(env, ANA))
    for text in (CREATE, "/status", "hello you there"):
        await ana.send(text)
    await wait_for_confirmed(env)
    assert sent_texts(env, ANA)[before:] == [t("banned")]
    assert await count_requests(env) == 1
    assert env.fake_provider.posts() == []


@pytest.mark.slow
async def test_a_banned_persons_tap_orders_nothing(asking):
    """It is answered, however often; the offer would have been theirs to tap."""
    offer = await offer_of(asking, ANA)
    asking.app.chat.access.set(ANA, "banned")  # another process has banned them a moment ago
    ana = asking.user(ANA)
    for _ in range(2):
        answer = await ana.wait_for_answer(await ana.tap(offer.id, offer.button_texts[0]))
        assert answer["text"] == translator("en")("banned")
    assert (await asking.latest(ANA))[1].state is VideoState.AWAITING_APPROVAL


@pytest.mark.slow
async def test_what_is_paid_is_delivered_to_a_banned_person(asking):
    """Their money is not the operator's to keep."""
    env = asking
    env.fake_provider.polls = 30
    offer = await offer_of(env, ANA)
    ana = env.user(ANA)
    await ana.tap(offer.id, APPROVE)
    await wait_for_state(env, VideoState.ACCEPTED, ANA)
    said = await ban(env)
    assert "0 unpaid" in said.text
    env.fake_provider.polls = 1
    await ana.wait_for(lambda one: one.media is not None, 30)
    await wait_for_state(env, VideoState.DELIVERED, ANA)
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_what_was_opened_while_the_ban_was_on_its_way_ends_too(asking):
    """Another process may let a person in for some seconds; its request is found and cancelled."""
    env = asking
    await members.ban(env.app.ledger, ANA, "admin:1", "")  # as another process does
    env.app.chat.access.set(ANA, "unknown")  # what this one still believes
    await env.user(ANA).send(CREATE)

    async def ended():
        found = await env.latest(ANA)
        return found is not None and (found[1] or found[0]).state in (
            RequestState.CANCELLED, VideoState.CANCELLED,
        )  # fmt: skip

    await wait_until(ended, 20, "the end of the request")
    assert env.fake_provider.posts() == []


async def test_a_ban_holds_in_another_process_within_seconds(front, monkeypatch):
    """What a process knows of a person is read again after five seconds."""
    access = Access(front.app.ledger, frozenset(), frozenset(), "open", lambda *_: None)
    assert await access.of(ANA) == "allowed"
    await members.ban(front.app.ledger, ANA, "admin:1", "")
    assert await access.of(ANA) == "allowed"
    monkeypatch.setattr("chat.access._KEPT_S", -1)  # they have passed
    assert await access.of(ANA) == "banned"
    assert not await front.app.chat.may_use(ANA)
    assert await front.app.chat.may_use(BEN)


async def test_a_ban_is_lifted(asking):
    """By the #id of a request as well as by the number; the person is answered again."""
    env, t = asking, translator("en")
    await offer_of(env, ANA)
    request, _ = await env.latest(ANA)
    await ban(env, f"/ban #{request.short_id}")
    assert await members.membership(env.app.ledger, ANA) == "banned"
    eva = env.user(EVA)
    await eva.send(f"/ban {ANA}")
    await eva.wait_for(lambda one: one.text == t("ban_already", user_id=ANA))
    await eva.send(f"/unban {ANA}")
    await eva.wait_for(lambda one: one.text == t("unban_done", user_id=ANA))
    await eva.send(f"/unban {ANA}")
    await eva.wait_for(lambda one: one.text == t("unban_none", user_id=ANA))
    await env.user(ANA).send("/history")
    await env.user(ANA).wait_for(lambda one: f"#{request.short_id}" in one.text and "cancelled" in one.text)


@pytest.mark.parametrize("command", ["/ban", "/ban @ana", "/ban #ffffff", "/ban -5", "/unban", "/unban x"])
async def test_a_ban_needs_a_person(asking, command):
    eva = asking.user(EVA)
    await eva.send(command)
    await eva.wait_for(lambda one: not one.mine and "A user is a Telegram ID" in one.text)


async def test_an_admin_cannot_be_banned(asking):
    eva = asking.user(EVA)
    await eva.send(f"/ban {EVA}")
    await eva.wait_for(lambda one: one.text == translator("en")("ban_admin"))
    await eva.send("/stats")
    await eva.wait_for(lambda one: "Charged" in one.text)


async def test_inline_queries_of_a_banned_person_find_nothing(front):
    """They get no result. Checkouts are refused by `chat.handlers.payments`."""
    env, bot, ctx = front, front.app.bot, front.app.chat
    await members.ban(env.app.ledger, ANA, "admin:1", "")
    dispatcher, handled = build_dispatcher(ctx), []
    dispatcher.inline_query.register(handled.append)
    sender = {"id": ANA, "is_bot": False, "first_name": "Ana", "language_code": "es"}
    inline = InlineQuery(id="1", from_user=sender, query="", offset="").as_(bot)
    await dispatcher.feed_update(bot, Update(update_id=1, inline_query=inline))
    assert handled == []
    assert env.api.calls.of("answerInlineQuery")[-1].params["results"] == "[]"
