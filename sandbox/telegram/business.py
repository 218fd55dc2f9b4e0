"""Business accounts: the bot reads and answers the private chats of a person who connected it."""

import secrets
from dataclasses import dataclass, field
from typing import Any

from sandbox.telegram.base import Clock, bad_request
from sandbox.telegram.params import Params
from sandbox.telegram.storage import Archive


@dataclass
class BusinessStore:
    """Connections by id: the owner, since when, whether the bot may answer, whether it still holds."""

    archive: Archive
    clock: Clock
    connections: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.connections |= self.archive.load("business")

    def connect(self, user: dict[str, Any], *, can_reply: bool) -> str:
        connection_id = secrets.token_urlsafe(12)
        self._put(
            {
                "id": connection_id,
                "user": user,
                "user_chat_id": user["id"],
                "date": int(self.clock.now()),
                "is_enabled": True,
                "rights": {"can_reply": True} if can_reply else {},
            }
        )
        return connection_id

    def disable(self, connection_id: str) -> None:
        self._put({**self.find(connection_id), "is_enabled": False})

    def find(self, connection_id: str) -> dict[str, Any]:
        """Return a BusinessConnection.

        Raises:
            ApiError: 400 when it is unknown.
        """
        if connection_id not in self.connections:
            raise bad_request("business connection not found")
        return self.connections[connection_id]

    def sender(self, connection_id: str) -> dict[str, Any]:
        """Return the account in whose name the bot sends.

        Raises:
            ApiError: 400 when the connection is unknown or ended, or the bot may not answer.
        """
        connection = self.find(connection_id)
        if not connection["is_enabled"] or not connection["rights"].get("can_reply"):
            raise bad_request("BUSINESS_CONNECTION_NOT_ALLOWED")
        user: dict[str, Any] = connection["user"]
        return user

    def _put(self, connection: dict[str, Any]) -> None:
        self.connections[connection["id"]] = connection
        self.archive.put("business", connection["id"], connection)


def business_fields(store: BusinessStore, bot: dict[str, Any], params: Params) -> dict[str, Any]:
    """Return the fields of a message that the bot sends in the name of an account; none without one."""
    connection_id = params.text("business_connection_id")
    if not connection_id:
        return {}
    return {
        "from": store.sender(connection_id),
        "sender_business_bot": bot,
        "business_connection_id": connection_id,
    }
