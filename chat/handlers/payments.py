"""Credits for Telegram Stars: /buy, checkout, payments and refunds, /balance, /terms, /paysupport, /grant.

A payment's row is written before its update is acknowledged, whatever else is configured: money that came is
never ignored. What is sold, and the commands, are there only with STARS=on.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final

from aiogram import BaseMiddleware, Bot, F, Router
from aiogram.enums import ChatType
from aiogram.filters import Command, CommandObject, CommandStart
from aiogram.methods import AnswerPreCheckoutQuery, SendInvoice
from aiogram.types import (
    CallbackQuery,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    LabeledPrice,
    Message,
    PreCheckoutQuery,
    TelegramObject,
)

from chat.context import ChatContext
from chat.handlers.user import is_for_them_alone
from chat.i18n import Translator, language_of, translator
from chat.replies import answer, answer_tap, edit_buttons, send_once
from chat.star_payments import ask_refund, payment_of, send_notices
from chat.star_shop import CURRENCY, Pack, new_payload, read_payload
from chat.updates import clean, request_id_of, user_of
from ledger import breaker, star_payments, video_credits
from ledger.star_payments import REFUND_DAYS, Payment, RefundState
from ledger.video_credits import MAX_GRANT, Balance, Grant
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger

log = get_logger(__name__)

BUY: Final = "buy:"
REFUND: Final = "refund:"
STAR_MENU: Final = ("buy", "balance", "terms", "paysupport")
"""Commands that exist with STARS=on."""

CHECKS_S: Final = 1.5
"""How long the checks of a payment may take: with the answer itself, Telegram has it within 3 s."""

_ANSWER_S: Final = 1
_HEALTHY_S: Final = 60.0
_DAY_MS: Final = 86_400_000
_REFUND_S: Final = REFUND_DAYS * 86_400


def build_router(*, sells: bool) -> Router:
    """Return a new router: aiogram allows a router one parent. Without `sells` nothing is on sale."""
    router = Router(name="payments")
    router.message.register(paid, F.successful_payment)
    router.message.register(refunded, F.refunded_payment)
    router.pre_checkout_query.register(Checkout().answer)
    router.message.register(grant, Command("grant", ignore_case=True), by_admin)
    if sells:
        for handler in (buy, balance, terms, paysupport):
            name = handler.__name__
            router.message.register(handler, Command(name, ignore_case=True))
            router.message.register(handler, CommandStart(deep_link=True, magic=F.args == name))
        router.callback_query.register(send_invoice, F.data.startswith(BUY))
        router.callback_query.register(refund, F.data.startswith(REFUND))
    return router


class CheckoutMiddleware(BaseMiddleware):
    """Gives the checkout its `ctx` and `t` without a question to a store, which may be slow."""

    def __init__(self, ctx: ChatContext) -> None:
        self._ctx = ctx

    async def __call__(
        self,
        handler: Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]],
        event: TelegramObject,
        data: dict[str, Any],
    ) -> Any:
        user = data.get("event_from_user")
        t = translator(language_of(user.language_code if user is not None else None))
        return await handler(event, {**data, "ctx": self._ctx, "t": t})


async def buy(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Show the packs; a tap on one sends its invoice."""
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif ctx.stars is not None and await is_for_them_alone(message, bot, t, "buy"):
        left = await video_credits.left(ctx.ledger, user.id)
        lines = [t("buy_head", date=t.date(ctx.stars.prices_of)), t("balance_left", count=max(0, left))]
        rows = [[_pack_button(t, one)] for one in ctx.stars.packs]
        await answer(message, "\n".join(lines), InlineKeyboardMarkup(inline_keyboard=rows))


def _pack_button(t: Translator, pack: Pack) -> InlineKeyboardButton:
    text = t("button_pack", count=pack.credits, stars=pack.stars)
    return InlineKeyboardButton(text=text, callback_data=f"{BUY}{pack.name}")


async def send_invoice(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Send the invoice of a pack at today's price, for this person alone."""
    pack = ctx.stars.pack((query.data or "").removeprefix(BUY)) if ctx.stars is not None else None
    if pack is None:
        await answer_tap(query, t("tap_pack_gone"), alert=True)
        return
    title = t("invoice_title", count=pack.credits)
    invoice = SendInvoice(
        chat_id=query.from_user.id, title=title, description=t("invoice_text"), provider_token="",
        payload=new_payload(pack, query.from_user.id), currency=CURRENCY,
        prices=[LabeledPrice(label=title, amount=pack.stars)],
    )  # fmt: skip
    if query.bot is not None and ctx.throttle.allow("invoice", query.id, seconds=60):
        await send_once(query.bot, invoice)
    await answer_tap(query)


class Checkout:
    """Answers a payment that is about to happen: yes after real checks, else no in true words."""

    def __init__(self) -> None:
        self._healthy_at: dict[str, float] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def answer(self, query: PreCheckoutQuery, bot: Bot, ctx: ChatContext, t: Translator) -> None:
        """Answer within 3 s, whatever happens; without an answer Telegram would end the payment as well."""
        try:
            async with asyncio.timeout(CHECKS_S):
                refusal = await self._refusal(query, ctx)
        except Exception as error:  # noqa: BLE001 - a payment that cannot be checked is refused
            log.warning("payment not checked, so it is refused", error=type(error).__name__)
            refusal = "pay_closed"
        words = None if refusal is None else t(refusal)
        log.info("checkout", ok=refusal is None, why=refusal)
        said = AnswerPreCheckoutQuery(pre_checkout_query_id=query.id, ok=refusal is None, error_message=words)
        await send_once(bot, said, timeout_s=_ANSWER_S)

    async def _refusal(self, query: PreCheckoutQuery, ctx: ChatContext) -> str | None:
        """Return the name of the text that refuses, or None."""
        invoice = read_payload(query.invoice_payload)
        if ctx.stars is None or invoice is None:
            return "pay_off"
        if invoice.user_id != query.from_user.id:
            return "pay_other_person"
        now = ctx.stars.pack(invoice.pack.name)
        if now != invoice.pack or (query.currency, query.total_amount) != (CURRENCY, now.stars):
            return "pay_changed"
        if not await ctx.may_use(query.from_user.id):
            return "pay_not_allowed"
        stopped, works = await asyncio.gather(
            breaker.stops(ctx.ledger, query.from_user.id), self._provider_works(ctx)
        )
        if stopped:
            return "pay_breaker"
        return None if works else "pay_provider"

    async def _provider_works(self, ctx: ChatContext) -> bool:
        """Return whether the provider of new videos answered a free question in the last minute."""
        account = ctx.offer.account
        if account not in ctx.providers:
            return False
        if time.monotonic() - self._healthy_at.get(account, float("-inf")) < _HEALTHY_S:
            return True
        asking = self._asking.get(account)
        if asking is None or asking.done():
            # It goes on where this payment cannot wait for it: the next one finds the answer.
            asking = self._asking[account] = asyncio.create_task(self._ask(ctx, account))
        await asyncio.wait({asking}, timeout=CHECKS_S * 0.8)
        return account in self._healthy_at and time.monotonic() - self._healthy_at[account] < _HEALTHY_S

    async def _ask(self, ctx: ChatContext, account: str) -> None:
        try:
            await ctx.providers[account].check()
        except Exception as error:  # noqa: BLE001 - whatever it is, no order can be placed there now
            log.warning("provider does not answer at checkout", error=type(error).__name__)
            self._healthy_at.pop(account, None)
        else:
            self._healthy_at[account] = time.monotonic()


async def paid(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Write the payment, then say so. A redelivery finds the row, and says only what was not said yet."""
    payment, user = message.successful_payment, message.from_user
    if payment is None or user is None:
        return
    if payment.currency != CURRENCY:
        log.error("a payment in another currency", currency=payment.currency)
        return
    new = payment_of(
        bot.id, user.id, payment.telegram_payment_charge_id, payment.invoice_payload, payment.total_amount,
        int(message.date.timestamp() * 1000),
    )  # fmt: skip
    await failpoint("paid")
    created = await star_payments.record(ctx.ledger, new, t.language)
    log.info("payment", new=created, stars=new.stars, credits=new.credits)
    if created and not new.credits:
        log.error("a payment whose invoice is not known", charge=new.charge_id[:12])
    await failpoint("payment_stored")
    await send_notices(ctx, user.id)


async def refunded(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Honour a refund that Telegram tells of, also one that we did not ask for, or of a payment we missed."""
    payment = message.refunded_payment
    if payment is None:
        return
    user_id = message.chat.id if message.chat.type == ChatType.PRIVATE or message.from_user is None else (
        message.from_user.id
    )  # fmt: skip
    new = payment_of(
        bot.id, user_id, payment.telegram_payment_charge_id, payment.invoice_payload, payment.total_amount,
        int(message.date.timestamp() * 1000),
    )  # fmt: skip
    await failpoint("refund_told")
    await star_payments.record_refunded(ctx.ledger, new, t.language)
    await failpoint("refund_stored")
    await send_notices(ctx, user_id)


async def balance(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Say how many credits a person has, and where they went."""
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif await is_for_them_alone(message, bot, t, "balance"):
        await answer(message, balance_text(t, await video_credits.balance(ctx.ledger, user.id)))


def balance_text(t: Translator, found: Balance) -> str:
    """Return a person's credits in words; bought and given are what is left, used and refunded."""
    figures = {"bought": found.bought, "given": found.granted, "used": found.used, "back": found.refunded}
    return "\n".join([t("balance_left", count=max(0, found.left)), t("balance_figures", **figures)])


async def terms(message: Message, t: Translator) -> None:
    """Say on which terms credits are sold."""
    await answer(message, t("terms", span=t.window(_REFUND_S)))


async def paysupport(message: Message, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """Show the last payments, with [Refund] for those that can be refunded."""
    user = user_of(message)
    if user is None:
        await answer(message, t("no_payer"))
    elif await is_for_them_alone(message, bot, t, "paysupport"):
        text, buttons = await _support(ctx, t, user.id)
        await answer(message, text, buttons)


async def _support(ctx: ChatContext, t: Translator, user_id: int) -> tuple[str, InlineKeyboardMarkup | None]:
    now, found = await star_payments.latest(ctx.ledger, user_id)
    if not found:
        return t("paysupport_none"), None
    lines = [
        t("paysupport_head"),
        *(_line(t, one, now) for one in found),
        t("paysupport_foot", span=t.window(_REFUND_S)),
    ]
    rows = [
        [InlineKeyboardButton(text=_refund_words(t, one), callback_data=f"{REFUND}{_short(one.charge_id)}")]
        for one in found
        if one.may_be_refunded(now)
    ]
    return "\n".join(lines), InlineKeyboardMarkup(inline_keyboard=rows) if rows else None


def _refund_words(t: Translator, one: Payment) -> str:
    return t("button_refund", stars=one.stars, date=_date(t, one.paid_at))


def _line(t: Translator, one: Payment, now: int) -> str:
    what = t("paysupport_row", date=_date(t, one.paid_at), stars=one.stars, count=one.credits)
    return f"{what} {_state(t, one, now)}"


def _state(t: Translator, one: Payment, now: int) -> str:
    if one.refund in (RefundState.INTENDED, RefundState.REFUNDED):
        return t(f"payment_{one.refund}")
    if one.may_be_refunded(now):
        return t("payment_open", date=_date(t, one.paid_at + REFUND_DAYS * _DAY_MS))
    return t("payment_used", count=one.used) if one.used else t("payment_late")


def _date(t: Translator, at: int) -> str:
    return t.date(datetime.fromtimestamp(at / 1000, UTC).date())


def _short(charge_id: str) -> str:
    return sha256(charge_id.encode()).hexdigest()[:24]


async def refund(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Refund a whole pack of which no credit is used: the intent is written, then Telegram is asked once."""
    wanted, user_id = (query.data or "").removeprefix(REFUND), query.from_user.id
    _, found = await star_payments.latest(ctx.ledger, user_id, 100)
    payment = next((one for one in found if _short(one.charge_id) == wanted), None)
    if payment is None:
        await answer_tap(query, t("tap_not_yours"))
        return
    outcome = await star_payments.intend_refund(ctx.ledger, payment.charge_id, user_id, f"user:{user_id}")
    said: str = outcome
    if outcome == "intended":
        await failpoint("refund_intended")
        said = await ask_refund(ctx, payment.charge_id, user_id, t.language)
        await failpoint("refund_written")
    await answer_tap(query, t(f"tap_refund_{said}"), alert=True)
    _, buttons = await _support(ctx, t, user_id)
    await edit_buttons(query, buttons)
    await send_notices(ctx, user_id)


async def by_admin(message: Message, ctx: ChatContext) -> bool:
    """Return whether an admin writes; for others the command does not exist."""
    user = user_of(message)
    return user is not None and user.id in ctx.admins


async def grant(message: Message, command: CommandObject, bot: Bot, ctx: ChatContext, t: Translator) -> None:
    """`/grant USER N [reason]`: give credits, once for each message, in an admin's name."""
    user = user_of(message)
    words = clean(command.args or "").split(maxsplit=2)
    if user is None or message.forward_origin is not None or message.chat.type != ChatType.PRIVATE:
        await answer(message, t("grant_private"))
        return
    if len(words) < 2 or not all(one.isdecimal() for one in words[:2]) or not 1 <= int(words[1]) <= MAX_GRANT:
        await answer(message, t("grant_usage", most=MAX_GRANT))
        return
    whom, count = int(words[0]), int(words[1])
    language = await ctx.languages.of(whom) or await star_payments.language_of(ctx.ledger, whom)
    given = Grant(
        request_id_of(message, bot.id), bot.id, whom, count, f"admin:{user.id}",
        words[2] if len(words) > 2 else "", language,
    )  # fmt: skip
    created = await video_credits.grant(ctx.ledger, given)
    log.warning("credits granted", new=created, credits=count, who=given.who)
    await failpoint("granted")
    await send_notices(ctx, whom)
    reached = await video_credits.was_reached(ctx.ledger, f"granted:{given.request_id}")
    name = "grant_unreached" if reached is False else "grant_done"
    left = await video_credits.left(ctx.ledger, whom)
    await answer(message, t(name, count=count, user=whom, left=max(0, left)))
