"""Who is there: people and groups, as the Bot API describes them, and who may be written to."""

from dataclasses import asdict, dataclass, field
from typing import Any

from chat.rehearsal.archive import Archive
from chat.rehearsal.errors import bad_request, forbidden


@dataclass
class Card:
    """One person; `started` is whether they ever wrote to the bot, who may not write first."""

    id: int
    first_name: str
    language_code: str = "en"
    username: str = ""
    started: bool = False
    blocked: bool = False

    def user(self) -> dict[str, Any]:
        base = {"id": self.id, "is_bot": False, "first_name": self.first_name}
        named = {**base, "username": self.username} if self.username else base
        return {**named, "language_code": self.language_code} if self.language_code else named

    def chat(self) -> dict[str, Any]:
        base = {"id": self.id, "first_name": self.first_name, "type": "private"}
        return {**base, "username": self.username} if self.username else base


@dataclass
class Group:
    """One supergroup; `kicked` is whether the bot was thrown out."""

    id: int
    title: str
    kicked: bool = False

    def chat(self) -> dict[str, Any]:
        return {"id": self.id, "title": self.title, "type": "supergroup"}


@dataclass
class Crowd:
    _archive: Archive
    cards: dict[int, Card] = field(default_factory=dict)
    groups: dict[int, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.cards |= {row["id"]: Card(**row) for row in self._archive.load("person").values()}
        self.groups |= {row["id"]: Group(**row) for row in self._archive.load("group").values()}

    def keep(self, who: Card | Group) -> None:
        """Remember a new or changed person or group."""
        if isinstance(who, Card):
            self.cards[who.id] = who
        else:
            self.groups[who.id] = who
        self._archive.put("person" if isinstance(who, Card) else "group", who.id, asdict(who))

    def chat(self, chat_id: str) -> Card | Group:
        """The chat that a call names.

        Raises:
            ApiError: 400 when none is named or known.
        """
        if not chat_id:
            raise bad_request("chat_id is empty")
        number = int(chat_id) if chat_id.lstrip("-").isdigit() else 0
        found = self.cards.get(number) or self.groups.get(number)
        if found is None:
            raise bad_request("chat not found")
        return found

    def writable(self, chat_id: str) -> Card | Group:
        """The chat, if the bot may write there.

        Raises:
            ApiError: 400 when unknown, 403 when the person blocked the bot or never started it.
        """
        found = self.chat(chat_id)
        if isinstance(found, Group):
            if found.kicked:
                raise forbidden("bot was kicked from the supergroup chat")
        elif found.blocked:
            raise forbidden("bot was blocked by the user")
        elif not found.started:
            raise forbidden("bot can't initiate conversation with a user")
        return found
