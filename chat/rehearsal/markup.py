"""Telegram's HTML: a small language of its own, read as strictly as the Bot API server reads it.

The order of the checks and the words of the errors follow the server's behaviour; offsets in errors
are bytes of UTF-8, as a developer sees them in Telegram's own refusals.
"""

import html
import re
from dataclasses import dataclass, field

from chat.rehearsal.entities import Entity, Formatted, in_order, units
from chat.rehearsal.errors import ApiError, bad_request

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
    """Walks over the source once; `text` is what a person will read."""

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
        tag = self._take(TAG_NAME, begin + 1).lower()
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
        name = self._take(ATTRIBUTE_NAME, start).lower()
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
            token = self._take(NAME_TOKEN, start)
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
        tag = self._take(TAG_NAME, begin + 2).lower()
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
            # <pre><code class="language-x"> is one entity: the outer one, which learns its language.
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

    def _take(self, pattern: re.Pattern[str], start: int) -> str:
        match = pattern.match(self.source, start)
        self.at = match.end() if match else start
        return self.source[start : self.at]

    def _skip(self) -> str:
        """Go over white space; the next character, or nothing at the end."""
        self._take(SPACE, self.at)
        return self.source[self.at : self.at + 1]

    def _byte(self, position: int) -> int:
        return len(self.source[:position].encode("utf-8", "surrogatepass"))


def parse_html(source: str) -> Formatted:
    """Read Telegram's HTML into a text and its entities.

    Raises:
        ApiError: 400 `can't parse entities: …`, with the byte offset.
    """
    return _Reader(source).read()


def refused(reason: str) -> ApiError:
    return bad_request(f"can't parse entities: {reason}")


def _decoded(match: re.Match[str]) -> str:
    """The character that an entity stands for; nothing when Telegram leaves it as it is."""
    decimal, hexadecimal, named = match.groups()
    if named:
        return html.unescape(f"&{named};")
    code = int(decimal) if decimal else int(hexadecimal, 16)
    return chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
