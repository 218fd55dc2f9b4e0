"""What a person does with invoices: pay them, as a test."""

from typing import Any

from sandbox.telegram.account import Account
from sandbox.telegram.base import SandboxError
from sandbox.telegram.stars import INVOICE_LINK, STARS

CHECKOUT_UPDATE_LIFETIME = 150.0


class Payer(Account):
    async def pay(self, message_id: int, *, chat: int | None = None) -> str:
        """Press the Pay button of an invoice, any number of times; return the id of the pre-checkout query.

        The bot has ten seconds to answer it: see `wait_for_payment`.

        Raises:
            SandboxError: The message is no invoice.
        """
        self._find(message_id, chat)
        record = self._world.messages.record(chat or self.id, message_id)
        if record is None or "invoice" not in record.message:
            raise SandboxError(f"message {message_id} is no invoice")
        invoice = record.message["invoice"]
        return self._check_out(record.message["chat"]["id"], invoice["total_amount"], record.extra["payload"])

    async def pay_link(self, url: str) -> str:
        """Pay what `createInvoiceLink` returned; the payment appears in the chat with the bot."""
        invoice = self._world.stars.links.get(url.removeprefix(INVOICE_LINK))
        if invoice is None:
            raise SandboxError(f"{url!r} is no invoice")
        self._where(None)
        return self._check_out(self.id, invoice["total_amount"], invoice["payload"])

    async def wait_for_payment(self, query_id: str) -> dict[str, Any]:
        """Return how a payment ended: `ok`, `charge_id`, and in `error` the bot's words or "timeout".

        It waits as long as Telegram does: ten seconds, scaled.
        """
        checkout = self._world.stars.checkouts.get(query_id)
        left = checkout["ends"] - self._world.clock.now() if checkout else 0.05
        try:
            return await self._wait_for_event(
                lambda event: event.kind == "payment" and event.body["query_id"] == query_id,
                "the payment was not confirmed",
                max(left, 0.05),
            )
        except SandboxError:
            return {"query_id": query_id, "ok": False, "charge_id": "", "error": "timeout"}

    def _check_out(self, chat_id: int, stars: int, payload: str) -> str:
        query_id = self._world.stars.open(self._user.user(), chat_id, stars, payload)
        body = {
            "id": query_id,
            "from": self._user.user(),
            "currency": STARS,
            "total_amount": stars,
            "invoice_payload": payload,
        }
        lifetime = self._world.clock.time_limit(CHECKOUT_UPDATE_LIFETIME)
        self.last_update = self._world.updates.push("pre_checkout_query", body, f"pay:{self.id}", lifetime)
        return query_id
