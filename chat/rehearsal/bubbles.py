"""What a person sees of a message: for the page as JSON, for tests as an object."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from chat.rehearsal.entities import Entity
from chat.rehearsal.messages import Record
from chat.rehearsal.rendering import to_html


class Button(BaseModel):
    model_config = ConfigDict(frozen=True)
    text: str
    data: str | None = None
    url: str | None = None


class Shown(BaseModel):
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
    """One message on somebody's screen.

    Attributes:
        text: The text, or the caption under media, without marks.
        html: The same with its marks, safe to insert.
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
    media: Shown | None
    reply_to: int | None
    raw: dict[str, Any] = Field(exclude=True, repr=False)

    @property
    def button_texts(self) -> list[str]:
        return [button.text for row in self.buttons for button in row]


def bubble_of(record: Record, viewer: int) -> Bubble:
    """`record` as the person with the id `viewer` sees it."""
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


def _shown(message: dict[str, Any]) -> Shown | None:
    for kind in ("video", "animation", "document", "photo"):
        if kind in message:
            file = message[kind][-1] if kind == "photo" else message[kind]
            figures = {name: file[name] for name in ("width", "height", "duration") if name in file}
            poster = file.get("thumbnail", {}).get("file_id")
            name, size = file.get("file_name", ""), file.get("file_size", 0)
            return Shown(kind=kind, file_id=file["file_id"], name=name, size=size, poster=poster, **figures)
    return None
