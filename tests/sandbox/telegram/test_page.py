"""Tests of the chat page: what a browser gets, and what it may not do."""

import asyncio
import json

import aiohttp
import pytest
from aiogram.types import BotCommand, BufferedInputFile, InlineKeyboardButton, InlineKeyboardMarkup

from sandbox.telegram import BotApiServer
from sandbox.telegram.page_texts import PAGE_TEXTS
from tests.support.bot_api import MP4, bot_of


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api) as made:
        yield made


@pytest.fixture
async def http(api):
    async with aiohttp.ClientSession(api.base_url) as session:
        yield session


async def next_event(stream, wanted):
    async with asyncio.timeout(5):
        kind = ""
        async for line in stream.content:
            if line.startswith(b"event: "):
                kind = line[7:].strip().decode()
            if line.startswith(b"data: ") and kind == wanted:
                return json.loads(line[6:])
    raise AssertionError(f"the stream ended before {wanted}")


async def test_the_page_uses_the_persons_language(http):
    """The page is one HTML document without external parts, in the browser's or the chosen language."""
    async with http.get("/chat?user=1002", headers={"Accept-Language": "pt-BR,pt;q=0.9"}) as answer:
        page = await answer.text()
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert "<title>OneTake · sandbox</title>" in page
    assert PAGE_TEXTS["pt"]["note"] in page
    assert "http://" not in page.replace("http://www.w3.org/2000/svg", "")
    async with http.post("/chat/api/person", json={"user": 1002, "language_code": "es"}) as answer:
        assert answer.status == 200
    async with http.get("/chat?user=1002") as answer:
        assert PAGE_TEXTS["es"]["note"] in await answer.text()


def test_every_language_has_every_text():
    """All languages of the page have the same texts."""
    assert {frozenset(words) for words in PAGE_TEXTS.values()} == {frozenset(PAGE_TEXTS["en"])}


async def test_sending_tapping_and_edits_arrive_live(http, bot, api):
    """What the page sends reaches the bot; what the bot does reaches the page's stream."""
    keyboard = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", callback_data="go")]])
    async with http.get("/chat/api/events?user=1001") as stream:
        await next_event(stream, "ready")
        await http.post("/chat/api/send", json={"user": 1001, "text": "/create <b>a cat</b>"})
        mine = await next_event(stream, "message")
        assert mine["mine"]
        assert "&lt;b&gt;a cat&lt;/b&gt;" in mine["html"]
        sent = await bot.send_message(1001, "<b>sure?</b>", reply_markup=keyboard)
        shown = await next_event(stream, "message")
        assert (shown["html"], shown["buttons"][0][0]["data"]) == ("<strong>sure?</strong>", "go")
        await bot.send_chat_action(1001, "upload_video")
        assert await next_event(stream, "action") == {"action": "upload_video"}
        tap = {"user": 1001, "message_id": sent.message_id, "data": "go"}
        async with http.post("/chat/api/tap", json=tap) as answer:
            query_id = (await answer.json())["query_id"]
        await bot.answer_callback_query(query_id, "Going")
        assert (await next_event(stream, "answer"))["text"] == "Going"
        await bot.edit_message_text("done", chat_id=1001, message_id=sent.message_id)
        edited = await next_event(stream, "message")
        assert (edited["id"], edited["html"], edited["edited"], edited["buttons"]) == (
            sent.message_id,
            "done",
            True,
            [],
        )
        assert edited["revision"] > shown["revision"]
        await bot.delete_message(1001, sent.message_id)
        assert await next_event(stream, "gone") == {"message_id": sent.message_id}
    async with http.post("/chat/api/tap", json=tap) as answer:
        assert answer.status == 409


async def test_history_holds_messages_and_the_menu(http, bot, api):
    """A page that reconnects reads everything that it missed, and the bot's command menu."""
    await api.user(1001).send("hello")
    await bot.send_message(1001, "hi")
    await bot.set_my_commands([BotCommand(command="create", description="make one")])
    async with http.get("/chat/api/history?user=1001") as answer:
        read = await answer.json()
    assert [bubble["text"] for bubble in read["bubbles"]] == ["hello", "hi"]
    assert read["commands"] == [{"command": "create", "description": "make one"}]


async def test_a_video_is_served_in_pieces(http, bot, api):
    """Browsers load videos in ranges."""
    await api.user(1001).send("/create")
    sent = await bot.send_video(1001, BufferedInputFile(MP4, "video.mp4"))
    where = f"/chat/media/{sent.video.file_id}"
    async with http.get(where, headers={"Range": "bytes=4-7"}) as answer:
        assert (answer.status, answer.content_type, await answer.read()) == (206, "video/mp4", b"ftyp")
    async with http.get("/chat/media/nothing") as answer:
        assert answer.status == 404


async def test_a_long_text_is_sent_in_pieces(http, api):
    """The page splits a text at 4096 characters, as Telegram's apps do, and loses nothing."""
    text = "😀" + "x" * 200_000
    async with http.post("/chat/api/send", json={"user": 1001, "text": text}) as answer:
        assert answer.status == 200
    history = api.user(1001).history()
    assert "".join(bubble.text for bubble in history) == text
    assert len(history) == 49


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
async def test_other_pages_cannot_write(http, api, headers, status):
    """A rebound host name, another origin or a plain form cannot send for the person."""
    body = json.dumps({"user": 1001, "text": "/create"})
    headers = {"Content-Type": "application/json", **headers}
    async with http.post("/chat/api/send", data=body, headers=headers) as answer:
        assert answer.status == status
    assert api.pending_updates == []


@pytest.mark.parametrize("user", ["0", "-5", "x", "9" * 30, "²"])
async def test_an_invalid_person_is_refused(http, user):
    """The page's person must be a positive number, and the refusal says so."""
    async with http.get("/chat", params={"user": user}) as answer:
        assert (answer.status, await answer.text()) == (400, "user is a positive number, as in ?user=1001\n")


async def test_the_stream_ends_with_the_server(http):
    """Stopping does not wait for open pages."""
    async with BotApiServer() as short, http.get(f"{short.base_url}/chat/api/events") as stream:
        await next_event(stream, "ready")
        async with asyncio.timeout(3):
            await short.stop()
