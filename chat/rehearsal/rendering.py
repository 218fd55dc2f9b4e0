"""Entities to HTML for the page: every character is escaped, only our own tags are written."""

import html
from itertools import pairwise, takewhile
from urllib.parse import urlsplit

from chat.rehearsal.entities import Entity, cut, in_order, units

PLAIN_TAGS = {
    "bold": ("<strong>", "</strong>"),
    "italic": ("<em>", "</em>"),
    "underline": ("<u>", "</u>"),
    "strikethrough": ("<s>", "</s>"),
    "code": ("<code>", "</code>"),
    "pre": ("<code class='block'>", "</code>"),
    "blockquote": ("<q class='block'>", "</q>"),
    "expandable_blockquote": ("<q class='block'>", "</q>"),
    "spoiler": ("<span class='spoiler' tabindex='0'>", "</span>"),
    "mention": ("<span class='mention'>", "</span>"),
    "bot_command": ("<button type='button' class='command'>", "</button>"),
}
SAFE_SCHEMES = {"http", "https", "tg", "mailto"}


def to_html(text: str, entities: list[Entity]) -> str:
    """HTML that is safe to insert: the page trusts this function and nothing else.

    Tags always nest: where two entities cross, the inner one is closed and opened again.
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
