"""The Bot API's methods of inline mode, payments in Stars and business accounts."""

from typing import Any

from sandbox.telegram.base import bad_request
from sandbox.telegram.chats import Group
from sandbox.telegram.inline import read_answer
from sandbox.telegram.keyboards import reply_markup
from sandbox.telegram.params import Params
from sandbox.telegram.sending import addressed, send
from sandbox.telegram.stars import MAX_LISTED, read_invoice
from sandbox.telegram.state import World
from sandbox.telegram.updates import MESSAGE_LIFETIME


async def answer_inline_query(world: World, params: Params) -> Any:
    answer = await read_answer(world.files, params, world.clock.now())
    personal = params.flag("is_personal")
    world.inline.answer(params.text("inline_query_id"), answer, personal=personal)
    return True


async def get_business_connection(world: World, params: Params) -> Any:
    return world.business.find(params.text("business_connection_id"))


async def send_invoice(world: World, params: Params) -> Any:
    chat = addressed(world, params, "text")
    invoice = read_invoice(params)
    markup = reply_markup(params, invoice=True)
    return send(world, params, chat, {"invoice": invoice.json()}, markup, payload=invoice.payload)


async def create_invoice_link(world: World, params: Params) -> Any:
    return world.stars.link(read_invoice(params))


async def answer_pre_checkout_query(world: World, params: Params) -> Any:
    """Let a payment happen, or refuse it with words for the person."""
    accepted, words = params.flag("ok"), params.text("error_message")
    if not accepted and not words:
        raise bad_request('parameter "error_message" is required')
    query_id = params.text("pre_checkout_query_id")
    checkout = world.stars.close(query_id)
    body = {"query_id": query_id, "ok": accepted, "error": words, "charge_id": ""}
    if accepted:
        payment = world.stars.pay(checkout)
        body["charge_id"] = payment["telegram_payment_charge_id"]
        _service_message(world, checkout, {"successful_payment": payment})
    world.feed.publish(checkout["user"]["id"], "payment", body)
    return True


async def refund_star_payment(world: World, params: Params) -> Any:
    user_id = params.integer("user_id")
    if user_id not in world.chats.users:
        raise bad_request("USER_ID_INVALID")
    charge_id = params.text("telegram_payment_charge_id")
    if not charge_id:
        raise bad_request('parameter "telegram_payment_charge_id" is required')
    paid = world.stars.refund(user_id, charge_id)
    _service_message(world, paid, {"refunded_payment": paid["payment"]})
    return True


async def get_star_transactions(world: World, params: Params) -> Any:
    """List transactions, oldest first; a refund has the id of its payment and a receiver."""
    offset, limit = max(params.integer("offset"), 0), params.integer("limit", MAX_LISTED)
    limit = min(max(limit, 1), MAX_LISTED)
    return {"transactions": world.stars.transactions[offset : offset + limit]}


async def get_my_star_balance(world: World, params: Params) -> Any:  # noqa: ARG001  # all methods have one signature
    return {"amount": world.stars.balance}


def _service_message(world: World, checkout: dict[str, Any], content: dict[str, Any]) -> None:
    """Add what Telegram itself says in the chat of the invoice, and push it to the bot."""
    chat = world.chats.chat(str(checkout["chat_id"]))
    message = world.messages.put(
        {
            "message_id": world.messages.next_id(chat.id),
            "from": checkout["user"],
            "chat": chat.chat(),
            "date": int(world.clock.now()),
            **content,
        }
    )
    if not isinstance(chat, Group) or not (chat.kicked or chat.left):
        lifetime = world.clock.wait(MESSAGE_LIFETIME)
        world.updates.push("message", message, f"chat:{chat.id}", lifetime)
