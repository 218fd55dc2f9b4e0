"""What a person does with groups: come and go, add, silence and remove the bot, topics, migration."""

from dataclasses import replace
from typing import Any, Literal

from sandbox.telegram.account import Account
from sandbox.telegram.base import SandboxError
from sandbox.telegram.bubbles import Bubble
from sandbox.telegram.chats import Group

BotStatus = Literal["member", "restricted", "administrator", "left", "kicked"]
ICON_COLOR = 7322096


class GroupMember(Account):
    async def create_group(self, chat: int, title: str = "Group", *, basic: bool = False) -> int:
        """Create a group with the bot in it, and own it; `chat` is negative. Returns the id.

        Raises:
            SandboxError: The id is not negative, or taken.
        """
        if chat >= 0 or chat in self._world.chats.groups:
            raise SandboxError(f"a new group's id is negative and not taken, not {chat}")
        group = Group(chat, title, basic=basic, members={str(self.id): "creator"})
        self._world.chats.keep(group)
        self._announce(group, {"new_chat_members": [self._world.bot]})
        self._push_bot_change(group, "left", "member")
        return chat

    async def join(self, chat: int) -> None:
        self._set_member(chat, self.id, "member")
        self._announce(self._world.chats.groups[chat], {"new_chat_members": [self._user.user()]})

    async def leave(self, chat: int) -> None:
        group = self._group(chat)
        self._announce(group, {"left_chat_member": self._user.user()})
        self._set_member(chat, self.id, "left")

    async def ban(self, chat: int, user_id: int) -> None:
        """Ban another person from the group."""
        group = self._group(chat)
        self._set_member(chat, user_id, "kicked")
        self._announce(group, {"left_chat_member": self._world.chats.users[user_id].user()})

    async def promote(self, chat: int, *, anonymous: bool = False, owner: bool = False) -> None:
        """Become an administrator; an anonymous one writes as the group from then on."""
        group = self._set_member(chat, self.id, "creator" if owner else "administrator")
        others = [one for one in group.anonymous if one != self.id]
        self._world.chats.keep(replace(group, anonymous=[*others, self.id] if anonymous else others))

    async def set_bot_status(self, chat: int, status: BotStatus) -> None:
        """Add, remove, promote or silence the bot: it gets `my_chat_member`, also when it is removed."""
        group = self._group(chat)
        before = group.bot_status
        changed = replace(
            group,
            kicked=status == "kicked",
            left=status == "left",
            muted=status == "restricted",
            admin=status == "administrator",
        )
        self._world.chats.keep(changed)
        gone = {"left", "kicked"}
        if (before in gone) != (status in gone):
            came = {"new_chat_members": [self._world.bot]}
            self._announce(changed, {"left_chat_member": self._world.bot} if status in gone else came)
        self._push_bot_change(changed, before, status)

    async def create_topic(self, chat: int, name: str) -> int:
        """Create a topic; the group is a forum from then on. Returns its id, for `send(topic=)`."""
        group = self._group(chat)
        number = self._world.messages.next_id(chat)
        topics, names = {**group.topics, str(number): False}, {**group.names, str(number): name}
        self._world.chats.keep(replace(group, topics=topics, names=names))
        content = {
            "message_thread_id": number,
            "is_topic_message": True,
            "forum_topic_created": {"name": name, "icon_color": ICON_COLOR},
        }
        self._announce(self._world.chats.groups[chat], content, number)
        return number

    async def close_topic(self, chat: int, topic: int, *, closed: bool = True) -> None:
        group = self._group(chat)
        self._world.chats.keep(replace(group, topics={**group.topics, str(topic): closed}))
        happened = "forum_topic_closed" if closed else "forum_topic_reopened"
        content = {"message_thread_id": topic, "is_topic_message": True, happened: {}}
        self._announce(self._world.chats.groups[chat], content)

    async def migrate(self, chat: int) -> int:
        """Turn a basic group into a supergroup, which has a new id; return that.

        Calls about the old group are refused with `migrate_to_chat_id` from then on.

        Raises:
            SandboxError: It is a supergroup already.
        """
        group = self._group(chat)
        if not group.basic:
            raise SandboxError(f"{chat} is a supergroup already: create it with basic=True")
        number = -1_000_000_000_000 + chat
        self._announce(group, {"migrate_to_chat_id": number})
        self._world.chats.keep(replace(group, migrated_to=number))
        self._world.chats.keep(replace(group, id=number, basic=False))
        self._announce(self._world.chats.groups[number], {"migrate_from_chat_id": chat})
        return number

    def _set_member(self, chat: int, user_id: int, status: str) -> Group:
        group = self._world.chats.groups[chat]
        changed = replace(group, members={**group.members, str(user_id): status})
        self._world.chats.keep(changed)
        return changed

    def _announce(self, group: Group, content: dict[str, Any], number: int = 0) -> Bubble:
        """Add a service message; bots get all of them, in privacy mode too."""
        message = self._world.messages.put(
            {
                "message_id": number or self._world.messages.next_id(group.id),
                "from": self._user.user(),
                "chat": group.chat(),
                "date": int(self._world.clock.now()),
                **content,
            }
        )
        if not group.kicked and not group.left:
            self._push_update("message", message, group.id)
        return self._bubble(message)
