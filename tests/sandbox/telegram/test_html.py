"""Tests of Telegram's HTML: parsed strictly, refused with Telegram's errors, rendered safely."""

from contextlib import suppress

import pytest
from aiogram.exceptions import TelegramBadRequest

from sandbox.telegram import BotApiServer
from sandbox.telegram.base import ApiError
from sandbox.telegram.html import cut, parse_html, to_html
from tests.support.bot_api import bot_of


@pytest.fixture
async def bot():
    async with BotApiServer() as api, bot_of(api) as made:
        await api.user(1001, "Ana").send("/start")
        yield made


@pytest.mark.parametrize(
    ("html", "words"),
    [
        ("<b>x", 'Can\'t find end tag corresponding to start tag "b"'),
        ("é <blink>x</blink>", 'Unsupported start tag "blink" at byte offset 3'),
        ("<b>x</i>", 'Unmatched end tag at byte offset 4, expected "</b>", found "</i>"'),
        ("x</b>", "Unexpected end tag at byte offset 1"),
        ("2 < 3", 'Unsupported start tag "" at byte offset 2'),
        ("<b", "Unclosed start tag at byte offset 0"),
        ("<b>x</b", "Unclosed end tag at byte offset 4"),
        ('<a href="x', "Unclosed start tag at byte offset 0"),
        (
            "<a href>x</a>",
            'Expected equal sign in declaration of an attribute of the tag "a" at byte offset 3',
        ),
        ("<span>x</span>", 'Tag "span" must have class "tg-spoiler" at byte offset 0'),
    ],
)
async def test_broken_html(bot, html, words):
    """Broken HTML is refused with the byte offset of the error."""
    with pytest.raises(TelegramBadRequest) as refused:
        await bot.send_message(1001, html)
    assert refused.value.message == f"Bad Request: can't parse entities: {words}"


def test_html_becomes_entities_in_utf16():
    """Offsets count UTF-16 units, character references are decoded, unknown ones stay."""
    read = parse_html(
        "😀 <b>a&lt;<i>b</i></b> &#233;&copy; <a href='http://x.y/?a=1&amp;b=2'>l</a>"
        '<pre><code class="language-py">p</code></pre>'
    )
    assert read.text == "😀 a<b é&copy; lp"
    marks = [(e["type"], cut(read.text, e["offset"], e["length"])) for e in read.entities]
    assert marks == [("bold", "a<b"), ("italic", "b"), ("text_link", "l"), ("pre", "p")]
    assert (read.entities[2]["url"], read.entities[3]["language"]) == ("http://x.y/?a=1&b=2", "py")


def test_html_for_the_page_is_escaped():
    """Only our own tags reach the page, whatever a message says, and they nest."""
    bold, crossing = ({"type": kind, "offset": at, "length": 6} for kind, at in (("bold", 0), ("italic", 3)))
    assert to_html("<img onerror>", [bold, crossing]).startswith("<strong>&lt;im<em>g o</em></strong><em>")
    link = {"type": "text_link", "offset": 0, "length": 1, "url": "javascript:alert(1)"}
    assert to_html("x", [link]) == "x"


@pytest.mark.parametrize(
    "source",
    ["<" * 5000, "&#x110000;&#55296;", "<b\0>", "<a href='", "</", "<blockquote expandable>q</blockquote>"],
)
def test_no_html_breaks_the_parser(source):
    """Any text is either parsed or refused with an ApiError."""
    with suppress(ApiError):
        assert parse_html(source).text is not None
