"""Messages as a person's app shows them."""

import re
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sandbox.telegram.chats import ChatUser
from sandbox.telegram.html import Entity, cut, to_html
from sandbox.telegram.media import KINDS
from sandbox.telegram.state import Message, Record, number_of

SERVICE = ("successful_payment", "refunded_payment", "migrate_to_chat_id", "migrate_from_chat_id",
           "new_chat_members", "left_chat_member", "forum_topic_created", "forum_topic_closed",
           "forum_topic_reopened")  # fmt: skip
"""Messages that are no one's words: the field that names what happened."""
HANDLE = re.compile(r"@(\w+)")


class Button(BaseModel):
    """One inline button: one of data, url, copied text, inline query, pay or disabled.

    Attributes:
        switch_inline: The query that it writes behind the bot's name.
        switch_here: In this chat; otherwise in one that the person chooses.
    """

    model_config = ConfigDict(frozen=True)
    text: str
    data: str | None = None
    url: str | None = None
    copy_text: str | None = None
    switch_inline: str | None = None
    switch_here: bool = False
    pay: bool = False
    disabled: bool = False
    style: str = ""


class ShownMedia(BaseModel):
    """A video, animation, photo, document, voice note or sticker.

    Attributes:
        poster: The file id of the cover, or else of the thumbnail.
        preview: The file id of a photo's size that fits a chat; `file_id` is the largest.
    """

    model_config = ConfigDict(frozen=True)
    kind: str
    file_id: str
    name: str = ""
    size: int = 0
    width: int = 0
    height: int = 0
    duration: int = 0
    start: int = 0
    emoji: str = ""
    poster: str | None = None
    preview: str | None = None
    spoiler: bool = False


class ForcedReply(BaseModel):
    """The bot asks for a reply: the app opens the input field as if the person had tapped Reply."""

    model_config = ConfigDict(frozen=True)
    placeholder: str = ""
    selective: bool = False


class ShownInvoice(BaseModel):
    model_config = ConfigDict(frozen=True)
    title: str
    description: str
    stars: int


class Bubble(BaseModel):
    """One message as a person sees it.

    Attributes:
        text: The text, or the caption under media, without formatting.
        html: The same as safe HTML.
        buttons: The rows of the inline keyboard.
        forced_reply: Set where the bot asks this very person for a reply.
        id: The message's id; below zero for an ephemeral message, which one person and the bot see.
        quote: The part that a reply quotes.
        service: The field of a service message, such as `successful_payment`; empty for others. It may be
            about someone or something with a name, or about Stars.
        reactions: The emoji, one for each person or bot that reacted.
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
    from_bot: bool = False
    topic: int = 0
    reply_sender: str = ""
    reply_text: str = ""
    quote: str = ""
    forced_reply: ForcedReply | None = None
    reactions: list[str] = []
    album: str = ""
    via: str = ""
    invoice: ShownInvoice | None = None
    service: str = ""
    service_name: str = ""
    service_stars: int = 0
    caption_above: bool = False
    ephemeral: bool = False
    raw: dict[str, Any] = Field(exclude=True, repr=False)

    @property
    def button_texts(self) -> list[str]:
        return [button.text for row in self.buttons for button in row]


def bubble_of(record: Record, viewer: ChatUser | None) -> Bubble:
    """Return `record` as `viewer` sees it; None is no one of the chat."""
    message, extra = record.message, record.extra
    text, entities = words_of(message)
    rows = message.get("reply_markup", {}).get("inline_keyboard", [])
    replied = message.get("reply_to_message", {})
    return Bubble(
        id=number_of(message),
        chat_id=message["chat"]["id"],
        revision=record.revision,
        date=message["date"],
        mine=viewer is not None and (extra.get("author") or message["from"]["id"]) == viewer.id,
        sender=_sender(message),
        edited="edit_date" in message,
        text=text,
        html=to_html(text, entities),
        buttons=[[_button(button) for button in row] for row in rows],
        media=_shown(message),
        reply_to=replied.get("message_id"),
        from_bot=message["from"]["is_bot"] and "sender_chat" not in message,
        topic=message.get("message_thread_id", 0),
        reply_sender=_sender(replied) if replied else "",
        reply_text=words_of(replied)[0],
        quote=message.get("quote", {}).get("text", ""),
        forced_reply=_forced_reply(message, extra.get("interface") or {}, viewer),
        reactions=list(extra.get("reactions", {}).values()),
        album=message.get("media_group_id", ""),
        via=message.get("via_bot", {}).get("username", ""),
        invoice=_invoice(message),
        **_service(message),
        caption_above=message.get("show_caption_above_media", False),
        ephemeral="ephemeral_message_id" in message,
        raw=message,
    )


def words_of(message: Message) -> tuple[str, list[Entity]]:
    """Return a message's text or caption and its entities."""
    text = message.get("text") or message.get("caption") or ""
    return text, message.get("entities") or message.get("caption_entities") or []


def _sender(message: Message) -> str:
    sender: str = message.get("sender_chat", {}).get("title") or message["from"]["first_name"]
    return sender


def _button(button: dict[str, Any]) -> Button:
    chosen = button.get("switch_inline_query_chosen_chat")
    here = button.get("switch_inline_query_current_chat")
    elsewhere = (chosen.get("query") or "") if chosen is not None else button.get("switch_inline_query")
    return Button(
        text=button["text"],
        data=button.get("callback_data"),
        url=button.get("url"),
        copy_text=button.get("copy_text", {}).get("text"),
        switch_inline=elsewhere if here is None else here,
        switch_here=here is not None,
        pay="pay" in button,
        disabled="disabled" in button,
        style=button.get("style") or "",
    )


def _shown(message: Message) -> ShownMedia | None:
    kind = next((kind for kind in KINDS if kind in message), None)
    if kind is None:
        return None
    sizes = message[kind] if kind == "photo" else [message[kind]]
    file = sizes[-1]
    covers = file.get("cover") or []
    fits = [size["file_id"] for size in sizes if max(size.get("width", 0), size.get("height", 0)) <= 1280]
    return ShownMedia(
        kind=kind,
        file_id=file["file_id"],
        name=file.get("file_name", ""),
        size=file.get("file_size", 0),
        emoji=file.get("emoji", ""),
        start=file.get("start_timestamp", 0),
        poster=covers[-1]["file_id"] if covers else file.get("thumbnail", {}).get("file_id"),
        preview=fits[-1] if kind == "photo" and fits else None,
        spoiler=message.get("has_media_spoiler", False),
        **{name: file[name] for name in ("width", "height", "duration") if name in file},
    )


def _forced_reply(message: Message, interface: dict[str, Any], viewer: ChatUser | None) -> ForcedReply | None:
    """Return the forced reply, if it is for this person: a selective one is for those it names or answers."""
    if viewer is None or not interface.get("force_reply"):
        return None
    selective = bool(interface.get("selective")) and message["chat"]["type"] != "private"
    if selective and viewer.id not in _addressees(message, viewer):
        return None
    return ForcedReply(placeholder=interface.get("input_field_placeholder") or "", selective=selective)


def _addressees(message: Message, viewer: ChatUser) -> set[int]:
    text, entities = words_of(message)
    named = {entity["user"]["id"] for entity in entities if entity["type"] == "text_mention"}
    handles = {cut(text, e["offset"], e["length"])[1:].lower() for e in entities if e["type"] == "mention"}
    if viewer.username and viewer.username.lower() in handles:
        named.add(viewer.id)
    return named | {message.get("reply_to_message", {}).get("from", {}).get("id", 0)}


def _service(message: Message) -> dict[str, Any]:
    kind = next((name for name in SERVICE if name in message), "")
    body = message.get(kind, {})
    about: dict[str, Any] = body[0] if kind == "new_chat_members" else body if isinstance(body, dict) else {}
    return {
        "service": kind,
        "service_name": about.get("first_name") or about.get("name") or "",
        "service_stars": about.get("total_amount", 0),
    }


def _invoice(message: Message) -> ShownInvoice | None:
    invoice = message.get("invoice")
    if invoice is None:
        return None
    return ShownInvoice(
        title=invoice["title"], description=invoice["description"], stars=invoice["total_amount"]
    )
