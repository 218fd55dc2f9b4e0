"""People, groups and topics of the local Telegram, and what the bot may do there."""

from dataclasses import asdict, dataclass, field
from typing import Any

from sandbox.telegram.base import ApiError, bad_request, forbidden
from sandbox.telegram.storage import Archive

GENERAL_TOPIC = 1
ADMIN = {"creator", "administrator"}


@dataclass
class ChatUser:
    """One person. `started` says whether they ever wrote to the bot, which may not write first."""

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
    """One supergroup or basic group, as the bot meets it.

    Attributes:
        kicked: The bot was removed, and may not come back by itself.
        left: The bot is not a member.
        muted: The bot may read and not send.
        admin: The bot is an administrator: it gets all messages and may delete any.
        refusal: Telegram's name of an error with which it refuses every message, such as `CHAT_RESTRICTED`.
        unnumbered: Telegram answers the bot's messages with the id 0, as for those that it schedules.
        topics: The forum's topics by id, and whether each is closed; without any it is no forum. 1 is the
            general one, to which a message without a topic goes.
        names: Names of topics by id.
        basic: A basic group: it has no topics, and ends when it becomes a supergroup.
        migrated_to: The id of the supergroup that it became; 0 where it did not.
        members: The status of each person by id; one who is not named is no member.
        anonymous: Administrators who write as the group.
    """

    id: int
    title: str
    kicked: bool = False
    muted: bool = False
    refusal: str = ""
    unnumbered: bool = False
    topics: dict[str, bool] = field(default_factory=dict)
    left: bool = False
    admin: bool = False
    names: dict[str, str] = field(default_factory=dict)
    basic: bool = False
    migrated_to: int = 0
    members: dict[str, str] = field(default_factory=dict)
    anonymous: list[int] = field(default_factory=list)

    def chat(self) -> dict[str, Any]:
        forum = {"is_forum": True} if self.topics else {}
        return {"id": self.id, "title": self.title, "type": self.kind, **forum}

    @property
    def kind(self) -> str:
        return "group" if self.basic else "supergroup"

    @property
    def bot_status(self) -> str:
        """The bot's status, as a ChatMember names it."""
        if self.kicked:
            return "kicked"
        if self.left:
            return "left"
        if self.admin:
            return "administrator"
        return "restricted" if self.muted else "member"

    def is_admin(self, user_id: int) -> bool:
        return self.members.get(str(user_id)) in ADMIN

    def check_access(self) -> None:
        """Refuse every call about a group of which the bot is no member.

        Raises:
            ApiError: 400 with `migrate_to_chat_id`, or 403.
        """
        if self.migrated_to:
            raise ApiError(
                400,
                "Bad Request: group chat was upgraded to a supergroup chat",
                {"migrate_to_chat_id": self.migrated_to},
            )
        if self.kicked:
            raise forbidden(f"bot was kicked from the {self.kind} chat")
        if self.left:
            raise forbidden(f"bot is not a member of the {self.kind} chat")

    def check_rights(self, kind: str, thread: int) -> None:
        """Refuse what the bot may not send: `kind` is a text message or a media, `thread` a topic or 0.

        Raises:
            ApiError: 400 in the Bot API server's words.
        """
        if self.refusal:
            raise bad_request(self.refusal)
        if self.muted:
            raise bad_request(f"not enough rights to send {kind} to the chat")
        if thread and str(thread) not in self.topics:
            raise bad_request("message thread not found")
        if self.topics.get(str(thread or GENERAL_TOPIC)):
            raise bad_request("TOPIC_CLOSED")


@dataclass
class ChatRegistry:
    _archive: Archive
    users: dict[int, ChatUser] = field(default_factory=dict)
    groups: dict[int, Group] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.users |= {row["id"]: ChatUser(**row) for row in self._archive.load("person").values()}
        self.groups |= {row["id"]: Group(**row) for row in self._archive.load("group").values()}

    def keep(self, who: ChatUser | Group) -> None:
        """Store a new or changed person or group."""
        if isinstance(who, ChatUser):
            self.users[who.id] = who
        else:
            self.groups[who.id] = who
        self._archive.put("person" if isinstance(who, ChatUser) else "group", who.id, asdict(who))

    def chat(self, chat_id: str) -> ChatUser | Group:
        """Return the chat that a call names.

        Raises:
            ApiError: 400 when none is named or known.
        """
        if not chat_id:
            raise bad_request("chat_id is empty")
        number = int(chat_id) if chat_id.lstrip("-").isdigit() else 0
        found = self.users.get(number) or self.groups.get(number)
        if found is None:
            raise bad_request("chat not found")
        return found

    def readable(self, chat_id: str) -> ChatUser | Group:
        """Return the chat, if the bot may ask about it.

        Raises:
            ApiError: 400 when unknown or migrated, 403 when the bot is no member of the group.
        """
        found = self.chat(chat_id)
        if isinstance(found, Group):
            found.check_access()
        return found

    def writable(self, chat_id: str) -> ChatUser | Group:
        """Return the chat, if the bot may write there.

        Raises:
            ApiError: 400 when unknown or migrated, 403 when the person blocked the bot or never started it,
                or when the bot is no member of the group.
        """
        found = self.readable(chat_id)
        if isinstance(found, Group):
            return found
        if found.blocked:
            raise forbidden("bot was blocked by the user")
        if not found.started:
            raise forbidden("bot can't initiate conversation with a user")
        return found
