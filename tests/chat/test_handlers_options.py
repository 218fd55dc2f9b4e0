"""[Options] under an offer, through the Bot API: what is shown, chosen, ordered, kept, and taken back."""

import asyncio

import pytest
from sqlalchemy import update

from chat.i18n import LANGUAGES, translator
from evals.environment import PRICE
from guardrails.money import Money
from ledger import people
from ledger.models import VideoState
from ledger.schema import videos
from tests.support.app_harness import APPROVE, GROUP, offer_of, wait_for_state
from tests.support.crash_env import is_offer
from tools.styles import STYLES

EN = translator("en")
CHEAP, DEAR = Money.parse("$0.40"), Money.parse("$1.20")
WAIT_S = 30
languages = pytest.mark.parametrize("language", LANGUAGES)
pytestmark = pytest.mark.slow


@pytest.fixture(name="env")
async def app_that_asks(app_env):
    """An app that asks for a tap, without a pause between orders."""
    return await app_env(changes={"approval": "always", "cooldown": None})


def length(t, seconds: int, price: Money) -> str:
    return t("option_seconds", seconds=seconds, price=price)


async def tapped(person, bubble, text: str) -> str:
    """Tap a button, and return what the tap is answered with."""
    return (await person.wait_for_answer(await person.tap(bubble.id, text)))["text"]


async def with_buttons(person, offer, *texts: str):
    """Wait until the offer has these buttons."""
    return await person.wait_for(
        lambda bubble: bubble.id == offer.id and set(texts) <= set(bubble.button_texts), WAIT_S
    )


async def opened(person, t, offer):
    await tapped(person, offer, t("button_options"))
    return await with_buttons(person, offer, t("button_fewer"))


async def ask(person, idea: str = "a quiet market at dawn", after: int = 0):
    await person.send(f"/create {idea}")
    return await person.wait_for(lambda bubble: is_offer(bubble) and bubble.id > after, WAIT_S)


@languages
async def test_a_person_chooses_and_gets_that(env, language):
    """Every option is a tap with a mark; the price is on [Make it], and that is what is paid and sent."""
    ana, t = env.user(language=language), translator(language)
    offer = await opened(ana, t, await ask(ana))
    assert offer.button_texts == [
        t("button_make", price=PRICE),
        length(t, 4, CHEAP), f"✓ {length(t, 8, PRICE)}", length(t, 12, DEAR),
        f"✓ {t('shape_upright')}", t("shape_wide"),
        *(t(f"style_{word}") for word in STYLES),
        t("button_fewer"), t("button_change"), t("button_cancel"),
    ]  # fmt: skip
    assert all(len(button.data.encode()) <= 64 for row in offer.buttons for button in row)
    assert await tapped(ana, offer, length(t, 12, DEAR)) == t("tap_chosen", price=DEAR)
    offer = await with_buttons(ana, offer, t("button_make", price=DEAR), f"✓ {length(t, 12, DEAR)}")
    assert await tapped(ana, offer, t("shape_wide")) == t("tap_chosen", price=DEAR)
    assert await tapped(ana, offer, t("style_watercolour")) == t("tap_chosen", price=DEAR)
    style = t("offer_style", style=t("style_watercolour"))
    offer = await ana.wait_for(
        lambda bubble: style in bubble.text and f"✓ {t('shape_wide')}" in bubble.button_texts, WAIT_S
    )
    assert t("offer_seconds", seconds=12) in offer.text
    assert t("offer_changed", price=PRICE) not in offer.text
    assert STYLES["watercolour"] not in offer.text
    assert env.fake_provider.posts() == []
    assert await tapped(ana, offer, t("button_make", price=DEAR)) == t("tap_approved")
    await wait_for_state(env, VideoState.DELIVERED, seconds=WAIT_S)
    assert list(env.fake_provider.net().values()) == [DEAR.micros]
    (post,) = env.fake_provider.posts()
    assert STYLES["watercolour"] in post["body"]
    assert '"seconds":12,"resolution":"720p","aspect_ratio":"16:9"' in post["body"]


@languages
async def test_the_last_choice_is_the_next_offer(env, language):
    """Kept for the next offer unless its idea says otherwise; shown in /settings, and taken back there."""
    ana, t = env.user(language=language), translator(language)
    offer = await opened(ana, t, await ask(ana))
    await tapped(ana, offer, length(t, 4, CHEAP))
    await tapped(ana, offer, t("style_anime"))
    offer = await with_buttons(ana, offer, t("button_make", price=CHEAP), f"✓ {t('style_anime')}")
    await tapped(ana, offer, t("button_make", price=CHEAP))
    await wait_for_state(env, VideoState.DELIVERED, seconds=WAIT_S)
    second = await ask(ana, "a quiet market at noon", offer.id)
    assert t("button_make", price=CHEAP) in second.button_texts
    assert t("offer_style", style=t("style_anime")) in second.text
    third = await ask(ana, "a market in watercolour, 12 seconds", second.id)
    assert t("button_make", price=DEAR) in third.button_texts
    assert t("offer_style", style=t("style_anime")) not in third.text
    await ana.send("/settings")
    usual = f"{t('offer_seconds', seconds=4)} · {t('style_anime')}"
    menu = await ana.wait_for(lambda bubble: t("settings_usual", usual=usual) in bubble.text, WAIT_S)
    assert await tapped(ana, menu, t("button_forget_usual")) == t("tap_saved")
    menu = await ana.wait_for(
        lambda bubble: bubble.id == menu.id and t("settings_no_usual") in bubble.text, WAIT_S
    )
    assert t("button_forget_usual") not in menu.button_texts
    assert t("button_make", price=PRICE) in (await ask(ana, "a market at night", menu.id)).button_texts


@languages
async def test_an_old_button_orders_nothing_and_says_why(env, language):
    """[Make it] from before a choice: the offer has changed. [Cancel] from before it cancels all the same."""
    ana, t = env.user(language=language), translator(language)
    offer = await opened(ana, t, await ask(ana))
    make, cancel = offer.buttons[0][0].data, offer.buttons[-1][-1].data
    await tapped(ana, offer, length(t, 12, DEAR))
    await with_buttons(ana, offer, t("button_make", price=DEAR))
    assert await old_tap(env, ana, offer, make) == t("tap_changed")
    assert (await env.latest())[1].state is VideoState.AWAITING_APPROVAL
    assert await old_tap(env, ana, offer, cancel) == t("tap_done")
    await wait_for_state(env, VideoState.CANCELLED, seconds=WAIT_S)
    assert env.fake_provider.posts() == []


async def old_tap(env, person, offer, data: str) -> str:
    """Tap a button that the message had before."""
    number = f"old-{data}"
    message = env.api.world.messages.find(person.id, offer.id)
    query = {
        "id": number, "from": person.user.user(), "chat_instance": "1", "data": data, "message": message,
    }  # fmt: skip
    env.api.world.updates.push("callback_query", query, f"tap:{person.id}", 60)
    call = await env.api.calls.wait_for(lambda one: one.params.get("callback_query_id") == number)
    return call.params["text"]


@languages
async def test_what_costs_more_than_is_left_says_so(app_env, language):
    """The choice is made and said, on the offer too; [Make it] refuses it, and a cheaper choice is made."""
    changes = {"approval": "always", "cooldown": None, "budget": "{user: $1/day, everyone: $100/day}"}
    env = await app_env(changes=changes)
    ana, t = env.user(language=language), translator(language)
    offer = await opened(ana, t, await ask(ana))
    assert await tapped(ana, offer, length(t, 12, DEAR)) == t("tap_costs_more", price=DEAR)
    offer = await with_buttons(ana, offer, t("button_make", price=DEAR))
    over = t("offer_over", left=Money.parse("$1"), within=t.within(86_400))
    assert over in offer.text
    assert await tapped(ana, offer, t("button_make", price=DEAR)) not in (t("tap_approved"), t("tap_changed"))
    assert (await env.latest())[1].state is VideoState.AWAITING_APPROVAL
    await tapped(ana, offer, length(t, 4, CHEAP))
    offer = await with_buttons(ana, offer, t("button_make", price=CHEAP))
    assert over not in offer.text
    assert await tapped(ana, offer, t("button_make", price=CHEAP)) == t("tap_approved")


@languages
async def test_a_tap_on_an_ended_offer_is_answered(env, language):
    """It has expired: nothing changes, and each tap gets its answer."""
    ana, t = env.user(language=language), translator(language)
    offer = await opened(ana, t, await ask(ana))
    data = offer.buttons[1][0].data
    async with env.app.ledger.write() as conn:
        await conn.execute(update(videos).values(expires_at=1))
    assert await old_tap(env, ana, offer, data) == t("tap_gone")
    made_up = await old_tap(env, ana, offer, f"{data.rpartition(':')[0]}:5")
    assert made_up == t("tap_gone")
    assert (await env.latest())[1].seconds == 8


@languages
async def test_what_was_never_offered_is_refused(env, language):
    """A length, a shape, a style or an option of one's own: the button names only what was offered."""
    ana, t = env.user(language=language), translator(language)
    offer = await opened(ana, t, await ask(ana))
    name = offer.buttons[1][0].data.split(":")[1]
    for made_up in ("seconds:5", "shape:square", "style:cubism", "sound:0", "price:1", "seconds"):
        assert await old_tap(env, ana, offer, f"opt:{name}:{made_up}") == t("tap_not_offered")
    assert await tapped(ana, offer, t("button_make", price=PRICE)) == t("tap_approved")


async def test_in_a_group_the_asker_alone_chooses(env):
    """Another member's tap is answered, and changes nothing."""
    ana, eva = env.user(), env.user(2, "Eva")
    env.api.group(GROUP)
    await ana.send("/create a quiet market at dawn", chat=GROUP)
    offer = await ana.wait_for(is_offer, WAIT_S, chat=GROUP)
    data = next(button.data for row in offer.buttons for button in row if button.text == EN("button_options"))
    query = {"id": "eva", "from": eva.user.user(), "chat_instance": "1", "data": data}
    env.api.world.updates.push("callback_query", query, "tap:2", 60)
    call = await env.api.calls.wait_for(lambda one: one.params.get("callback_query_id") == "eva")
    assert call.params["text"] == EN("tap_not_yours")
    assert (await env.latest())[1].options_open == 0


@pytest.mark.parametrize("first", ["option", "make"])
async def test_a_choice_against_make_it_never_pays_another_price(env, first):
    """Two taps at once: what is paid is the price on the button that was tapped, or nothing is."""
    ana = env.user()
    offer = await opened(ana, EN, await ask(ana))
    texts = [length(EN, 12, DEAR), APPROVE]
    queries = [await ana.tap(offer.id, text) for text in (texts if first == "option" else reversed(texts))]
    said = {(await ana.wait_for_answer(query))["text"] for query in queries}
    video = (await env.latest())[1]
    if EN("tap_approved") in said:
        await wait_for_state(env, VideoState.DELIVERED, seconds=WAIT_S)
        assert list(env.fake_provider.net().values()) == [PRICE.micros]
    else:
        assert said == {EN("tap_chosen", price=DEAR), EN("tap_changed")}
        assert (video.state, video.quote) == (VideoState.AWAITING_APPROVAL, DEAR)
        assert env.fake_provider.posts() == []


async def test_two_choices_at_once_are_both_made(env):
    """Each tap is answered once, and the offer shows both with one price."""
    ana = env.user()
    offer = await opened(ana, EN, await ask(ana))
    queries = [await ana.tap(offer.id, text) for text in (length(EN, 4, CHEAP), EN("shape_wide"))]
    await asyncio.gather(*(ana.wait_for_answer(query) for query in queries))
    offer = await with_buttons(ana, offer, f"✓ {length(EN, 4, CHEAP)}", f"✓ {EN('shape_wide')}")
    assert EN("button_make", price=CHEAP) in offer.button_texts


async def test_the_offer_of_an_app_that_never_asks_is_made_as_usual(app_env):
    """Without offers, the usual choices reach the order all the same."""
    env = await app_env(changes={"cooldown": None})
    await people.save(env.app.ledger, 1001, default_seconds=4, default_size="1280x720")
    await env.user().send("/create a quiet market at dawn")
    await wait_for_state(env, VideoState.DELIVERED, seconds=WAIT_S)
    assert list(env.fake_provider.net().values()) == [CHEAP.micros]


async def test_hidden_again(env):
    """[Hide options] brings back the short keyboard with the same price."""
    ana = env.user()
    offer = await offer_of(env)
    shown = await opened(ana, EN, offer)
    assert await tapped(ana, shown, EN("button_fewer")) == EN("tap_done")
    short = await with_buttons(ana, offer, EN("button_options"))
    assert short.button_texts == offer.button_texts
