"""All messages of all chats, each as the Bot API's Message JSON."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from chat.rehearsal.archive import Archive, Counters
from chat.rehearsal.feed import Feed

Message = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """A message and the number of its last change: a reader keeps the higher revision."""

    message: Message
    revision: int


class MessageBook:
    def __init__(self, archive: Archive, counters: Counters, feed: Feed) -> None:
        self._archive = archive
        self._counters = counters
        self._feed = feed
        self._chats: dict[int, dict[int, Record]] = {}
        for row in archive.load("message").values():
            record = Record(row["message"], row["revision"])
            self._chat(record.message["chat"]["id"])[record.message["message_id"]] = record

    def next_id(self, chat_id: int) -> int:
        """Private chats share one row of numbers, each supergroup has its own: ids alone name nothing."""
        return self._counters.next("message" if chat_id > 0 else f"message:{chat_id}")

    def put(self, message: Message) -> Message:
        """Add a message, or replace the one with its id, and show it to those who watch."""
        chat_id, message_id = message["chat"]["id"], message["message_id"]
        record = Record(message, self._counters.next("revision"))
        self._chat(chat_id)[message_id] = record
        self._archive.put(
            "message", f"{chat_id}:{message_id}", {"message": message, "revision": record.revision}
        )
        self._feed.publish(chat_id, "message", {"message": message, "revision": record.revision})
        return message

    def remove(self, chat_id: int, message_id: int) -> bool:
        if self._chat(chat_id).pop(message_id, None) is None:
            return False
        self._archive.drop("message", f"{chat_id}:{message_id}")
        self._feed.publish(chat_id, "gone", {"message_id": message_id})
        return True

    def find(self, chat_id: int, message_id: int) -> Message | None:
        record = self._chat(chat_id).get(message_id)
        return record.message if record else None

    def of(self, chat_id: int) -> Iterator[Record]:
        """The chat's messages, oldest first."""
        chat = self._chat(chat_id)
        return (chat[message_id] for message_id in sorted(chat))

    def _chat(self, chat_id: int) -> dict[int, Record]:
        return self._chats.setdefault(chat_id, {})
