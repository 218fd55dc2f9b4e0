"""Text and its entities as Telegram counts them: offsets and lengths in UTF-16 code units."""

import re
from dataclasses import dataclass, field
from typing import Any

Entity = dict[str, Any]

# A command: up to 64 letters, perhaps addressed to one bot, standing on its own.
COMMAND = re.compile(r"(?<![\w/<>@])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?![\w/<>@])")
URL = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]]")
MENTION = re.compile(r"(?<![\w@/])@[A-Za-z0-9_]{4,32}\b")
FOUND = (("bot_command", COMMAND), ("url", URL), ("mention", MENTION))


@dataclass(frozen=True)
class Formatted:
    """A text and what is marked in it."""

    text: str
    entities: list[Entity] = field(default_factory=list)


def units(text: str) -> int:
    """The length of `text` in UTF-16 code units."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, offset: int, length: int) -> str:
    """The part of `text` that an entity covers."""
    raw = text.encode("utf-16-le", "surrogatepass")
    return raw[2 * offset : 2 * (offset + length)].decode("utf-16-le", "surrogatepass")


def find_entities(text: str) -> list[Entity]:
    """The commands, links and mentions that Telegram marks by itself."""
    found = [
        {"type": kind, "offset": units(text[: match.start()]), "length": units(match.group())}
        for kind, pattern in FOUND
        for match in pattern.finditer(text)
    ]
    return in_order(_apart(found))


def trimmed(formatted: Formatted) -> Formatted:
    """The text without outer white space, its entities moved and clipped, as Telegram keeps it."""
    text = formatted.text.strip()
    lead = units(formatted.text[: len(formatted.text) - len(formatted.text.lstrip())])
    kept = (_clipped(entity, lead, units(text)) for entity in formatted.entities)
    return Formatted(text, in_order([entity for entity in kept if entity["length"] > 0]))


def with_found(formatted: Formatted) -> Formatted:
    """The text with what Telegram finds in it, outside of code and of links already made."""
    marked = [e for e in formatted.entities if e["type"] in {"code", "pre", "text_link"}]
    found = [e for e in find_entities(formatted.text) if not any(_overlap(e, m) for m in marked)]
    return Formatted(formatted.text, in_order([*formatted.entities, *found]))


def in_order(entities: list[Entity]) -> list[Entity]:
    """Outer entities before the ones inside them."""
    return sorted(entities, key=lambda entity: (entity["offset"], -entity["length"]))


def _apart(found: list[Entity]) -> list[Entity]:
    kept: list[Entity] = []
    for entity in found:
        if not any(_overlap(entity, other) for other in kept):
            kept.append(entity)
    return kept


def _clipped(entity: Entity, lead: int, size: int) -> Entity:
    start = min(max(entity["offset"] - lead, 0), size)
    end = min(max(entity["offset"] + entity["length"] - lead, 0), size)
    return {**entity, "offset": start, "length": end - start}


def _overlap(one: Entity, other: Entity) -> bool:
    return bool(
        one["offset"] < other["offset"] + other["length"] and other["offset"] < one["offset"] + one["length"]
    )
