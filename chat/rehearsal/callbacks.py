"""Taps that wait for their answer: each may be answered once, and not for long."""

import secrets
from typing import Any

from chat.rehearsal.archive import Archive
from chat.rehearsal.clock import Clock
from chat.rehearsal.errors import bad_request
from chat.rehearsal.feed import Feed

LIFETIME = 150.0
MAX_ANSWER = 200


class CallbackBook:
    def __init__(self, archive: Archive, clock: Clock, feed: Feed) -> None:
        self._archive = archive
        self._clock = clock
        self._feed = feed
        self._open: dict[str, dict[str, Any]] = archive.load("tap")

    def open(self, user_id: int, chat_id: int) -> str:
        """A new query id for a tap."""
        query_id = str((user_id << 32) + secrets.randbits(32))
        ends = self._clock.now() + self._clock.patience(LIFETIME)
        self._open[query_id] = {"chat_id": chat_id, "user_id": user_id, "ends": ends}
        self._archive.put("tap", query_id, self._open[query_id])
        return query_id

    def answer(self, query_id: str, text: str, *, alert: bool) -> None:
        """Answer a tap once.

        Raises:
            ApiError: 400 when the id is unknown, already answered or over 150 s old.
        """
        tap = self._open.pop(query_id, None)
        self._archive.drop("tap", query_id)
        if tap is None or tap["ends"] < self._clock.now():
            raise bad_request("query is too old and response timeout expired or query ID is invalid")
        if len(text) > MAX_ANSWER:
            raise bad_request("MESSAGE_TOO_LONG")
        body = {"query_id": query_id, "user_id": tap["user_id"], "text": text, "alert": alert}
        self._feed.publish(tap["chat_id"], "answer", body)
