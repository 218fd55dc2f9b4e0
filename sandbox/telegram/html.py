"""Telegram's HTML: parses it into text and entities, and renders those as safe HTML for the page."""

import html
import re
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any
from urllib.parse import urlsplit

from sandbox.telegram.base import ApiError, bad_request

Entity = dict[str, Any]

# A command: up to 64 letters, optionally addressed to one bot, not part of a word.
COMMAND = re.compile(r"(?<![\w/<>@])/[A-Za-z0-9_]{1,64}(?:@[A-Za-z0-9_]{3,32})?(?![\w/<>@])")
URL = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]]")
MENTION = re.compile(r"(?<![\w@/])@[A-Za-z0-9_]{4,32}\b")
FOUND = (("bot_command", COMMAND), ("url", URL), ("mention", MENTION))


@dataclass(frozen=True)
class Formatted:
    """A text and its entities."""

    text: str
    entities: list[Entity] = field(default_factory=list)


def units(text: str) -> int:
    """Return the length of `text` in UTF-16 code units, in which Telegram counts."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def cut(text: str, offset: int, length: int) -> str:
    """Return the part of `text` that an entity covers."""
    raw = text.encode("utf-16-le", "surrogatepass")
    return raw[2 * offset : 2 * (offset + length)].decode("utf-16-le", "surrogatepass")


def find_entities(text: str) -> list[Entity]:
    """Return the commands, links and mentions that Telegram marks by itself."""
    found = [
        {"type": kind, "offset": units(text[: match.start()]), "length": units(match.group())}
        for kind, pattern in FOUND
        for match in pattern.finditer(text)
    ]
    return in_order(_apart(found))


def trimmed(formatted: Formatted) -> Formatted:
    """Return the text without outer white space, with entities moved and clipped, as Telegram stores it."""
    text = formatted.text.strip()
    lead = units(formatted.text[: len(formatted.text) - len(formatted.text.lstrip())])
    kept = (_clipped(entity, lead, units(text)) for entity in formatted.entities)
    return Formatted(text, in_order([entity for entity in kept if entity["length"] > 0]))


def with_found(formatted: Formatted) -> Formatted:
    """Add the entities that Telegram finds by itself, outside of code and existing links."""
    marked = [e for e in formatted.entities if e["type"] in {"code", "pre", "text_link"}]
    found = [e for e in find_entities(formatted.text) if not any(_overlap(e, m) for m in marked)]
    return Formatted(formatted.text, in_order([*formatted.entities, *found]))


def in_order(entities: list[Entity]) -> list[Entity]:
    """Sort entities, outer ones before inner ones."""
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


TAGS = {
    **dict.fromkeys(("b", "strong"), "bold"),
    **dict.fromkeys(("i", "em"), "italic"),
    **dict.fromkeys(("u", "ins"), "underline"),
    **dict.fromkeys(("s", "strike", "del"), "strikethrough"),
    **dict.fromkeys(("span", "tg-spoiler"), "spoiler"),
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "a": "text_link",
}
CHARACTER = re.compile(r"&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|(lt|gt|amp|quot));?")
TAG_NAME = re.compile(r"[^\s>]*")
ATTRIBUTE_NAME = re.compile(r"[^\s=>]*")
NAME_TOKEN = re.compile(r"[A-Za-z0-9.-]*")
SPACE = re.compile(r"\s*")


@dataclass
class _Open:
    tag: str
    attributes: dict[str, str]
    offset: int


@dataclass
class _Reader:
    """Parses the source in one pass; `text` is the visible text."""

    source: str
    at: int = 0
    text: list[str] = field(default_factory=list)
    offset: int = 0
    entities: list[Entity] = field(default_factory=list)
    nested: list[_Open] = field(default_factory=list)

    def read(self) -> Formatted:
        while self.at < len(self.source):
            if self.source.startswith("</", self.at):
                self._end_tag()
            elif self.source[self.at] == "<":
                self._start_tag()
            else:
                self._character()
        if self.nested:
            raise refused(f'Can\'t find end tag corresponding to start tag "{self.nested[-1].tag}"')
        return Formatted("".join(self.text), in_order(self.entities))

    def _character(self) -> None:
        match = CHARACTER.match(self.source, self.at)
        letter = _decoded(match) if match else ""
        if match and letter:
            self.at = match.end()
        else:
            letter = self.source[self.at]
            self.at += 1
        self.text.append(letter)
        self.offset += units(letter)

    def _start_tag(self) -> None:
        begin = self.at
        tag = self._match(TAG_NAME, begin + 1).lower()
        if self.at >= len(self.source):
            raise refused(f"Unclosed start tag at byte offset {self._byte(begin)}")
        if tag not in TAGS:
            raise refused(f'Unsupported start tag "{tag}" at byte offset {self._byte(begin)}')
        attributes: dict[str, str] = {}
        while self._skip() != ">":
            name, value = self._attribute(tag, begin)
            attributes[name] = value
        self.at += 1
        if tag == "span" and attributes.get("class") != "tg-spoiler":
            raise refused(f'Tag "span" must have class "tg-spoiler" at byte offset {self._byte(begin)}')
        self.nested.append(_Open(tag, attributes, self.offset))

    def _attribute(self, tag: str, begin: int) -> tuple[str, str]:
        start = self.at
        name = self._match(ATTRIBUTE_NAME, start).lower()
        if not name:
            where = f"byte offset {self._byte(begin)}"
            if start >= len(self.source):
                raise refused(f'Unclosed start tag "{tag}" at {where}')
            raise refused(f'Empty attribute name in the tag "{tag}" at {where}')
        if self._skip() != "=":
            if tag == "blockquote" and name == "expandable":
                return name, ""
            where = f"byte offset {self._byte(start)}"
            raise refused(f'Expected equal sign in declaration of an attribute of the tag "{tag}" at {where}')
        self.at += 1
        return name, self._value(begin)

    def _value(self, begin: int) -> str:
        quote = self._skip()
        if quote not in {'"', "'"} or not quote:
            start = self.at
            token = self._match(NAME_TOKEN, start)
            if self.at < len(self.source) and not re.match(r"[\s>]", self.source[self.at]):
                raise refused(f"Unexpected end of name token at byte offset {self._byte(start)}")
            return token.lower()
        end = self.source.find(quote, self.at + 1)
        if end < 0:
            raise refused(f"Unclosed start tag at byte offset {self._byte(begin)}")
        raw, self.at = self.source[self.at + 1 : end], end + 1
        return CHARACTER.sub(lambda match: _decoded(match) or match.group(), raw)

    def _end_tag(self) -> None:
        begin = self.at
        if not self.nested:
            raise refused(f"Unexpected end tag at byte offset {self._byte(begin)}")
        tag = self._match(TAG_NAME, begin + 2).lower()
        if self._skip() != ">":
            raise refused(f"Unclosed end tag at byte offset {self._byte(begin)}")
        opened = self.nested.pop()
        if tag and tag != opened.tag:
            raise refused(
                f"Unmatched end tag at byte offset {self._byte(begin)},"
                f' expected "</{opened.tag}>", found "</{tag}>"'
            )
        self.at += 1
        self._close(opened)

    def _close(self, opened: _Open) -> None:
        length = self.offset - opened.offset
        entity: Entity = {"type": TAGS[opened.tag], "offset": opened.offset, "length": length}
        language = opened.attributes.get("class", "")
        if opened.tag == "code" and self.nested and self.nested[-1].tag == "pre":
            # <pre><code class="language-x"> is one entity: the outer one, which gets the language.
            if language.startswith("language-"):
                self.nested[-1].attributes["class"] = language
            return
        if opened.tag == "pre" and language.startswith("language-"):
            entity["language"] = language.removeprefix("language-")
        if opened.tag == "blockquote" and "expandable" in opened.attributes:
            entity["type"] = "expandable_blockquote"
        if opened.tag == "a":
            entity["url"] = opened.attributes.get("href", "")
        if length and entity.get("url", "-"):
            self.entities.append(entity)

    def _match(self, pattern: re.Pattern[str], start: int) -> str:
        match = pattern.match(self.source, start)
        self.at = match.end() if match else start
        return self.source[start : self.at]

    def _skip(self) -> str:
        """Skip white space; return the next character, or nothing at the end."""
        self._match(SPACE, self.at)
        return self.source[self.at : self.at + 1]

    def _byte(self, position: int) -> int:
        return len(self.source[:position].encode("utf-8", "surrogatepass"))


def parse_html(source: str) -> Formatted:
    """Parse Telegram's HTML into a text and its entities.

    Raises:
        ApiError: 400 `can't parse entities: …`, with the byte offset.
    """
    return _Reader(source).read()


def refused(reason: str) -> ApiError:
    return bad_request(f"can't parse entities: {reason}")


def _decoded(match: re.Match[str]) -> str:
    """Return the character of an HTML entity; empty when Telegram does not decode it."""
    decimal, hexadecimal, named = match.groups()
    if named:
        return html.unescape(f"&{named};")
    code = int(decimal) if decimal else int(hexadecimal, 16)
    return chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""


PLAIN_TAGS = {
    "bold": ("<strong>", "</strong>"),
    "italic": ("<em>", "</em>"),
    "underline": ("<u>", "</u>"),
    "strikethrough": ("<s>", "</s>"),
    "code": ("<code>", "</code>"),
    "pre": ("<code class='block'>", "</code>"),
    "blockquote": ("<q class='block'>", "</q>"),
    "expandable_blockquote": ("<q class='block expandable'>", "</q>"),
    "spoiler": ("<span class='spoiler' tabindex='0'>", "</span>"),
    "mention": ("<span class='mention'>", "</span>"),
    "bot_command": ("<button type='button' class='command'>", "</button>"),
}
SAFE_SCHEMES = {"http", "https", "tg", "mailto"}


def to_html(text: str, entities: list[Entity]) -> str:
    """Return HTML that is safe to insert; the page trusts only this function.

    Tags always nest: where two entities overlap, the inner one is closed and opened again.
    """
    known = in_order([entity for entity in entities if entity["type"] in {*PLAIN_TAGS, "text_link", "url"}])
    borders = {0, units(text)}
    for entity in known:
        borders |= {entity["offset"], _end(entity)}
    written: list[str] = []
    open_now: list[Entity] = []
    for start, end in pairwise(sorted(borders)):
        covering = [entity for entity in known if entity["offset"] <= start and end <= _end(entity)]
        common = sum(
            1 for _ in takewhile(lambda pair: pair[0] is pair[1], zip(open_now, covering, strict=False))
        )
        written += [_tags(entity, text)[1] for entity in reversed(open_now[common:])]
        written += [_tags(entity, text)[0] for entity in covering[common:]]
        written.append(html.escape(cut(text, start, end - start)))
        open_now = covering
    written += [_tags(entity, text)[1] for entity in reversed(open_now)]
    return "".join(written)


def _end(entity: Entity) -> int:
    return int(entity["offset"] + entity["length"])


def _tags(entity: Entity, text: str) -> tuple[str, str]:
    if entity["type"] in PLAIN_TAGS:
        return PLAIN_TAGS[entity["type"]]
    url = entity.get("url") or cut(text, entity["offset"], entity["length"])
    try:
        safe = urlsplit(url).scheme in SAFE_SCHEMES
    except ValueError:
        safe = False
    if not safe:
        return "", ""
    return f'<a href="{html.escape(url)}" target="_blank" rel="noopener noreferrer">', "</a>"
