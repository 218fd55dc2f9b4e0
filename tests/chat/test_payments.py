"""Credits for Telegram Stars, as a person buys, uses and returns them; and as an admin gives them."""

import asyncio

import pytest
from sqlalchemy import select

from chat import star_payments as settling
from chat.dispatcher import publish_menu
from chat.handlers import payments
from chat.handlers.payments import STAR_MENU
from chat.i18n import LANGUAGES, translator
from chat.star_shop import Pack, new_payload
from evals.environment import PRICE
from ledger import breaker, people, requests, star_payments, transitions, video_credits
from ledger.models import Credit, VideoState
from ledger.schema import star_payments as rows
from ledger.video_credits import Balance
from sandbox.telegram import Fault
from telemetry import failpoints
from telemetry.failpoints import PAYMENT_POINTS
from tests.support.app_harness import (
    GROUP,
    chat_only,
    post_update,
    sent_texts,
    serve_webhook,
    wait_for_state,
    wait_for_texts,
)
from tests.support.counters import held_by
from tests.support.waiting import wait_until

pytestmark = pytest.mark.representative

ANA, ADMIN = 1001, 9001
PACK = Pack(3, 750)
ON = {"stars": "on", "admins": frozenset({ADMIN})}
languages = pytest.mark.parametrize("language", LANGUAGES)


@pytest.fixture(name="shop")
async def handlers_of_a_shop(app_env):
    """An app of which only the handlers run, with credits on sale; Telegram's clock is not scaled."""
    return await app_env(wake=chat_only, settings=ON, clock_scale=1)


@pytest.fixture(autouse=True)
def patient_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no provider that does not answer."""
    monkeypatch.setattr(payments, "CHECKS_S", 8.0)


async def idle():
    """Do nothing: updates come by a webhook of the test."""
    await asyncio.Event().wait()


@pytest.fixture(name="hooked")
async def handlers_behind_a_webhook(app_env):
    env = await app_env(wake=lambda _: (idle(),), settings=ON, clock_scale=1)
    for user_id in (ANA, ADMIN):
        env.user(user_id)
        env.api.world.chats.users[user_id].started = True
    return env


async def shown(person, text: str):
    """Return the bot's message with this text."""
    return await person.wait_for(lambda bubble: not bubble.mine and text in bubble.text)


async def invoice_of(person, t, pack: Pack = PACK):
    """Send /buy, tap a pack, and return its invoice."""
    known = {one.id for one in person.history() if one.invoice}
    await person.send("/buy")
    menu = await person.wait_for(lambda bubble: t("button_pack", count=25, stars=5700) in bubble.button_texts)
    await person.wait_for_answer(
        await person.tap(menu.id, t("button_pack", count=pack.credits, stars=pack.stars))
    )
    return await person.wait_for(lambda bubble: bubble.invoice is not None and bubble.id not in known)


async def pay(person, t, pack: Pack = PACK) -> str:
    """Buy a pack; return the charge id."""
    invoice = await invoice_of(person, t, pack)
    outcome = await person.wait_for_payment(await person.pay(invoice.id))
    assert outcome["ok"], outcome
    return outcome["charge_id"]


async def balance(env, user_id: int = ANA) -> Balance:
    return await video_credits.balance(env.app.ledger, user_id)


async def wait_for_left(env, left: int, user_id: int = ANA) -> None:
    async def check() -> bool:
        return (await balance(env, user_id)).left == left

    await wait_until(check, 20, f"{left} credits")


async def stored(env):
    async with env.app.ledger.read() as conn:
        return (await conn.execute(select(rows).order_by(rows.c.at))).all()


@languages
async def test_a_pack_is_bought(shop, language):
    """/buy, a pack, its invoice, the payment, the words; /balance says the same."""
    ana, t = shop.user(language=language), translator(language)
    await pay(ana, t)
    await shown(ana, plain(t("credits_paid", count=3, stars=750, left=3)))
    assert await balance(shop) == Balance(bought=3)
    await ana.send("/balance")
    await shown(ana, plain(t("balance_left", count=3)))
    await ana.send("/terms")
    await shown(ana, "21")
    await ana.send("/quota")
    await shown(ana, plain(t("quota_credits", count=3)))


def plain(html: str) -> str:
    return html.replace("<b>", "").replace("</b>", "")


async def refused(person, invoice) -> str:
    outcome = await person.wait_for_payment(await person.pay(invoice.id))
    assert not outcome["ok"]
    return outcome["error"]


@languages
async def test_checkout_refuses_in_true_words(shop, language, monkeypatch):
    """Another price, a breaker, a provider that does not answer, a ban, a store that is away, no shop."""
    ana, t, ctx = shop.user(language=language), translator(language), shop.app.chat
    invoice = await invoice_of(ana, t)

    async def away() -> None:
        raise ConnectionError

    async def slow(*_: object) -> bool:
        await asyncio.sleep(60)
        return False

    cases = []
    with monkeypatch.context() as changed:
        changed.setattr(type(shop.app.chat.providers[ctx.offer.account]), "check", lambda _: away())
        cases.append((await refused(ana, invoice), "pay_provider"))
    await breaker.open_scope(ctx.ledger, f"user:{ANA}", "admin:1", "a test")
    cases.append((await refused(ana, invoice), "pay_breaker"))
    await breaker.close(ctx.ledger, f"user:{ANA}", "admin:1")
    with monkeypatch.context() as changed:
        changed.setattr(breaker, "stops", slow)
        changed.setattr(payments, "CHECKS_S", 0.5)
        cases.append((await refused(ana, invoice), "pay_closed"))
    with monkeypatch.context() as changed:
        changed.setattr(type(ctx.access), "of", _banned)
        cases.append((await refused(ana, invoice), "pay_not_allowed"))
    shop_now = ctx.stars
    object.__setattr__(ctx, "stars", type(shop_now)((Pack(3, 751), *shop_now.packs[1:]), shop_now.prices_of))
    cases.append((await refused(ana, invoice), "pay_changed"))
    object.__setattr__(ctx, "stars", None)
    cases.append((await refused(ana, invoice), "pay_off"))
    object.__setattr__(ctx, "stars", shop_now)
    assert [said for said, _ in cases] == [t(name) for _, name in cases]
    assert await stored(shop) == []
    outcome = await ana.wait_for_payment(await ana.pay(invoice.id))
    assert outcome["ok"], "and made, once nothing refuses"


@languages
async def test_an_invoice_is_for_one_person(shop, language):
    """Whoever else opens it pays nothing."""
    ben, t = shop.user(1002, "Ben", language), translator(language)
    await ben.send("/balance")
    link = await shop.app.bot.create_invoice_link(
        title="x", description="x", payload=new_payload(PACK, ANA), currency="XTR", provider_token="",
        prices=[{"label": "x", "amount": PACK.stars}],
    )  # fmt: skip
    outcome = await ben.wait_for_payment(await ben.pay_link(link))
    assert (outcome["ok"], outcome["error"]) == (False, t("pay_other_person"))


@languages
async def test_an_invoice_paid_twice_is_credited_twice(shop, language):
    """Each payment is a row; the second says what happened and how to undo it."""
    ana, t = shop.user(language=language), translator(language)
    invoice = await invoice_of(ana, t)
    for _ in range(2):
        assert (await ana.wait_for_payment(await ana.pay(invoice.id)))["ok"]
    await shown(ana, plain(t("credits_paid_again", count=3, stars=750, left=6)))
    assert [row.credits for row in await stored(shop)] == [3, 3]


async def test_thirteen_deliveries_at_two_replicas(hooked):
    """One row, one lot, one word, whichever process gets them and however they overlap."""
    env, t = hooked, translator("en")
    async with serve_webhook(env, announce=False) as first, serve_webhook(env, announce=False) as second:
        update_ = payment_update(env)
        status = await asyncio.gather(*(post_update(one, update_) for one in [first, second] * 6 + [first]))
    assert set(status) == {200}
    assert await balance(env) == Balance(bought=3)
    assert sent_texts(env) == [t("credits_paid", count=3, stars=750, left=3)]


def payment_update(env, charge: str = "stx1", kind: str = "successful_payment", **more) -> dict:
    about = {
        "currency": "XTR", "total_amount": PACK.stars, "telegram_payment_charge_id": charge,
        "invoice_payload": PAYLOAD, **more,
    }  # fmt: skip
    if kind == "successful_payment":
        about["provider_payment_charge_id"] = "p"
    message = {
        "message_id": 77, "date": int(env.api.world.clock.now()),
        "chat": {"id": ANA, "type": "private", "first_name": "A"},
        "from": {"id": ANA, "is_bot": False, "first_name": "Ana", "language_code": "en"}, kind: about,
    }  # fmt: skip
    return {"update_id": 1, "message": message}


PAYLOAD = new_payload(PACK, ANA)


class KilledAt:
    """A process that ends at one failpoint, once."""

    def __init__(self, point: str) -> None:
        self.point, self.reached = point, 0

    async def was_reached(self) -> bool:
        return self.reached > 0

    async def __call__(self, point: str) -> None:
        if point == self.point:
            self.reached += 1
            if self.reached == 1:
                raise asyncio.CancelledError


@pytest.mark.parametrize("point", ["paid", "payment_stored", "notice_sent"])
async def test_killed_while_paid(hooked, monkeypatch, point):
    """Wherever the process ends, the redelivery leaves one payment and its word."""
    env, killed = hooked, KilledAt(point)
    monkeypatch.setattr(failpoints, "_failpoint_listeners", [killed])
    monkeypatch.setattr(video_credits, "_LEASE_MS", 0)
    async with serve_webhook(env, announce=False) as url:
        update_ = payment_update(env)
        with pytest.raises(Exception):  # noqa: B017, PT011 - the connection is cut in whatever way
            await post_update(url, update_)
        assert killed.reached == 1
        for _ in range(12):
            assert await post_update(url, update_) == 200
    assert await balance(env) == Balance(bought=3)
    # Between Telegram's answer and its record nobody knows that it was said: only there it is said twice.
    assert len(sent_texts(env)) == (2 if point == "notice_sent" else 1)


@pytest.mark.parametrize("point", ["refund_told", "refund_stored", "notice_sent"])
async def test_killed_while_told_of_a_refund(hooked, monkeypatch, point):
    """`refunded_payment` is honoured once, also of a payment that was never seen."""
    env, killed = hooked, KilledAt(point)
    monkeypatch.setattr(video_credits, "_LEASE_MS", 0)
    monkeypatch.setattr(failpoints, "_failpoint_listeners", [killed])
    async with serve_webhook(env, announce=False) as url:
        update_ = payment_update(env, kind="refunded_payment")
        with pytest.raises(Exception):  # noqa: B017, PT011 - as above
            await post_update(url, update_)
        for _ in range(12):
            assert await post_update(url, update_) == 200
    assert await balance(env) == Balance(bought=3, refunded=3)
    [row] = await stored(env)
    assert row.refund == "refunded"


def is_refund(button: str) -> bool:
    """Say whether this is [Refund], which has no dot as the packs on sale have."""
    return "750 ⭐" in button and "·" not in button


async def ask_refund(person, t):
    """Send /paysupport and tap [Refund]; return the answer to the tap."""
    await person.send("/paysupport")
    menu = await person.wait_for(lambda bubble: any(map(is_refund, bubble.button_texts)))
    button = next(filter(is_refund, menu.button_texts))
    return (await person.wait_for_answer(await person.tap(menu.id, button)))["text"]


@languages
async def test_a_pack_is_refunded(shop, language):
    """[Refund] gives the Stars back, takes the credits, and says so; nothing is left to refund."""
    ana, t = shop.user(language=language), translator(language)
    await pay(ana, t)
    await wait_for_left(shop, 3)
    assert await ask_refund(ana, t) == t("tap_refund_refunded")
    assert (await shop.app.bot.get_my_star_balance()).amount == 0
    assert await balance(shop) == Balance(bought=3, refunded=3)
    await shown(ana, plain(t("credits_refunded", count=3, stars=750, left=0)))
    await ana.send("/paysupport")
    await shown(ana, t("payment_refunded"))
    said = [
        text for text in sent_texts(shop, ANA) if text == t("credits_refunded", count=3, stars=750, left=0)
    ]
    assert len(said) == 1


@languages
async def test_telegram_refuses_a_refund(shop, language):
    """The credits are back, in words, because Telegram's own list shows no refund."""
    ana, t = shop.user(language=language), translator(language)
    await pay(ana, t)
    await wait_for_left(shop, 3)
    shop.api.fail("refundStarPayment", Fault.refused(400, "Bad Request: CHARGE_NOT_FOUND"), 1)
    assert await ask_refund(ana, t) == t("tap_refund_refused")
    assert await balance(shop) == Balance(bought=3)
    await shown(ana, plain(t("credits_refund_refused", count=3, stars=750, left=3)))


@pytest.mark.parametrize(
    "fault", [Fault.server_error(), Fault.lost_answer(), Fault.lost_answer("502"), Fault.drop()]
)
async def test_an_unclear_answer_is_asked_of_the_list(shop, monkeypatch, fault):
    """Whether Telegram refunded or not, it ends refunded once; meanwhile the credits cannot be used."""
    ana, t = shop.user(), translator("en")
    await pay(ana, t)
    await wait_for_left(shop, 3)
    shop.api.fail("refundStarPayment", fault, 1)
    said = await ask_refund(ana, t)
    assert said in (t("tap_refund_unclear"), t("tap_refund_refunded"))
    await wait_for_left(shop, 0)
    monkeypatch.setattr(shop.app.ledger, "shift", 61)
    await settling.settle_refunds(shop.app.chat)
    [row] = await stored(shop)
    assert (row.refund, row.refund_due_at) == ("refunded", None)
    assert (await shop.app.bot.get_my_star_balance()).amount == 0
    assert await balance(shop) == Balance(bought=3, refunded=3)
    calls = [one for one in shop.api.calls.of("refundStarPayment") if one.performed]
    assert len(calls) == 1


async def test_already_refunded_is_success(shop):
    """Telegram may say so although it was us; the row ends refunded."""
    ana, t = shop.user(), translator("en")
    charge = await pay(ana, t)
    await wait_for_left(shop, 3)
    shop.api.fail("refundStarPayment", Fault.refused(400, "Bad Request: CHARGE_ALREADY_REFUNDED"), 1)
    assert await ask_refund(ana, t) == t("tap_refund_refunded")
    [row] = await stored(shop)
    assert (row.charge_id, row.refund) == (charge, "refunded")


@pytest.mark.parametrize("point", ["refund_intended", "refund_answered", "refund_written", "notice_sent"])
async def test_killed_while_refunding(hooked, monkeypatch, point):
    """Wherever the process ends, another one brings the refund to its end: once, with its word."""
    env, killed = hooked, KilledAt(point)
    ana, t, ctx = env.user(), translator("en"), env.app.chat
    async with serve_webhook(env):
        await pay(ana, t)
        await wait_for_left(env, 3)
        await shown(ana, plain(t("credits_paid", count=3, stars=750, left=3)))
        # Telegram's own message about the refund is lost as well.
        monkeypatch.setattr(payments, "send_notices", nothing)
        monkeypatch.setattr(star_payments, "record_refunded", nothing)
        await ana.send("/paysupport")
        menu = await ana.wait_for(lambda bubble: any(map(is_refund, bubble.button_texts)))
        if point == "notice_sent":
            monkeypatch.setattr(payments, "send_notices", settling.send_notices)
        monkeypatch.setattr(failpoints, "_failpoint_listeners", [killed])
        await ana.tap(menu.id, menu.button_texts[0])
        await wait_until(killed.was_reached, 20, "the failpoint")
        monkeypatch.setattr(failpoints, "_failpoint_listeners", [])
        monkeypatch.setattr(env.app.ledger, "shift", 61)
        await asyncio.gather(*(settling.settle_refunds(ctx) for _ in range(2)))
        await settling.send_notices(ctx)
        await wait_for_left(env, 0)
    [row] = await stored(env)
    assert row.refund == "refunded"
    assert (await env.app.bot.get_my_star_balance()).amount == 0
    assert await balance(env) == Balance(bought=3, refunded=3)
    words = t("credits_refunded", count=3, stars=750, left=0)
    assert sent_texts(env, ANA).count(words) == (2 if point == "notice_sent" else 1)


async def never(*_: object, **__: object) -> None:
    """Begin no submit: the order waits unpaid."""
    return


async def is_held(env, request_id: str) -> bool:
    found = await requests.find_with_video(env.app.ledger, request_id)
    return found is not None and found[1] is not None and found[1].credit == Credit.HELD


async def nothing(*_: object, **__: object) -> None:
    return None


async def test_every_point_is_killed():
    """The three tests above and those of the comparison and of grants cover all points."""
    assert set(PAYMENT_POINTS) == {
        "paid", "payment_stored", "notice_sent", "refund_told", "refund_stored", "refund_intended",
        "refund_answered", "refund_written", "payment_missing", "granted",
    }  # fmt: skip


async def lose(env, monkeypatch) -> None:
    """Forget every payment, as if their updates had never come."""
    async with env.app.ledger.write() as conn:
        await conn.exec_driver_sql("DELETE FROM star_payments")
        await conn.exec_driver_sql("DELETE FROM credit_lots")
        await conn.exec_driver_sql("DELETE FROM credit_notices")
    monkeypatch.setattr(settling, "SETTLED_S", -5)


@languages
async def test_the_daily_comparison_credits_what_was_missed(shop, monkeypatch, language):
    """A payment without a row is credited once, with a word to its person and an alert to the operator."""
    ana, t, ctx = shop.user(language=language), translator(language), shop.app.chat
    admin = shop.user(ADMIN, "Op")
    await admin.send("/help")
    await people.save(ctx.ledger, ANA, language=language)
    await pay(ana, t)
    await shown(ana, plain(t("credits_paid", count=3, stars=750, left=3)))
    await lose(shop, monkeypatch)
    found = await settling.check_stars(ctx)
    assert [one.stars for one in found.missing] == [750]
    assert await balance(shop) == Balance(bought=3)
    await shown(admin, "Stars differ: Telegram 750, rows 0")
    assert (await settling.check_stars(ctx)).agrees
    assert [row.found_by for row in await stored(shop)] == ["check"]
    words = t("credits_paid", count=3, stars=750, left=3)
    assert sent_texts(shop, ANA).count(words) == 2, "once when it was paid, once when it was found"


async def test_the_comparison_is_killed_and_made_by_two(shop, monkeypatch):
    """Once a day whichever replica makes it; one that dies leaves it to the next."""
    ana, t, ctx = shop.user(), translator("en"), shop.app.chat
    await pay(ana, t)
    await shown(ana, plain(t("credits_paid", count=3, stars=750, left=3)))
    await lose(shop, monkeypatch)
    killed = KilledAt("payment_missing")
    monkeypatch.setattr(failpoints, "_failpoint_listeners", [killed])
    with pytest.raises(asyncio.CancelledError):
        await settling.check_once_a_day(ctx)
    await settling.check_once_a_day(ctx)
    assert await balance(shop) == Balance(), "the lease of the dead process holds"
    monkeypatch.setattr(ctx.ledger, "shift", settling._CHECK_LEASE_S + 1)
    await asyncio.gather(*(settling.check_once_a_day(ctx) for _ in range(3)))
    assert await balance(shop) == Balance(bought=3)
    before = len(shop.api.calls.of("getStarTransactions"))
    await settling.check_once_a_day(ctx)
    assert len(shop.api.calls.of("getStarTransactions")) == before


async def test_the_comparison_honours_a_missed_refund(shop, monkeypatch):
    """Telegram refunded, its update was lost: the credits are taken, and all agrees."""
    ana, t, ctx = shop.user(), translator("en"), shop.app.chat
    charge = await pay(ana, t)
    await wait_for_left(shop, 3)
    monkeypatch.setattr(star_payments, "record_refunded", nothing)
    await shop.app.bot.refund_star_payment(ANA, charge)
    await ana.send("/balance")
    await shown(ana, "Refunded: 0")
    monkeypatch.undo()
    monkeypatch.setattr(settling, "SETTLED_S", -5)
    found = await settling.check_stars(ctx)
    assert [one.charge_id for one in found.missing_refunds] == [charge]
    assert await balance(shop) == Balance(bought=3, refunded=3)
    assert (await settling.check_stars(ctx)).agrees


async def test_the_comparison_leaves_what_is_under_way(shop):
    """A payment of a moment ago is not compared: its update may be on the way."""
    await pay(shop.user(), translator("en"))
    found, _ = await settling.compare_now(shop.app.ledger, shop.app.bot)
    assert found.agrees
    assert (found.listed, found.stored) == (0, 0)


@languages
async def test_an_admin_gives_credits(app_env, language):
    """Also with Stars off: once, in the admin's name, and the person is told and sees them in /quota."""
    env = await app_env(wake=chat_only, settings={"admins": frozenset({ADMIN})})
    ana, admin, t = env.user(language=language), env.user(ADMIN, "Op", language), translator(language)
    await people.save(env.app.ledger, ANA, language=language)
    await ana.send("/help")
    await admin.send(f"/grant {ANA} 2 a broken video")
    await shown(admin, t("grant_done", count=2, user=ANA, left=2))
    await shown(ana, plain(t("credits_granted", count=2, left=2)))
    await ana.send("/quota")
    await shown(ana, plain(t("quota_credits", count=2)))
    await admin.send("/grant")
    await shown(admin, "/grant")
    await admin.send("/grant 424242 1")
    await shown(admin, t("grant_unreached", count=1, user=424242, left=1))


async def test_a_grant_is_killed_and_redelivered(hooked, monkeypatch):
    """One grant for one message."""
    env, killed = hooked, KilledAt("granted")
    monkeypatch.setattr(failpoints, "_failpoint_listeners", [killed])
    admin = {"id": ADMIN, "is_bot": False, "first_name": "Op", "language_code": "en"}
    message = {
        "message_id": 5, "date": 1, "chat": {"id": ADMIN, "type": "private", "first_name": "Op"},
        "from": admin, "text": f"/grant {ANA} 2",
        "entities": [{"type": "bot_command", "offset": 0, "length": 6}],
    }  # fmt: skip
    async with serve_webhook(env, announce=False) as url:
        with pytest.raises(Exception):  # noqa: B017, PT011 - as above
            await post_update(url, {"update_id": 9, "message": message})
        for _ in range(12):
            assert await post_update(url, {"update_id": 9, "message": message}) == 200
    assert await balance(env) == Balance(granted=2)
    assert sent_texts(env, ANA).count(translator("en")("credits_granted", count=2, left=2)) == 1


@languages
async def test_others_cannot_give_credits(app_env, language):
    """For them the command does not exist."""
    env = await app_env(wake=chat_only, settings={"admins": frozenset({ADMIN})})
    ana, t = env.user(language=language), translator(language)
    await ana.send(f"/grant {ANA} 5")
    await shown(ana, plain(t("unknown_command")))
    assert await balance(env) == Balance()


@languages
async def test_off_nothing_of_it_is_there(front, language):
    """No command, no menu; a payment that comes all the same is written."""
    ana, t = front.user(language=language), translator(language)
    for name in STAR_MENU:
        await ana.send(f"/{name}")
    await wait_for_texts(front, len(STAR_MENU))
    assert set(sent_texts(front)) == {t("unknown_command")}
    await publish_menu(front.app.bot)
    menu = [one.command for one in await front.app.bot.get_my_commands(language_code=language)]
    assert not set(STAR_MENU) & set(menu)


@languages
async def test_on_the_menu_has_it(shop, language):
    """In every language."""
    await publish_menu(shop.app.bot, sells=True)
    menu = [one.command for one in await shop.app.bot.get_my_commands(language_code=language)]
    assert set(STAR_MENU) <= set(menu)


@languages
async def test_money_is_not_talked_about_in_a_group(shop, language):
    """/buy, /balance and /paysupport give a link to the private chat."""
    ana, t = shop.user(language=language), translator(language)
    group = shop.api.group(GROUP)
    for name in ("buy", "balance", "paysupport"):
        await ana.send(f"/{name}", chat=group)
    assert set(await wait_for_texts(shop, 3, GROUP)) == {t("in_private")}
    await ana.send("/start balance")
    await shown(ana, plain(t("balance_left", count=0)))


@languages
async def test_a_credit_is_spoken_of_used_and_given_back(app_env, language, monkeypatch):
    """The offer says what it uses; only the tap uses it; a video that ends unpaid says that it is back."""
    env = await app_env(
        settings={"admins": frozenset({ADMIN})},
        changes={"approval": "always", "cooldown": None, "quota": "1/day"},
    )
    ana, t, ledger = env.user(language=language), translator(language), env.app.ledger
    make = t("button_make", price=PRICE)
    await ana.send("/create a quiet market at dawn")
    first = await ana.wait_for(lambda bubble: make in bubble.button_texts)
    await ana.wait_for_answer(await ana.tap(first.id, make))
    await wait_for_state(env, VideoState.DELIVERED)
    await ana.send("/create a lighthouse at noon")
    await ana.wait_for(lambda bubble: t("refused_quota", count=1, window="", when="")[:20] in bubble.text)
    await video_credits.grant(
        ledger, video_credits.Grant("g", env.app.bot.id, ANA, 2, "admin:1", "", language)
    )
    await ana.send("/create a lighthouse at night")
    offer = await ana.wait_for(lambda bubble: make in bubble.button_texts and bubble.id != first.id)
    assert t("offer_credit", count=2) in offer.text
    assert await balance(env) == Balance(granted=2)
    await ana.wait_for_answer(await ana.tap(offer.id, make))
    [(_, video)] = await env.wait_settled()
    assert video.state is VideoState.DELIVERED
    assert await balance(env) == Balance(granted=2, used=1)
    assert len(env.fake_provider.charges()) == 2
    await env.app.chat.admission.refresh()
    held = await held_by(env.app.chat.admission, ANA)
    assert (held.takes, held.starts) == (1, 0), "no cooldown is declared"
    await ana.send("/create a forest in the rain")
    known = {first.id, offer.id}
    last = await ana.wait_for(lambda bubble: make in bubble.button_texts and bubble.id not in known)
    assert t("offer_credit", count=1) in last.text
    request_id = (await env.latest())[0].request_id
    monkeypatch.setattr(transitions, "begin_submit", never)
    await ana.wait_for_answer(await ana.tap(last.id, make))
    await wait_until(lambda: is_held(env, request_id), 20, "the order")
    await ana.send("/cancel")
    ended = await ana.wait_for(lambda bubble: t("credit_back") in bubble.text)
    assert t("cancelled") in ended.text
    assert await balance(env) == Balance(granted=2, used=1)


async def _banned(*_) -> str:
    return "banned"


async def test_a_banned_person_who_paid_is_credited(hooked, monkeypatch):
    """Money that came is written, also of a banned person."""
    monkeypatch.setattr(type(hooked.app.chat.access), "of", _banned)
    async with serve_webhook(hooked, announce=False) as url:
        assert await post_update(url, payment_update(hooked)) == 200
    assert await balance(hooked) == Balance(bought=3)


async def test_a_payment_of_an_unknown_invoice_is_kept(hooked):
    """It brings no credits; its person reads that, and may have it refunded."""
    async with serve_webhook(hooked, announce=False) as url:
        assert await post_update(url, payment_update(hooked, invoice_payload="other")) == 200
    [row] = await stored(hooked)
    assert (row.stars, row.credits, row.pack) == (750, 0, "")
    assert sent_texts(hooked) == [translator("en")("credits_unknown", stars=750)]
    assert await star_payments.intend_refund(hooked.app.ledger, "stx1", ANA, "user") == "intended"
