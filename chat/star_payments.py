"""What follows a payment in Stars: words to its person, refunds, and the daily comparison with Telegram.

Rows come first (`ledger.star_payments`, `ledger.video_credits`); here they are acted on, by the handler that
wrote them and, where that was stopped, by `run_star_payments` in any process of the bot. Nothing here moves
money but `ask_refund`, whose call Telegram itself performs once for each payment.
"""

import asyncio
from collections.abc import Sequence
from html import escape
from typing import Final, Literal

from aiogram import Bot
from aiogram.exceptions import (
    AiogramError,
    TelegramBadRequest,
    TelegramRetryAfter,
)
from aiogram.methods import GetStarTransactions, RefundStarPayment
from aiogram.types import StarTransaction as TelegramTransaction
from aiogram.types import TransactionPartnerUser

from chat.alert_sending import Alert, send_alert
from chat.context import ChatContext
from chat.i18n import Translator, translator
from chat.replies import REPLY_TIMEOUT_S
from chat.star_shop import read_payload
from chat.telegram_errors import UNREACHABLE
from ledger import star_payments, video_credits
from ledger.database import Ledger
from ledger.notifications import Notification
from ledger.star_payments import Comparison, NewPayment, StarTransaction
from ledger.video_credits import NewNotice
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from worker.outages import is_outage

log = get_logger(__name__)

RefundAnswer = Literal["refunded", "refused", "unclear"]

SETTLED_S: Final = 900
"""What is younger is not compared: its update may be on the way."""

_DAY_MS: Final = 86_400_000
_PAGE: Final = 100
_PAGE_PAUSE_S: Final = 0.1
_CHECK_LEASE_S: Final = 600
_ALREADY: Final = "CHARGE_ALREADY_REFUNDED"


async def run_star_payments(ctx: ChatContext) -> None:
    """Notify, refund and compare what is due every few seconds, until cancelled."""
    while True:
        pause_s = ctx.worker.timeouts.alerts_s
        try:
            await send_notices(ctx)
            await settle_refunds(ctx)
            if ctx.stars is not None:
                await check_once_a_day(ctx)
        except TelegramRetryAfter as error:
            pause_s = max(pause_s, error.retry_after)
        except Exception as error:  # noqa: BLE001 - the loop must not end
            report = log.warning if is_outage(error) else log.error
            report("star payments not settled", error=type(error).__name__)
        await asyncio.sleep(pause_s)


async def send_notices(ctx: ChatContext, user_id: int | None = None) -> None:
    """Send what is due to be told, to one person or to all; each notice once."""
    for notice in await video_credits.claim_notices(ctx.ledger, ctx.bot.id, user_id):
        language = await ctx.languages.of(notice.user_id) or notice.language
        left = await video_credits.left(ctx.ledger, notice.user_id)
        text = notice_text(translator(language), notice, left)
        try:
            await ctx.bot.send_message(notice.user_id, text, request_timeout=REPLY_TIMEOUT_S)
        except UNREACHABLE as error:
            log.warning("credit notice cannot be sent", kind=notice.kind, why=error.message)
            await video_credits.mark_told(ctx.ledger, notice.notice_id, reached=False)
            continue
        except AiogramError as error:
            log.warning("credit notice not sent, will retry", error=type(error).__name__)
            pause_s = error.retry_after if isinstance(error, TelegramRetryAfter) else ctx.edit_limits.retry_s
            await video_credits.postpone_notice(ctx.ledger, notice.notice_id, pause_s)
            continue
        await failpoint("notice_sent")
        await video_credits.mark_told(ctx.ledger, notice.notice_id)


def notice_text(t: Translator, notice: NewNotice, left: int) -> str:
    """Return what a person reads about their credits."""
    values = {"count": notice.credits, "stars": notice.stars, "left": max(0, left)}
    return t(f"credits_{notice.kind}", **values)


async def ask_refund(ctx: ChatContext, charge_id: str, user_id: int, language: str) -> RefundAnswer:
    """Ask Telegram once to refund a payment whose intent is written, and write how that ended.

    An unclear answer leaves the intent, about which `settle_refunds` asks the list.
    """
    answer = await _refund(ctx.bot, charge_id, user_id)
    await failpoint("refund_answered")
    if answer == "refunded":
        await star_payments.finish_refund(ctx.ledger, charge_id, language)
    elif answer == "refused":
        log.error("refund refused by telegram", charge=charge_id[:12])
        await star_payments.refuse_refund(ctx.ledger, charge_id, language)
    return answer


async def _refund(bot: Bot, charge_id: str, user_id: int) -> RefundAnswer:
    call = RefundStarPayment(user_id=user_id, telegram_payment_charge_id=charge_id)
    try:
        await bot(call, request_timeout=REPLY_TIMEOUT_S)
    except TelegramBadRequest as error:
        if _ALREADY in error.message:
            return "refunded"
        return await _answer_of_list(bot, charge_id)
    except AiogramError as error:
        log.warning("refund is unclear", error=type(error).__name__)
        return "unclear"
    return "refunded"


async def _answer_of_list(bot: Bot, charge_id: str) -> RefundAnswer:
    """Telegram refuses: that is proof only where its own list shows no refund either."""
    try:
        listed = await read_transactions(bot)
    except AiogramError:
        return "unclear"
    return "refunded" if is_refunded(listed, charge_id) else "refused"


def is_refunded(listed: Sequence[StarTransaction], charge_id: str) -> bool:
    """Return whether Telegram's list shows the refund of a payment, which has the payment's id."""
    return any(one.charge_id == charge_id and not one.comes_in for one in listed)


async def settle_refunds(ctx: ChatContext) -> None:
    """End the refunds whose answer is missing: the list says it, or Telegram is asked again.

    Asking again refunds nothing twice: Telegram answers `CHARGE_ALREADY_REFUNDED`.
    """
    due = await star_payments.claim_refunds(ctx.ledger, ctx.bot.id)
    if not due:
        return
    listed = await read_transactions(ctx.bot)
    for payment in due:
        language = await _language(ctx, payment.user_id)
        if is_refunded(listed, payment.charge_id):
            await star_payments.finish_refund(ctx.ledger, payment.charge_id, language)
        else:
            await ask_refund(ctx, payment.charge_id, payment.user_id, language)
    await send_notices(ctx)


async def _language(ctx: ChatContext, user_id: int) -> str:
    return await ctx.languages.of(user_id) or await star_payments.language_of(ctx.ledger, user_id)


async def read_transactions(bot: Bot) -> list[StarTransaction]:
    """Read Telegram's whole list of this bot's Stars, oldest first.

    Raises:
        AiogramError: It could not be read whole.
    """
    found: list[StarTransaction] = []
    while True:
        call = GetStarTransactions(offset=len(found), limit=_PAGE)
        page = (await bot(call, request_timeout=REPLY_TIMEOUT_S)).transactions
        found += [_transaction(one) for one in page]
        if len(page) < _PAGE:
            return found
        await asyncio.sleep(_PAGE_PAUSE_S)


def _transaction(one: TelegramTransaction) -> StarTransaction:
    partner = one.source or one.receiver
    user = partner if isinstance(partner, TransactionPartnerUser) else None
    payload = (user.invoice_payload or "") if user is not None else ""
    return StarTransaction(
        one.id,
        int(one.date.timestamp() * 1000),
        one.amount,
        one.source is not None,
        user.user.id if user is not None else None,
        read_payload(payload) is not None,
        payload,
    )


async def check_once_a_day(ctx: ChatContext) -> None:
    """Compare our rows with Telegram's list, once in each UTC day, and alert where they differ."""
    day = await star_payments.claim_check(ctx.ledger, ctx.bot.id, _CHECK_LEASE_S)
    if day is not None:
        found = await check_stars(ctx)
        await star_payments.end_check(ctx.ledger, ctx.bot.id, day, found)


async def check_stars(ctx: ChatContext) -> Comparison:
    """Compare once; credit what was missed, honour refunds that were, and alert. Idempotent."""
    found, day = await compare_now(ctx.ledger, ctx.bot)
    for one in found.missing:
        await failpoint("payment_missing")
        if (new := _missed(ctx, one)) is not None:
            await star_payments.record(ctx.ledger, new, await _language(ctx, new.user_id))
    for one in found.missing_refunds:
        if (new := _missed(ctx, one)) is not None:
            await star_payments.record_refunded(ctx.ledger, new, await _language(ctx, new.user_id))
    log.info("stars compared", listed=found.listed, stored=found.stored, differences=len(found.findings()))
    if not found.agrees:
        await send_alert(ctx, _alert(found, day))
    await send_notices(ctx)
    return found


async def compare_now(ledger: Ledger, bot: Bot) -> tuple[Comparison, int]:
    """Return the comparison, and the UTC day of the ledger as milliseconds; it changes nothing."""
    rows = await star_payments.stored(ledger, bot.id)
    listed = await read_transactions(bot)
    async with ledger.read() as conn:
        now = await ledger.now(conn)
    return star_payments.compare(rows, listed, now - SETTLED_S * 1000), now - now % _DAY_MS


def _missed(ctx: ChatContext, one: StarTransaction) -> NewPayment | None:
    if one.user_id is None:
        return None
    return payment_of(ctx.bot.id, one.user_id, one.charge_id, one.invoice, one.stars, one.at, by_check=True)


def payment_of(
    bot_id: int, user_id: int, charge_id: str, payload: str, stars: int, paid_at: int, *,
    by_check: bool = False,
) -> NewPayment:  # fmt: skip
    """Return the row of a payment: its credits are those that its invoice promised for these Stars."""
    invoice = read_payload(payload)
    known = invoice is not None and invoice.pack.stars == stars
    pack = invoice.pack if invoice is not None and known else None
    return NewPayment(
        charge_id, bot_id, user_id, pack.name if pack else "", payload[:128], stars,
        pack.credits if pack else 0, paid_at, "check" if by_check else "update",
    )  # fmt: skip


def _alert(found: Comparison, day: int) -> Alert:
    shown = "\n".join(escape(one) for one in found.findings()[:10])
    text = (
        f"<b>Stars differ</b>: Telegram {found.listed}, rows {found.stored}.\n{shown}"
        "\nMissed payments are credited and missed refunds honoured by now."
        " <code>python -m bot stars</code> compares again."
    )
    fields = {"listed": found.listed, "stored": found.stored, "findings": found.findings()[:10]}
    return Alert(Notification("stars", day), "stars differ", text, fields)
