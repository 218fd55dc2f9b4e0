"""Texts and captions of a call: parsed, trimmed, counted, refused in Telegram's words."""

from chat.rehearsal.entities import Entity, Formatted, trimmed, units, with_found
from chat.rehearsal.errors import bad_request
from chat.rehearsal.forms import Params
from chat.rehearsal.markup import parse_html

MAX_TEXT = 4096
MAX_CAPTION = 1024


def message_text(params: Params) -> Formatted:
    """The text of a message.

    Raises:
        ApiError: 400 when it is empty, over 4096 after parsing, or its HTML is broken.
    """
    formatted = _formatted(params.text("text"), params.text("parse_mode"), params.json("entities"))
    if not formatted.text:
        raise bad_request("message text is empty")
    if units(formatted.text) > MAX_TEXT:
        raise bad_request("message is too long")
    return formatted


def caption(text: str, parse_mode: str, entities: list[Entity] | None) -> Formatted:
    """The caption of a video or photo; nothing is fine.

    Raises:
        ApiError: 400 when it is over 1024 after parsing, or its HTML is broken.
    """
    formatted = _formatted(text, parse_mode, entities)
    if units(formatted.text) > MAX_CAPTION:
        raise bad_request("message caption is too long")
    return formatted


def _formatted(text: str, parse_mode: str, entities: list[Entity] | None) -> Formatted:
    match parse_mode.lower():
        case "html":
            read = parse_html(text)
        case "" | "none":
            read = Formatted(text, _given(entities))
        case _:
            raise bad_request(f'unsupported parse_mode "{parse_mode}": the rehearsal reads HTML only')
    return with_found(trimmed(read))


def _given(entities: list[Entity] | None) -> list[Entity]:
    for entity in entities or []:
        if not isinstance(entity, dict) or not {"type", "offset", "length"} <= entity.keys():
            raise bad_request("can't parse MessageEntity: type, offset and length are needed")
    return list(entities or [])
