"""Payments in Stars on the local Bot API: invoices, checkout within ten seconds, refunds, transactions."""

import asyncio

import pytest
from aiogram.exceptions import TelegramBadRequest, TelegramNetworkError
from aiogram.types import InlineKeyboardButton, InlineKeyboardMarkup, LabeledPrice

from sandbox.telegram import BotApiServer, Fault, SandboxError
from tests.support.bot_api import bot_of

ANA, BEN = 1001, 1002
INVOICE = {
    "title": "One video",
    "description": "8 seconds",
    "payload": "order:1",
    "currency": "XTR",
    "provider_token": "",
    "prices": [LabeledPrice(label="Video", amount=150)],
}


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        await running.user(ANA, "Ana").send("/start")
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api) as made:
        yield made


async def update(bot):
    """Return the newest update; older ones are confirmed."""
    (found,) = await bot.get_updates(offset=-1, timeout=5)
    return found


async def paid(api, bot, message_id) -> str:
    """Let Ana pay an invoice and return the charge id."""
    query_id = await api.user(ANA).pay(message_id)
    await bot.answer_pre_checkout_query(query_id, ok=True)
    outcome = await api.user(ANA).wait_for_payment(query_id)
    assert outcome["ok"]
    return outcome["charge_id"]


async def test_an_invoice_is_paid_twice(api, bot):
    """Each payment is asked about, has a charge id of its own and is a message; the payload is not shown."""
    sent = await bot.send_invoice(ANA, **INVOICE)
    assert (sent.invoice.total_amount, sent.invoice.currency) == (150, "XTR")
    assert api.user(ANA).history()[-1].invoice.stars == 150
    query_id = await api.user(ANA).pay(sent.message_id)
    query = (await update(bot)).pre_checkout_query
    assert (query.id, query.currency, query.total_amount, query.invoice_payload) == (
        query_id,
        "XTR",
        150,
        "order:1",
    )
    await bot.answer_pre_checkout_query(query_id, ok=True)
    payment = (await update(bot)).message.successful_payment
    assert (payment.invoice_payload, payment.total_amount) == ("order:1", 150)
    second = await paid(api, bot, sent.message_id)
    assert second != payment.telegram_payment_charge_id
    assert (await bot.get_my_star_balance()).amount == 300


async def test_a_refused_checkout_is_no_payment(api, bot):
    """The person reads the bot's words; nothing is booked; a refusal needs words."""
    sent = await bot.send_invoice(ANA, **INVOICE)
    query_id = await api.user(ANA).pay(sent.message_id)
    with pytest.raises(TelegramBadRequest, match='parameter "error_message" is required'):
        await bot.answer_pre_checkout_query(query_id, ok=False)
    await bot.answer_pre_checkout_query(query_id, ok=False, error_message="The offer is over")
    outcome = await api.user(ANA).wait_for_payment(query_id)
    assert (outcome["ok"], outcome["error"]) == (False, "The offer is over")
    assert (await bot.get_my_star_balance()).amount == 0
    with pytest.raises(TelegramBadRequest, match="query is too old"):
        await bot.answer_pre_checkout_query(query_id, ok=True)


async def test_a_checkout_fails_after_ten_seconds():
    """A late answer is refused and no payment is made; the clock is scaled."""
    async with BotApiServer(clock_scale=100, min_time_limit=0) as api, bot_of(api) as bot:
        await api.user(ANA).send("/start")
        sent = await bot.send_invoice(ANA, **INVOICE)
        query_id = await api.user(ANA).pay(sent.message_id)
        outcome = await api.user(ANA).wait_for_payment(query_id)
        assert (outcome["ok"], outcome["error"]) == (False, "timeout")
        await asyncio.sleep(0.05)
        with pytest.raises(TelegramBadRequest, match="query is too old"):
            await bot.answer_pre_checkout_query(query_id, ok=True)
        assert (await bot.get_star_transactions()).transactions == []


async def test_a_link_is_paid_in_the_chat_with_the_bot(api, bot):
    """Anyone with the link can pay; the message appears in their own chat."""
    link = await bot.create_invoice_link(**INVOICE)
    assert link.startswith("https://t.me/$")
    query_id = await api.user(BEN, "Ben").pay_link(link)
    await bot.answer_pre_checkout_query(query_id, ok=True)
    message = (await update(bot)).message
    assert (message.chat.id, message.from_user.id) == (BEN, BEN)
    assert message.successful_payment.invoice_payload == "order:1"
    with pytest.raises(SandboxError, match="is no invoice"):
        await api.user(ANA).pay_link("https://t.me/$nothing")


async def test_a_refund_happens_once(api, bot):
    """It is a message and a transaction with the payment's id; the second is refused by name."""
    charge_id = await paid(api, bot, (await bot.send_invoice(ANA, **INVOICE)).message_id)
    assert await bot.refund_star_payment(ANA, charge_id)
    refunded = (await update(bot)).message.refunded_payment
    assert (refunded.telegram_payment_charge_id, refunded.total_amount) == (charge_id, 150)
    with pytest.raises(TelegramBadRequest, match="CHARGE_ALREADY_REFUNDED"):
        await bot.refund_star_payment(ANA, charge_id)
    with pytest.raises(TelegramBadRequest, match="CHARGE_NOT_FOUND"):
        await bot.refund_star_payment(ANA, "other")
    with pytest.raises(TelegramBadRequest, match="USER_ID_INVALID"):
        await bot.refund_star_payment(77, charge_id)
    there, back = (await bot.get_star_transactions()).transactions
    assert (there.id, back.id, there.amount, back.amount) == (charge_id, charge_id, 150, 150)
    assert (there.source.user.id, there.source.invoice_payload, there.receiver) == (ANA, "order:1", None)
    assert (back.receiver.user.id, back.source) == (ANA, None)
    assert (await bot.get_my_star_balance()).amount == 0


async def test_a_refund_whose_answer_is_lost(api, bot):
    """It happened although the bot was not answered; asking again says so."""
    charge_id = await paid(api, bot, (await bot.send_invoice(ANA, **INVOICE)).message_id)
    api.fail("refundStarPayment", Fault.lost_answer())
    with pytest.raises(TelegramNetworkError):
        await bot.refund_star_payment(ANA, charge_id)
    with pytest.raises(TelegramBadRequest, match="CHARGE_ALREADY_REFUNDED"):
        await bot.refund_star_payment(ANA, charge_id)
    assert len((await bot.get_star_transactions(offset=1, limit=1)).transactions) == 1


PRICE = LabeledPrice(label="Video", amount=150)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prices": [PRICE, PRICE]}, "STARS_INVOICE_INVALID"),
        ({"provider_token": "x"}, "STARS_INVOICE_INVALID"),
        ({"currency": "USD"}, "PAYMENT_PROVIDER_INVALID"),
        ({"prices": [LabeledPrice(label="Video", amount=0)]}, "CURRENCY_TOTAL_AMOUNT_INVALID"),
        ({"prices": [LabeledPrice(label="", amount=1)]}, "LabeledPrice label must be non-empty"),
        ({"title": "x" * 33}, "INVOICE_TITLE_TOO_LONG"),
        ({"payload": "é" * 65}, "INVOICE_PAYLOAD_INVALID"),
        ({"description": ""}, 'parameter "description" is required'),
    ],
)
async def test_wrong_invoices_are_refused(bot, change, words):
    """An invoice for Stars has one price, no provider and texts within their limits."""
    with pytest.raises(TelegramBadRequest, match=words):
        await bot.send_invoice(ANA, **{**INVOICE, **change})


async def test_a_pay_button_comes_first(bot):
    """An invoice's keyboard begins with the pay button."""
    pay, other = (
        InlineKeyboardButton(text="Pay ⭐", pay=True),
        InlineKeyboardButton(text="No", callback_data="n"),
    )
    sent = await bot.send_invoice(
        ANA, **INVOICE, reply_markup=InlineKeyboardMarkup(inline_keyboard=[[pay], [other]])
    )
    assert sent.reply_markup.inline_keyboard[0][0].pay
    with pytest.raises(TelegramBadRequest, match="BUTTON_TYPE_INVALID"):
        await bot.send_invoice(
            ANA, **INVOICE, reply_markup=InlineKeyboardMarkup(inline_keyboard=[[other], [pay]])
        )


async def test_payments_outlive_the_server(tmp_path):
    """With a state folder a refund after a restart is still the second one."""
    async with BotApiServer(state_dir=tmp_path) as api, bot_of(api) as bot:
        await api.user(ANA).send("/start")
        link = await bot.create_invoice_link(**INVOICE)
        charge_id = await paid(api, bot, (await bot.send_invoice(ANA, **INVOICE)).message_id)
        await bot.refund_star_payment(ANA, charge_id)
    async with BotApiServer(state_dir=tmp_path) as api, bot_of(api) as bot:
        with pytest.raises(TelegramBadRequest, match="CHARGE_ALREADY_REFUNDED"):
            await bot.refund_star_payment(ANA, charge_id)
        assert len((await bot.get_star_transactions()).transactions) == 2
        assert await api.user(ANA).pay_link(link)
