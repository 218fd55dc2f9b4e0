"""What people do with a business account: connect the bot to theirs, and write to someone else's."""

from sandbox.telegram.account import Account
from sandbox.telegram.bubbles import Bubble, bubble_of
from sandbox.telegram.html import Formatted, find_entities
from sandbox.telegram.sending import text_fields
from sandbox.telegram.state import place_of


class BusinessUser(Account):
    async def connect_business(self, *, can_reply: bool = True) -> str:
        """Connect the bot to this person's private chats; return the connection's id."""
        connection_id = self._world.business.connect(self._user.user(), can_reply=can_reply)
        self._push_update("business_connection", self._world.business.find(connection_id), self.id)
        return connection_id

    async def disconnect_business(self, connection_id: str) -> None:
        self._world.business.disable(connection_id)
        self._push_update("business_connection", self._world.business.find(connection_id), self.id)

    async def write_business(self, connection_id: str, text: str, *, customer: int = 0) -> Bubble:
        """Write to the connected account; its owner writes to a `customer`."""
        chat = self._world.chats.users[customer or self.id].chat()
        message = self._world.messages.put(
            {
                "message_id": self._world.messages.next_id(self.id),
                "from": self._user.user(),
                "chat": chat,
                "date": int(self._world.clock.now()),
                "business_connection_id": connection_id,
                **text_fields(Formatted(text, find_entities(text))),
            }
        )
        if self._world.business.find(connection_id)["is_enabled"]:
            self._push_update("business_message", message, chat["id"])
        return self._bubble(message)

    def business_history(self, connection_id: str, *, customer: int = 0) -> list[Bubble]:
        """Return the messages between the account and a customer, oldest first."""
        place = place_of(customer or self.id, connection_id)
        return [bubble_of(record, self._user) for record in self._world.messages.of(place)]
