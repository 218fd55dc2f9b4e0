"""/stats: the ledger's figures for admins, in their language, switched by buttons."""

import pytest

from chat.i18n import LANGUAGES, translator
from evals.environment import PRICE
from guardrails.money import Money
from tests.support.app_harness import chat_only

pytestmark = pytest.mark.representative

EVA, ANA = 1, 1001
languages = pytest.mark.parametrize("language", LANGUAGES)


def figures(t, period, **values):
    """Return the text of these figures; what is not named is nothing."""
    money = dict.fromkeys(("charged", "refunded", "paid", "reserved"), Money(0))
    counts = dict.fromkeys(("videos", "commands", "refused", "on_hold"), 0)
    text = t("stats", period=period, **{**money, **counts, **values})
    return text.replace("<b>", "").replace("</b>", "")


@pytest.mark.slow
async def test_the_figures_are_the_ledgers(app_env):
    """A video that was charged, an idea that was refused, and an order on HOLD."""
    env = await app_env(
        shape="openai", fake_provider_options={"listing": False}, settings={"admins": frozenset({EVA})}
    )
    t = translator("en")
    await env.create()
    await env.create("Rambo fights a dragon", user_id=1002)
    env.fake_provider.script("drop")
    await env.user(1003, "Cleo").send("/create a quiet market at dawn")
    await env.user(1003, "Cleo").wait_for(lambda one: t("hold_in_doubt") in one.text, 20)
    eva = env.user(EVA, "Eva")
    await eva.send("/stats")
    expected = figures(
        t, "Today", videos=1, commands=3, charged=PRICE, paid=PRICE, reserved=PRICE, refused=1, on_hold=1
    )
    await eva.wait_for(lambda one: one.text == expected)


@languages
async def test_buttons_switch_the_period(app_env, language):
    """In the same message; the shown period is marked."""
    env = await app_env(wake=chat_only, settings={"admins": frozenset({EVA})})
    eva, t = env.user(EVA, "Eva", language), translator(language)
    await eva.send("/stats")
    shown = await eva.wait_for(lambda one: one.text == figures(t, t("button_today")))
    assert shown.button_texts == [f"✓ {t('button_today')}", t.days(7), t.days(30)]
    for days in (30, 7):
        await eva.wait_for_answer(await eva.tap(shown.id, t.days(days)))
        found = await eva.wait_for(lambda one, days=days: one.text == figures(t, t.days(days)))
        assert found.id == shown.id
        assert f"✓ {t.days(days)}" in found.button_texts


async def test_a_tap_of_another_person_shows_nothing(app_env):
    """Neither does a period that is not on offer."""
    env = await app_env(wake=chat_only, settings={"admins": frozenset({EVA})})
    t = translator("en")
    await env.user(EVA, "Eva").send("/stats")
    shown = await env.user(EVA).wait_for(lambda one: "Charged" in one.text)
    keyboard = env.api.world.messages.find(EVA, shown.id)["reply_markup"]
    ana = env.user(ANA)
    await ana.send("/start")
    await ana.wait_for(lambda one: not one.mine)
    sent = await env.app.bot.send_message(ANA, "x")
    env.api.world.messages.find(ANA, sent.message_id)["reply_markup"] = keyboard
    answer = await ana.wait_for_answer(await ana.tap(sent.message_id, t.days(7)))
    assert answer["text"] == t("tap_operators")
    assert "Charged" not in ana.history()[-1].text
    keyboard["inline_keyboard"][0][1]["callback_data"] = "stats:400"
    answer = await env.user(EVA).wait_for_answer(await env.user(EVA).tap(shown.id, "stats:400"))
    assert answer["text"] == t("tap_gone")
