"""The rehearsal's Telegram as one value that goes down as an argument."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chat.rehearsal.archive import Archive, Counters
from chat.rehearsal.callbacks import CallbackBook
from chat.rehearsal.calls import CallLog
from chat.rehearsal.clock import Clock
from chat.rehearsal.crowd import Card, Crowd
from chat.rehearsal.faults import FaultBook
from chat.rehearsal.feed import Feed
from chat.rehearsal.files import FileStore
from chat.rehearsal.messages import MessageBook
from chat.rehearsal.redelivery import Courier
from chat.rehearsal.updates import UpdateQueue


@dataclass(frozen=True)
class World:
    token: str
    bot: dict[str, Any]
    clock: Clock
    archive: Archive
    feed: Feed
    crowd: Crowd
    messages: MessageBook
    files: FileStore
    updates: UpdateQueue
    callbacks: CallbackBook
    courier: Courier
    faults: FaultBook
    calls: CallLog
    commands: dict[str, list[dict[str, Any]]]

    def person(self, user_id: int, first_name: str, language_code: str, username: str) -> Card:
        """The person with this id, made on first sight."""
        if user_id not in self.crowd.cards:
            self.crowd.keep(Card(user_id, first_name or f"Person {user_id}", language_code or "en", username))
        return self.crowd.cards[user_id]


def build_world(
    token: str, username: str, name: str, clock: Clock, media: Path, state: Path | None, seed: int
) -> World:
    """Put the parts together; with `state` they remember what was there before."""
    chance = random.Random(seed)  # noqa: S311  # a rehearsal wants the same chance twice, not secrecy
    archive, feed = Archive(state), Feed()
    counters = Counters(archive)
    updates = UpdateQueue(archive, counters, clock, first_id=chance.randrange(10**8, 9 * 10**8))
    return World(
        token=token,
        bot={"id": int(token.partition(":")[0]), "is_bot": True, "first_name": name, "username": username},
        clock=clock,
        archive=archive,
        feed=feed,
        crowd=Crowd(archive),
        messages=MessageBook(archive, counters, feed),
        files=FileStore(media, archive, counters),
        updates=updates,
        callbacks=CallbackBook(archive, clock, feed),
        courier=Courier(updates, clock, chance),
        faults=FaultBook(),
        calls=CallLog(),
        commands=archive.load("commands"),
    )
