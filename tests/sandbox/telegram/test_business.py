"""Business accounts of the local Bot API: the bot answers in someone's name, where it may."""

import pytest
from aiogram.exceptions import TelegramBadRequest

from sandbox.telegram import BotApiServer
from tests.support.bot_api import bot_of

OWNER, CUSTOMER = 1001, 1002


async def test_the_bot_answers_a_customer_in_the_owners_name():
    """The connection and its messages are updates of their own; the two chats of one person stay apart."""
    async with BotApiServer() as api, bot_of(api) as bot:
        owner, customer = api.user(OWNER, "Olga"), api.user(CUSTOMER, "Carl")
        connection = await owner.connect_business()
        await customer.write_business(connection, "/create a cat")
        connected, written = await bot.get_updates()
        assert connected.business_connection.user.id == OWNER
        message = written.business_message
        assert (message.business_connection_id, message.chat.id) == (connection, CUSTOMER)
        assert (await bot.get_business_connection(connection)).rights.can_reply
        sent = await bot.send_message(CUSTOMER, "soon", business_connection_id=connection)
        assert (sent.from_user.id, sent.sender_business_bot.id) == (OWNER, bot.id)
        await bot.edit_message_text(
            "now", chat_id=CUSTOMER, message_id=sent.message_id, business_connection_id=connection
        )
        assert [b.text for b in customer.business_history(connection)] == ["/create a cat", "now"]
        assert customer.history() == []


async def test_where_it_may_not_answer():
    """An unknown or ended connection, or one without the right, is refused."""
    async with BotApiServer() as api, bot_of(api) as bot:
        owner = api.user(OWNER, "Olga")
        api.user(CUSTOMER, "Carl")
        ended = await owner.connect_business()
        await owner.disconnect_business(ended)
        for connection, words in (
            ("nothing", "business connection not found"),
            (ended, "BUSINESS_CONNECTION_NOT_ALLOWED"),
            (await owner.connect_business(can_reply=False), "BUSINESS_CONNECTION_NOT_ALLOWED"),
        ):
            with pytest.raises(TelegramBadRequest, match=words):
                await bot.send_message(CUSTOMER, "x", business_connection_id=connection)
        assert [u.business_connection.is_enabled for u in await bot.get_updates()] == [True, False, True]
