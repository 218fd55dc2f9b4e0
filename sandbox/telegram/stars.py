"""Payments in Telegram Stars: invoices, checkout, refunds, transactions. No real Stars are moved."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from sandbox.telegram.base import Clock, bad_request
from sandbox.telegram.params import Params
from sandbox.telegram.storage import Archive, Counters, Feed

STARS = "XTR"
MAX_TITLE, MAX_DESCRIPTION, MAX_PAYLOAD, MAX_LABEL = 32, 255, 128, 32
MAX_STARS = 25_000
MAX_LISTED = 100
CHECKOUT_LIFETIME = 10.0
INVOICE_LINK = "https://t.me/$"
TOO_OLD = "query is too old and response timeout expired or query ID is invalid"


@dataclass(frozen=True)
class Invoice:
    title: str
    description: str
    payload: str
    stars: int
    start_parameter: str = ""

    def json(self) -> dict[str, Any]:
        """Return the invoice as a part of a Message, which does not show the payload."""
        return {
            "title": self.title,
            "description": self.description,
            "start_parameter": self.start_parameter,
            "currency": STARS,
            "total_amount": self.stars,
        }


@dataclass
class StarStore:
    """Invoice links, checkouts under way, payments by charge id, and transactions in their order."""

    archive: Archive
    counters: Counters
    clock: Clock
    feed: Feed
    links: dict[str, dict[str, Any]] = field(default_factory=dict)
    checkouts: dict[str, dict[str, Any]] = field(default_factory=dict)
    payments: dict[str, dict[str, Any]] = field(default_factory=dict)
    transactions: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.links |= self.archive.load("invoice")
        self.payments |= self.archive.load("payment")
        self.transactions += self.archive.load("transaction").values()

    def link(self, invoice: Invoice) -> str:
        slug = secrets.token_urlsafe(15)
        self.links[slug] = {**invoice.json(), "payload": invoice.payload}
        self.archive.put("invoice", slug, self.links[slug])
        return INVOICE_LINK + slug

    def open(self, user: dict[str, Any], chat_id: int, stars: int, payload: str) -> str:
        """Begin a checkout, which the bot must answer within ten seconds; return its query id."""
        query_id = str((user["id"] << 32) + secrets.randbits(32))
        self.checkouts[query_id] = {
            "user": user,
            "chat_id": chat_id,
            "stars": stars,
            "payload": payload,
            "ends": self.clock.now() + self.clock.time_limit(CHECKOUT_LIFETIME),
        }
        return query_id

    def close(self, query_id: str) -> dict[str, Any]:
        """Return a checkout and end it: it is answered once.

        Raises:
            ApiError: 400 when it is unknown, already answered or over ten seconds old.
        """
        checkout = self.checkouts.pop(query_id, None)
        if checkout is None or checkout["ends"] < self.clock.now():
            raise bad_request(TOO_OLD)
        return checkout

    def pay(self, checkout: dict[str, Any]) -> dict[str, Any]:
        """Record a payment; return it as a SuccessfulPayment. Each has a charge id of its own."""
        charge_id = "stx" + secrets.token_urlsafe(42)
        payment = {
            "currency": STARS,
            "total_amount": checkout["stars"],
            "invoice_payload": checkout["payload"],
            "telegram_payment_charge_id": charge_id,
            "provider_payment_charge_id": f"{checkout['user']['id']}_{self.counters.next('payment')}",
        }
        self._put_payment(charge_id, {**checkout, "payment": payment, "refunded": False})
        self._record(charge_id, checkout, "source")
        return payment

    def refund(self, user_id: int, charge_id: str) -> dict[str, Any]:
        """Record the refund of a payment; return the payment.

        Raises:
            ApiError: 400 when the person made no such payment, or it was refunded before.
        """
        paid = self.payments.get(charge_id)
        if paid is None or paid["user"]["id"] != user_id:
            raise bad_request("CHARGE_NOT_FOUND")
        if paid["refunded"]:
            raise bad_request("CHARGE_ALREADY_REFUNDED")
        self._put_payment(charge_id, {**paid, "refunded": True})
        self._record(charge_id, paid, "receiver")
        return paid

    @property
    def balance(self) -> int:
        """The bot's Stars; it may be negative."""
        return sum(one["amount"] if "source" in one else -one["amount"] for one in self.transactions)

    def _put_payment(self, charge_id: str, row: dict[str, Any]) -> None:
        self.payments[charge_id] = row
        self.archive.put("payment", charge_id, row)

    def _record(self, charge_id: str, checkout: dict[str, Any], side: str) -> None:
        partner = {
            "type": "user",
            "transaction_type": "invoice_payment",
            "user": checkout["user"],
            "invoice_payload": checkout["payload"],
        }
        row = {"id": charge_id, "date": int(self.clock.now()), side: partner, "amount": checkout["stars"]}
        self.transactions.append(row)
        self.archive.put("transaction", self.counters.next("transaction"), row)


def read_invoice(params: Params) -> Invoice:
    """Return the invoice of a call.

    Raises:
        ApiError: 400 when it is none for Stars: currency XTR, no provider, one price.
    """
    for name in ("title", "description", "payload", "currency", "prices"):
        if not params.text(name):
            raise bad_request(f'parameter "{name}" is required')
    _check_words(params)
    prices = params.json("prices")
    if params.text("currency") != STARS:
        # Other currencies need a provider, and the sandbox has none.
        raise bad_request("PAYMENT_PROVIDER_INVALID")
    if not isinstance(prices, list) or not all(isinstance(price, dict) for price in prices):
        raise bad_request("expected an Array of labeled prices")
    unfit = params.text("provider_token") or params.integer("max_tip_amount") or params.flag("is_flexible")
    if unfit or len(prices) != 1:
        raise bad_request("STARS_INVOICE_INVALID")
    return Invoice(
        params.text("title"),
        params.text("description"),
        params.text("payload"),
        _price(prices[0]),
        params.text("start_parameter"),
    )


def _check_words(params: Params) -> None:
    limits = (("title", MAX_TITLE), ("description", MAX_DESCRIPTION))
    for name, most in limits:
        if len(params.text(name)) > most:
            raise bad_request(f"INVOICE_{name.upper()}_TOO_LONG")
    if len(params.text("payload").encode()) > MAX_PAYLOAD:
        raise bad_request("INVOICE_PAYLOAD_INVALID")


def _price(price: dict[str, Any]) -> int:
    if not isinstance(price.get("label"), str) or not price["label"]:
        raise bad_request("can't parse labeled price: LabeledPrice label must be non-empty")
    amount = price.get("amount")
    if not isinstance(amount, int) or not 1 <= amount <= MAX_STARS:
        raise bad_request("CURRENCY_TOTAL_AMOUNT_INVALID")
    return amount
