"""A person's account: what their app shows, and how what they do becomes messages and updates."""

import asyncio
from collections.abc import Callable
from typing import Any

from sandbox.telegram.base import SandboxError
from sandbox.telegram.bubbles import Bubble, bubble_of, words_of
from sandbox.telegram.chats import ChatUser, Group
from sandbox.telegram.ephemeral import shown_to
from sandbox.telegram.html import COMMAND, MENTION
from sandbox.telegram.profile import commands_for, member
from sandbox.telegram.sending import replied_fields, topic_fields
from sandbox.telegram.state import Message, Record, World, found_at
from sandbox.telegram.storage import ChatEvent
from sandbox.telegram.updates import MESSAGE_LIFETIME, Update

ANONYMOUS_ADMIN = {
    "id": 1087968824, "is_bot": True, "first_name": "Group", "username": "GroupAnonymousBot",
}  # fmt: skip
"""The account that Telegram names as the author where an administrator writes as the group."""


class Account:
    """One person and their Telegram app; `chat` is a group's id, or None for the chat with the bot."""

    def __init__(self, world: World, user: ChatUser) -> None:
        self._world = world
        self._user = user
        self.last_update: Update | None = None

    @property
    def id(self) -> int:
        return self._user.id

    @property
    def user(self) -> ChatUser:
        return self._user

    def history(self, *, chat: int | None = None, topic: int = 0) -> list[Bubble]:
        """Return all messages in the chat, or in one topic of it, oldest first."""
        records = self._world.messages.of(chat or self.id)
        shown = [bubble_of(record, self._user) for record in records if shown_to(record.message, self.id)]
        return [bubble for bubble in shown if not topic or bubble.topic == topic]

    async def wait_for(
        self, predicate: Callable[[Bubble], bool], timeout: float = 180, *, chat: int | None = None
    ) -> Bubble:
        """Return the first message in the chat for which `predicate` holds, now or after a later change.

        Raises:
            SandboxError: There was none within `timeout` seconds; the message shows the chat.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    seen = self._world.feed.last
                    for bubble in self.history(chat=chat):
                        if predicate(bubble):
                            return bubble
                    await self._world.feed.beyond(seen)
        except TimeoutError:
            shown = [f"{bubble.sender}: {bubble.text[:80]!r}" for bubble in self.history(chat=chat)]
            raise SandboxError(f"no such message within {timeout} s; the chat: {shown}") from None

    async def wait_for_answer(self, query_id: str, timeout: float = 180) -> dict[str, Any]:
        """Return the bot's answer to a tap: `text` and `alert`.

        Raises:
            SandboxError: It did not within `timeout` seconds.
        """
        return await self._wait_for_event(
            lambda event: event.kind == "answer" and event.body["query_id"] == query_id,
            f"the tap {query_id} was not answered",
            timeout,
        )

    async def _wait_for_event(
        self, predicate: Callable[[ChatEvent], bool], missing: str, timeout: float
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    seen = self._world.feed.last
                    for event in self._world.feed.since(0):
                        if predicate(event):
                            return event.body
                    await self._world.feed.beyond(seen)
        except TimeoutError:
            raise SandboxError(f"{missing} within {timeout} s") from None

    def _say(
        self,
        chat: int | None,
        content: dict[str, Any],
        reply_to: int | None = None,
        *,
        topic: int = 0,
        quote: str = "",
        anonymous: bool = False,
    ) -> Bubble:
        """Add a message of this person, and an update where the bot gets it."""
        where = self._where(chat)
        replied = self._find(reply_to, chat) if reply_to else None
        topic = topic or (replied or {}).get("message_thread_id", 0)
        author, extra = self._author(where, anonymous=anonymous)
        hidden = self._ephemeral(where, content)
        message = self._world.messages.put(
            {
                "message_id": 0 if hidden else self._world.messages.next_id(where.id),
                **author,
                "chat": where.chat(),
                "date": int(self._world.clock.now()),
                **topic_fields(topic),
                **(replied_fields(replied, quote) if replied else {}),
                **content,
                **hidden,
            },
            **extra,
        )
        if isinstance(where, ChatUser) or self._reaches(where, message):
            self._push_update("message", message, where.id)
        return self._bubble(message)

    def _author(self, where: ChatUser | Group, *, anonymous: bool) -> tuple[dict[str, Any], dict[str, Any]]:
        if not isinstance(where, Group) or not (anonymous or self.id in where.anonymous):
            return {"from": self._user.user()}, {}
        return {"from": ANONYMOUS_ADMIN, "sender_chat": where.chat()}, {"author": self.id}

    def _ephemeral(self, where: ChatUser | Group, content: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of an ephemeral command: one that the bot's menu of this group says is one."""
        used = COMMAND.match(content.get("text", ""))
        if not isinstance(where, Group) or used is None:
            return {}
        name = used.group()[1:].partition("@")[0]
        menu = commands_for(self._world, where, self.id, self._user.language_code)
        if not any(one["command"] == name and one.get("is_ephemeral") for one in menu):
            return {}
        number = self._world.messages.next_ephemeral(where.id)
        return {"ephemeral_message_id": number, "receiver_user": self._world.bot}

    def _where(self, chat: int | None) -> ChatUser | Group:
        if chat is not None:
            return self._group(chat)
        if self._user.blocked:
            self._set_blocked(False)  # an app asks to unblock before it sends
        if not self._user.started:
            self._user.started = True
            self._world.chats.keep(self._user)
        return self._user

    def _group(self, chat: int) -> Group:
        """Return a group of which this person is a member; who was never in it joins.

        Raises:
            SandboxError: They left it, were banned, or it became a supergroup.
        """
        group = self._world.chats.groups[chat]
        if group.migrated_to:
            raise SandboxError(f"group {chat} became the supergroup {group.migrated_to}")
        status = group.members.get(str(self.id))
        if status in {"left", "kicked"}:
            raise SandboxError(f"{self._user.first_name} is not in group {chat}: {status}")
        if status is None:
            group.members[str(self.id)] = "member"
            self._world.chats.keep(group)
        return group

    def _set_blocked(self, blocked: bool) -> None:
        self._user.blocked = blocked
        self._world.chats.keep(self._user)
        before, after = ("member", "kicked") if blocked else ("kicked", "member")
        self._push_bot_change(self._user, before, after)

    def _push_bot_change(self, where: ChatUser | Group, before: str, after: str) -> None:
        """Push `my_chat_member`: what this person changed about the bot in this chat."""
        change = {
            "chat": where.chat(),
            "from": self._user.user(),
            "date": int(self._world.clock.now()),
            "old_chat_member": member(before, self._world.bot),
            "new_chat_member": member(after, self._world.bot),
        }
        self._push_update("my_chat_member", change, where.id)

    def _push_update(self, kind: str, body: dict[str, Any], chat_id: int) -> None:
        lifetime = self._world.clock.wait(MESSAGE_LIFETIME)
        self.last_update = self._world.updates.push(kind, body, f"chat:{chat_id}", lifetime)

    def _find(self, message_id: int, chat: int | None) -> Message:
        message = self._world.messages.find(chat or self.id, message_id)
        if message is None:
            raise SandboxError(f"there is no message {message_id} in this chat")
        return message

    def _bubble(self, message: Message) -> Bubble:
        current = self._world.messages.record(*found_at(message))
        return bubble_of(current or Record(message, 0), self._user)

    def _reaches(self, group: Group, message: Message) -> bool:
        """Return whether the bot gets this message of a group.

        In privacy mode: its commands, replies to it, mentions of it, and what was sent through it.
        """
        bot = self._world.bot
        if group.kicked or group.left:
            return False
        if group.admin or self._world.features["can_read_all_group_messages"]:
            return True
        through = {
            message.get("via_bot", {}).get("id"),
            message.get("reply_to_message", {}).get("from", {}).get("id"),
        }
        if bot["id"] in through:
            return True
        text = words_of(message)[0]
        if any(match.group()[1:].lower() == bot["username"].lower() for match in MENTION.finditer(text)):
            return True
        addressed = (match.group().partition("@")[2].lower() for match in COMMAND.finditer(text))
        return any(name in {"", bot["username"].lower()} for name in addressed)
