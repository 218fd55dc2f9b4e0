"""A person with a Telegram app: what they do, and the messages they see."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sandbox.telegram.base import SandboxError
from sandbox.telegram.html import COMMAND, Entity, Formatted, find_entities, to_html, units
from sandbox.telegram.methods import caption_fields, keep_picture, text_fields, topic_fields
from sandbox.telegram.params import MAX_TEXT
from sandbox.telegram.state import CALLBACK_LIFETIME, ChatUser, Group, Message, Record, World
from sandbox.telegram.updates import MESSAGE_LIFETIME, Update

# The smallest PNG: 1 x 1, gray.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63680000008200815cc1b2be0000000049454e44ae426082"
)
# Of a newer Bot API: aiogram 3.31 refuses an origin whose type it does not know.
UNKNOWN_FIELDS: dict[str, Any] = {"external_reply": {"origin": {"type": "of_a_newer_bot_api", "date": 1}}}


class Button(BaseModel):
    model_config = ConfigDict(frozen=True)
    text: str
    data: str | None = None
    url: str | None = None


class ShownMedia(BaseModel):
    """A video, animation, photo or document; `poster` is the thumbnail's file id."""

    model_config = ConfigDict(frozen=True)
    kind: str
    file_id: str
    name: str = ""
    size: int = 0
    width: int = 0
    height: int = 0
    duration: int = 0
    poster: str | None = None


class Bubble(BaseModel):
    """One message as a person sees it.

    Attributes:
        text: The text, or the caption under media, without formatting.
        html: The same as safe HTML.
        buttons: The rows of the inline keyboard.
        raw: The Bot API's Message JSON behind it.
    """

    model_config = ConfigDict(frozen=True)
    id: int
    chat_id: int
    revision: int
    date: int
    mine: bool
    sender: str
    edited: bool
    text: str
    html: str
    buttons: list[list[Button]]
    media: ShownMedia | None
    reply_to: int | None
    raw: dict[str, Any] = Field(exclude=True, repr=False)

    @property
    def button_texts(self) -> list[str]:
        return [button.text for row in self.buttons for button in row]


def bubble_of(record: Record, viewer: int) -> Bubble:
    """Return `record` as the person with the id `viewer` sees it."""
    message = record.message
    text = message.get("text") or message.get("caption") or ""
    entities: list[Entity] = message.get("entities") or message.get("caption_entities") or []
    rows = message.get("reply_markup", {}).get("inline_keyboard", [])
    return Bubble(
        id=message["message_id"],
        chat_id=message["chat"]["id"],
        revision=record.revision,
        date=message["date"],
        mine=message["from"]["id"] == viewer,
        sender=message["from"]["first_name"],
        edited="edit_date" in message,
        text=text,
        html=to_html(text, entities),
        buttons=[[_button(button) for button in row] for row in rows],
        media=_shown(message),
        reply_to=message.get("reply_to_message", {}).get("message_id"),
        raw=message,
    )


def _button(button: dict[str, Any]) -> Button:
    return Button(text=button["text"], data=button.get("callback_data"), url=button.get("url"))


def _shown(message: dict[str, Any]) -> ShownMedia | None:
    for kind in ("video", "animation", "document", "photo"):
        if kind in message:
            file = message[kind][-1] if kind == "photo" else message[kind]
            sizes = {name: file[name] for name in ("width", "height", "duration") if name in file}
            poster = file.get("thumbnail", {}).get("file_id")
            name, size = file.get("file_name", ""), file.get("file_size", 0)
            return ShownMedia(
                kind=kind, file_id=file["file_id"], name=name, size=size, poster=poster, **sizes
            )
    return None


class Person:
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

    async def send(
        self,
        text: str,
        *,
        chat: int | None = None,
        reply_to: int | None = None,
        topic: int = 0,
        newer: bool = False,
    ) -> Bubble:
        """Send one message, trimmed as an app does; in a forum to one of its topics.

        With `newer` its update holds something of a Bot API that the bot does not know yet.

        Raises:
            SandboxError: It is empty, or longer than one message can be (see `send_long`).
        """
        text = text.strip()
        if not 0 < units(text) <= MAX_TEXT:
            raise SandboxError(
                f"a message has 1 to {MAX_TEXT} characters, this one {units(text)}: use send_long"
            )
        unknown = UNKNOWN_FIELDS if newer else {}
        content = {**unknown, **topic_fields(topic), **text_fields(Formatted(text, find_entities(text)))}
        return self._say(chat, content, reply_to)

    async def send_long(self, text: str) -> list[Bubble]:
        """Send any text as Telegram's apps do: in pieces of 4096 characters, each a message of its own."""
        return [await self.send(piece) for piece in _pieces(text) if piece.strip()]

    async def photo(
        self, caption: str = "", *, chat: int | None = None, album: str = "", data: bytes = PIXEL
    ) -> Bubble:
        """Send a photo; photos with the same `album` are one media group."""
        file = await keep_picture(self._world.files, data, "photo.png")
        words = caption_fields(Formatted(caption, find_entities(caption)))
        grouped = {"media_group_id": album} if album else {}
        return self._say(chat, {"photo": [file.json()], **words, **grouped}, None)

    async def forward(self, message: Bubble, *, chat: int | None = None) -> Bubble:
        """Forward a message to the bot (or a group)."""
        sender = {"sender_user": message.raw["from"], "type": "user", "date": message.date}
        content = {
            key: value for key, value in message.raw.items() if key in {"text", "entities", "video", "photo"}
        }
        return self._say(chat, {"forward_origin": sender, **content}, None)

    async def edit(self, message_id: int, text: str, *, chat: int | None = None) -> Bubble:
        """Edit one of the person's own messages."""
        message = self._find(message_id, chat)
        if message["from"]["id"] != self.id:
            raise SandboxError(f"message {message_id} is not {self._user.first_name}'s to edit")
        kept = {key: value for key, value in message.items() if key not in {"text", "entities"}}
        words = text_fields(Formatted(text, find_entities(text)))
        edited = self._world.messages.put({**kept, "edit_date": int(self._world.clock.now()), **words})
        self._push_update("edited_message", edited, edited["chat"]["id"])
        return self._bubble(edited)

    async def tap(self, message_id: int, button: str, *, chat: int | None = None) -> str:
        """Tap an inline button, given by its text or data; return the id of the callback query.

        Raises:
            SandboxError: The message has no such button now.
        """
        message = self._find(message_id, chat)
        buttons = [b for row in self._bubble(message).buttons for b in row if b.data is not None]
        data = next((b.data for b in buttons if button in {b.text, b.data}), None)
        if data is None:
            known = [b.text for b in buttons]
            raise SandboxError(f"message {message_id} has no button {button!r}; its buttons: {known}")
        chat_id = message["chat"]["id"]
        query = {
            "id": self._world.callbacks.open(self.id, chat_id),
            "from": self._user.user(),
            "message": message,
            "chat_instance": str(abs(chat_id) * 7919),
            "data": data,
        }
        lifetime = self._world.clock.time_limit(CALLBACK_LIFETIME)
        # Taps have a lane of their own for each person: they do not wait behind messages.
        self.last_update = self._world.updates.push("callback_query", query, f"tap:{self.id}", lifetime)
        return str(query["id"])

    async def block(self) -> None:
        self._set_blocked(True)

    async def unblock(self) -> None:
        self._set_blocked(False)

    def speak(self, language_code: str) -> None:
        """Change the language of the person's app."""
        self._user.language_code = language_code
        self._world.chats.keep(self._user)

    def history(self, *, chat: int | None = None) -> list[Bubble]:
        """Return all messages in the chat, oldest first."""
        return [bubble_of(record, self.id) for record in self._world.messages.of(chat or self.id)]

    async def wait_for(
        self, predicate: Callable[[Bubble], bool], timeout: float = 10, *, chat: int | None = None
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

    async def wait_for_answer(self, query_id: str, timeout: float = 10) -> dict[str, Any]:
        """Return the bot's answer to a tap: `text` and `alert`.

        Raises:
            SandboxError: It did not within `timeout` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    seen = self._world.feed.last
                    for event in self._world.feed.since(0):
                        if event.kind == "answer" and event.body["query_id"] == query_id:
                            return event.body
                    await self._world.feed.beyond(seen)
        except TimeoutError:
            raise SandboxError(f"the tap {query_id} was not answered within {timeout} s") from None

    def _say(self, chat: int | None, content: dict[str, Any], reply_to: int | None) -> Bubble:
        where = self._where(chat)
        replied = self._find(reply_to, chat) if reply_to else None
        message = self._world.messages.put(
            {
                "message_id": self._world.messages.next_id(where.id),
                "from": self._user.user(),
                "chat": where.chat(),
                "date": int(self._world.clock.now()),
                **({"reply_to_message": replied} if replied else {}),
                **content,
            }
        )
        if isinstance(where, ChatUser) or _reaches(self._world.bot, message):
            self._push_update("message", message, where.id)
        return self._bubble(message)

    def _where(self, chat: int | None) -> ChatUser | Group:
        if chat is not None:
            return self._world.chats.groups[chat]
        if self._user.blocked:
            self._set_blocked(False)  # an app asks to unblock before it sends
        if not self._user.started:
            self._user.started = True
            self._world.chats.keep(self._user)
        return self._user

    def _set_blocked(self, blocked: bool) -> None:
        self._user.blocked = blocked
        self._world.chats.keep(self._user)
        member, kicked = {"status": "member"}, {"status": "kicked", "until_date": 0}
        before, after = (member, kicked) if blocked else (kicked, member)
        change = {
            "chat": self._user.chat(),
            "from": self._user.user(),
            "date": int(self._world.clock.now()),
            "old_chat_member": {**before, "user": self._world.bot},
            "new_chat_member": {**after, "user": self._world.bot},
        }
        self._push_update("my_chat_member", change, self.id)

    def _push_update(self, kind: str, body: dict[str, Any], chat_id: int) -> None:
        lifetime = self._world.clock.wait(MESSAGE_LIFETIME)
        self.last_update = self._world.updates.push(kind, body, f"chat:{chat_id}", lifetime)

    def _find(self, message_id: int, chat: int | None) -> Message:
        message = self._world.messages.find(chat or self.id, message_id)
        if message is None:
            raise SandboxError(f"there is no message {message_id} in this chat")
        return message

    def _bubble(self, message: Message) -> Bubble:
        records = self._world.messages.of(message["chat"]["id"])
        current = next((r for r in records if r.message["message_id"] == message["message_id"]), None)
        return bubble_of(current or Record(message, 0), self.id)


def _pieces(text: str) -> Iterator[str]:
    while text:
        size = MAX_TEXT
        while (over := units(text[:size]) - MAX_TEXT) > 0:
            size -= (over + 1) // 2
        yield text[:size]
        text = text[size:]


def _reaches(bot: dict[str, Any], message: Message) -> bool:
    """Return whether a bot in privacy mode gets this group message: its commands, and replies to it."""
    if message.get("reply_to_message", {}).get("from", {}).get("id") == bot["id"]:
        return True
    addressed = (match.group().partition("@")[2] for match in COMMAND.finditer(message.get("text", "")))
    return any(name in {"", bot["username"]} for name in addressed)
