"""A person with a Telegram app: what they do in a chat."""

import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from sandbox.telegram.base import SandboxError
from sandbox.telegram.bubbles import Bubble, Button
from sandbox.telegram.business_user import BusinessUser
from sandbox.telegram.editing import REACTIONS
from sandbox.telegram.html import Entity, Formatted, find_entities, in_order, units
from sandbox.telegram.inline_user import InlineUser
from sandbox.telegram.media import caption_fields, sent_file
from sandbox.telegram.members import GroupMember
from sandbox.telegram.params import MAX_CAPTION, MAX_TEXT
from sandbox.telegram.payer import Payer
from sandbox.telegram.sending import text_fields
from sandbox.telegram.state import CALLBACK_LIFETIME, Message

# The smallest PNG: 1 x 1, gray.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010800000000"
    "3a7e9b550000000a49444154789c63680000008200815cc1b2be0000000049454e44ae426082"
)
# Of a newer Bot API: aiogram 3.31 refuses an origin whose type it does not know.
UNKNOWN_FIELDS: dict[str, Any] = {"external_reply": {"origin": {"type": "of_a_newer_bot_api", "date": 1}}}
START_PAYLOAD = re.compile(r"[A-Za-z0-9_-]{0,64}")
FORWARDED = ("text", "entities", "caption", "caption_entities", "video", "photo", "document")


class Person(BusinessUser, GroupMember, InlineUser, Payer):
    """One person and their Telegram app; `chat` is a group's id, or None for the chat with the bot."""

    async def send(
        self,
        text: str,
        *,
        chat: int | None = None,
        reply_to: int | None = None,
        topic: int = 0,
        newer: bool = False,
        quote: str = "",
        anonymous: bool = False,
        entities: Sequence[Entity] = (),
    ) -> Bubble:
        """Send one message, trimmed as an app does; in a forum to one of its topics.

        Args:
            reply_to: The message that this one replies to; in a forum the reply goes to that one's topic.
            newer: Let its update hold something of a Bot API that the bot does not know yet.
            quote: The part of the other message that the reply quotes.
            anonymous: As the group, as an anonymous administrator does.
            entities: Formatting of the person's own, in addition to what Telegram finds.

        Raises:
            SandboxError: It is empty, or longer than one message can be (see `send_long`).
        """
        text = text.strip()
        if not 0 < units(text) <= MAX_TEXT:
            raise SandboxError(
                f"a message has 1 to {MAX_TEXT} characters, this one {units(text)}: use send_long"
            )
        unknown = UNKNOWN_FIELDS if newer else {}
        content = {**unknown, **text_fields(_formatted(text, entities))}
        return self._say(chat, content, reply_to, topic=topic, quote=quote, anonymous=anonymous)

    async def send_long(
        self, text: str, *, chat: int | None = None, reply_to: int | None = None, topic: int = 0
    ) -> list[Bubble]:
        """Send any text as Telegram's apps do: in pieces of 4096 characters, each a message of its own."""
        return [
            await self.send(piece, chat=chat, reply_to=reply_to, topic=topic)
            for piece in _pieces(text)
            if piece.strip()
        ]

    async def reply(
        self, text: str, *, to: int | None = None, chat: int | None = None, quote: str = ""
    ) -> Bubble:
        """Reply to a message; without `to`, to the newest one that forces this person to reply.

        Raises:
            SandboxError: No message asks for a reply.
        """
        if to is None:
            asking = [bubble.id for bubble in self.history(chat=chat) if bubble.forced_reply]
            if not asking:
                raise SandboxError(f"no message asks {self._user.first_name} for a reply: name one with `to`")
            to = asking[-1]
        return await self.send(text, chat=chat, reply_to=to, quote=quote)

    async def start(self, payload: str = "") -> Bubble:
        """Press Start, as after a link `https://t.me/bot?start=payload`.

        Raises:
            SandboxError: The payload is none: up to 64 of A-Z, a-z, 0-9, _ and -.
        """
        if not START_PAYLOAD.fullmatch(payload):
            raise SandboxError(f"a start payload is up to 64 of A-Z, a-z, 0-9, _ and -, not {payload!r}")
        return await self.send(f"/start {payload}".strip())

    async def follow(self, url: str) -> Bubble:
        """Follow a deep link to the bot: open the chat with it, and press Start.

        Raises:
            SandboxError: It leads elsewhere.
        """
        payload = start_payload(url, self._world.bot["username"])
        if payload is None:
            raise SandboxError(f"{url!r} is no link to @{self._world.bot['username']}")
        return await self.start(payload)

    async def photo(
        self,
        caption: str = "",
        *,
        chat: int | None = None,
        album: str = "",
        data: bytes = PIXEL,
        spoiler: bool = False,
        reply_to: int | None = None,
        topic: int = 0,
    ) -> Bubble:
        """Send a photo, which arrives in several sizes; photos with the same `album` are one media group.

        Raises:
            ApiError: The data is no picture.
        """
        shown = await sent_file(self._world.files, "photo", data, "photo.png", {})
        grouped = {"media_group_id": album} if album else {}
        covered = {"has_media_spoiler": True} if spoiler else {}
        content = {**shown, **_caption(caption), **grouped, **covered}
        return self._say(chat, content, reply_to, topic=topic)

    async def album(
        self, pictures: Sequence[bytes], caption: str = "", *, chat: int | None = None, topic: int = 0
    ) -> list[Bubble]:
        """Send 2 to 10 photos as one media group: a message each, the caption with the first."""
        if not 2 <= len(pictures) <= 10:
            raise SandboxError(f"an album has 2 to 10 photos, not {len(pictures)}")
        group = str(self._world.messages.next_id(0) + 13_000_000_000_000_000)
        words = [caption, *[""] * (len(pictures) - 1)]
        return [
            await self.photo(text, chat=chat, album=group, data=data, topic=topic)
            for text, data in zip(words, pictures, strict=True)
        ]

    async def document(
        self,
        data: bytes,
        name: str = "file.bin",
        caption: str = "",
        *,
        chat: int | None = None,
        topic: int = 0,
    ) -> Bubble:
        """Send a file of any kind and size: the bot can download up to 20 MB of it."""
        shown = await sent_file(self._world.files, "document", data, name, {})
        return self._say(chat, {**shown, **_caption(caption)}, topic=topic)

    async def voice(
        self, duration: int = 3, *, chat: int | None = None, data: bytes = b"OggS" * 16
    ) -> Bubble:
        shown = await sent_file(self._world.files, "voice", data, "voice.ogg", {"duration": duration})
        return self._say(chat, shown)

    async def sticker(
        self, emoji: str = "👍", *, chat: int | None = None, data: bytes = b"RIFF" * 16
    ) -> Bubble:
        about = {
            "type": "regular", "width": 512, "height": 512, "emoji": emoji,
            "is_animated": False, "is_video": False,
        }  # fmt: skip
        return self._say(chat, await sent_file(self._world.files, "sticker", data, "sticker.webp", about))

    async def forward(self, message: Bubble, *, chat: int | None = None) -> Bubble:
        """Forward a message to the bot (or a group)."""
        sender = {"sender_user": message.raw["from"], "type": "user", "date": message.date}
        content = {key: value for key, value in message.raw.items() if key in FORWARDED}
        return self._say(chat, {"forward_origin": sender, **content})

    async def edit(self, message_id: int, text: str, *, chat: int | None = None) -> Bubble:
        """Edit the text or caption of one of the person's own messages."""
        message = self._find(message_id, chat)
        if not self._bubble(message).mine:
            raise SandboxError(f"message {message_id} is not {self._user.first_name}'s to edit")
        words = {"text", "entities", "caption", "caption_entities"}
        kept = {key: value for key, value in message.items() if key not in words}
        said = text_fields(_formatted(text, ())) if "text" in message else _caption(text)
        edited = self._world.messages.put({**kept, "edit_date": int(self._world.clock.now()), **said})
        self._push_update("edited_message", edited, edited["chat"]["id"])
        return self._bubble(edited)

    async def delete(self, message_id: int, *, chat: int | None = None) -> None:
        """Delete a message for everyone; Telegram does not say so to a bot."""
        self._find(message_id, chat)
        self._world.messages.remove(chat or self.id, message_id)

    async def react(self, message_id: int, emoji: str, *, chat: int | None = None) -> None:
        """React to a message, or take the reaction back with an empty word.

        The bot gets it in a private chat, and in a group where it is an administrator.

        Raises:
            SandboxError: Telegram has no such reaction.
        """
        if emoji and emoji not in REACTIONS:
            raise SandboxError(f"{emoji!r} is no reaction")
        message = self._find(message_id, chat)
        before = self._world.messages.react(chat or self.id, message_id, self.id, emoji)
        if chat is not None and not self._world.chats.groups[chat].admin:
            return
        body = {
            "chat": message["chat"],
            "message_id": message_id,
            "user": self._user.user(),
            "date": int(self._world.clock.now()),
            "old_reaction": _reaction(before),
            "new_reaction": _reaction(emoji),
        }
        self._push_update("message_reaction", body, message["chat"]["id"])

    async def tap(self, message_id: int, button: str, *, chat: int | None = None) -> str:
        """Tap an inline button, given by its text or data; return the id of the callback query.

        Raises:
            SandboxError: The message has no such button now.
        """
        message = self._find(message_id, chat)
        buttons = self._buttons(message_id, chat, lambda one: one.data is not None)
        data = next((b.data for b in buttons if button in {b.text, b.data}), None)
        if data is None:
            known = [b.text for b in buttons]
            raise SandboxError(f"message {message_id} has no button {button!r}; its buttons: {known}")
        chat_id = message["chat"]["id"]
        query = {
            "id": self._world.callbacks.open(self.id, chat_id),
            "from": self._user.user(),
            **self._tapped(message),
            "chat_instance": str(abs(chat_id) * 7919),
            "data": data,
        }
        lifetime = self._world.clock.time_limit(CALLBACK_LIFETIME)
        # Taps have a lane of their own for each person: they do not wait behind messages.
        self.last_update = self._world.updates.push("callback_query", query, f"tap:{self.id}", lifetime)
        return str(query["id"])

    def _tapped(self, message: Message) -> dict[str, Any]:
        """Return how a callback query names its message: one sent via the bot by its inline id alone."""
        inline_id = self._world.inline.id_of(message["chat"]["id"], message["message_id"])
        return {"inline_message_id": inline_id} if inline_id else {"message": message}

    def _buttons(self, message_id: int, chat: int | None, wanted: Any) -> list[Button]:
        shown = self._bubble(self._find(message_id, chat)).buttons
        return [button for row in shown for button in row if wanted(button)]

    async def block(self) -> None:
        self._set_blocked(True)

    async def unblock(self) -> None:
        self._set_blocked(False)

    def speak(self, language_code: str) -> None:
        """Change the language of the person's app."""
        self._user.language_code = language_code
        self._world.chats.keep(self._user)


def start_payload(url: str, username: str) -> str | None:
    """Return the payload of a link that starts this bot; None where the link leads elsewhere."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    if parts.scheme == "tg":
        name = query.get("domain", [""])[0] if parts.netloc == "resolve" else ""
    else:
        name = parts.path.strip("/") if parts.netloc in {"t.me", "telegram.me"} else ""
    return query.get("start", [""])[0] if name.lower() == username.lower() else None


def _formatted(text: str, entities: Sequence[Entity]) -> Formatted:
    return Formatted(text, in_order([*entities, *find_entities(text)]))


def _caption(text: str) -> dict[str, Any]:
    if units(text) > MAX_CAPTION:
        raise SandboxError(f"a caption has up to {MAX_CAPTION} characters, this one {units(text)}")
    return caption_fields(_formatted(text, ()))


def _reaction(emoji: str) -> list[dict[str, str]]:
    return [{"type": "emoji", "emoji": emoji}] if emoji else []


def _pieces(text: str) -> Iterator[str]:
    while text:
        size = MAX_TEXT
        while (over := units(text[:size]) - MAX_TEXT) > 0:
            size -= (over + 1) // 2
        yield text[:size]
        text = text[size:]
