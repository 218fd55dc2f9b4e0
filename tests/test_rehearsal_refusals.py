"""What Telegram refuses, the rehearsal refuses with the same status and the same words."""

import asyncio

import aiohttp
import pytest
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramConflictError,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramUnauthorizedError,
)
from aiogram.types import BufferedInputFile, InlineKeyboardButton, InlineKeyboardMarkup, InputMediaVideo
from telegram_rehearsal import MP4, bot_of

from sandbox.telegram import BotApiServer

MIB = 1024 * 1024


@pytest.fixture
async def open_api():
    async with BotApiServer() as running:
        await running.user(1001, "Ana").send("/start")
        yield running


@pytest.fixture
async def open_bot(open_api):
    async with bot_of(open_api) as made:
        yield made


def keys(data: str) -> InlineKeyboardMarkup:
    return InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", callback_data=data)]])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "message text is empty"),
        (" \n ", "message text is empty"),
        ("<b> </b>", "message text is empty"),
        ("x" * 4097, "message is too long"),
        ("😀" * 2049, "message is too long"),
    ],
)
async def test_texts_without_or_with_too_many_letters(open_bot, text, words):
    """A text has 1 to 4096 UTF-16 units after parsing and trimming."""
    with pytest.raises(TelegramBadRequest, match=f"Bad Request: {words}"):
        await open_bot.send_message(1001, text)


async def test_marks_do_not_count(open_bot):
    """4096 letters inside of marks are fine: the limit is on what a person reads."""
    sent = await open_bot.send_message(1001, f"<b>{'x' * 4096}</b>")
    assert len(sent.text) == 4096


async def test_an_edit_that_changes_nothing(open_bot):
    """The same text, marks and keyboard again is refused; another keyboard alone is a change."""
    sent = await open_bot.send_message(1001, "<b>one</b>", reply_markup=keys("a"))
    where = {"chat_id": 1001, "message_id": sent.message_id}
    with pytest.raises(TelegramBadRequest, match="message is not modified: specified new message content"):
        await open_bot.edit_message_text("<b>one</b>", reply_markup=keys("a"), **where)
    await open_bot.edit_message_text("<b>one</b>", reply_markup=keys("b"), **where)
    await open_bot.edit_message_text("one", reply_markup=keys("b"), **where)
    with pytest.raises(TelegramBadRequest, match="message is not modified"):
        await open_bot.edit_message_reply_markup(reply_markup=keys("b"), **where)


async def test_the_same_media_again(open_bot):
    """The same file id with the same caption is not modified; a fresh upload of it is."""
    sent = await open_bot.send_video(1001, BufferedInputFile(MP4, "a.mp4"), caption="one")
    where = {"chat_id": 1001, "message_id": sent.message_id}
    with pytest.raises(TelegramBadRequest, match="message is not modified"):
        await open_bot.edit_message_media(InputMediaVideo(media=sent.video.file_id, caption="one"), **where)
    await open_bot.edit_message_media(
        InputMediaVideo(media=BufferedInputFile(MP4, "a.mp4"), caption="one"), **where
    )
    with pytest.raises(TelegramBadRequest, match="there is no text in the message to edit"):
        await open_bot.edit_message_text("words", **where)
    with pytest.raises(TelegramBadRequest, match="message caption is too long"):
        await open_bot.edit_message_caption(caption="x" * 1025, **where)


async def test_who_and_what_is_not_there(open_api, open_bot):
    """Unknown chats, messages, files and people who never wrote are refused, each in its own words."""
    open_api.user(1002, "Ben")
    mine = open_api.user(1001).history()[0].id
    cases = [
        (open_bot.send_message(4040, "x"), "Bad Request: chat not found"),
        (
            open_bot.edit_message_text("x", chat_id=1001, message_id=999),
            "Bad Request: message to edit not found",
        ),
        (
            open_bot.edit_message_text("x", chat_id=1001, message_id=mine),
            "Bad Request: message can't be edited",
        ),
        (open_bot.delete_message(1001, 999), "Bad Request: message to delete not found"),
        (
            open_bot.send_video(1001, "BAACnothing"),
            "Bad Request: wrong file identifier/HTTP URL specified",
        ),
        (open_bot.get_file("BAACnothing"), "Bad Request: invalid file_id"),
        (
            open_bot.send_photo(1001, BufferedInputFile(b"text", "a.jpg")),
            "Bad Request: IMAGE_PROCESS_FAILED",
        ),
        (
            open_bot.send_message(1001, "x", reply_to_message_id=999),
            "Bad Request: message to be replied not found",
        ),
        (open_bot.send_chat_action(1001, "dance"), "Bad Request: wrong parameter action in request"),
        (
            open_bot.answer_callback_query("1"),
            "Bad Request: query is too old and response timeout expired",
        ),
    ]
    for call, words in cases:
        with pytest.raises(TelegramBadRequest, match=words):
            await call
    with pytest.raises(TelegramForbiddenError, match="bot can't initiate conversation with a user"):
        await open_bot.send_message(1002, "hello")


async def test_callback_data_has_64_bytes(open_bot):
    """Bytes, not letters: 64 are fine, 33 two-byte letters are not."""
    await open_bot.send_message(1001, "x", reply_markup=keys("x" * 64))
    with pytest.raises(TelegramBadRequest, match="BUTTON_DATA_INVALID"):
        await open_bot.send_message(1001, "x", reply_markup=keys("é" * 33))


async def test_a_tap_lives_150_seconds():
    """An answer that comes later is refused; time runs as fast as the test says."""
    async with (
        BotApiServer(clock_scale=150 / 0.05, min_time_limit=0) as open_api,
        bot_of(open_api) as open_bot,
    ):
        ana = open_api.user(1001)
        await ana.send("/start")
        sent = await open_bot.send_message(1001, "x", reply_markup=keys("a"))
        query_id = await ana.tap(sent.message_id, "a")
        async with asyncio.timeout(5):
            while open_api.pending_updates[1:]:  # the tap's own update dies with it
                await asyncio.sleep(0.01)
        with pytest.raises(TelegramBadRequest, match="query is too old"):
            await open_bot.answer_callback_query(query_id)


async def test_a_person_who_blocked_the_bot(open_api, open_bot):
    """Blocked is 403 until the person writes again."""
    ana = open_api.user(1001)
    await ana.block()
    with pytest.raises(TelegramForbiddenError, match="bot was blocked by the user"):
        await open_bot.send_message(1001, "hello?")
    await ana.send("/start")
    await open_bot.send_message(1001, "hello!")


async def test_a_wrong_token(open_api):
    """Another token is 401, whatever the method."""
    async with bot_of(open_api, token="1000000001:wrong") as stranger:
        with pytest.raises(TelegramUnauthorizedError, match="Unauthorized"):
            await stranger.get_me()


async def test_unknown_methods_and_plain_http(open_api):
    """Unknown methods are 404; GET, JSON and any case of the name work; bytes that are no UTF-8 do not."""
    base = f"{open_api.base_url}/bot{open_api.token}"
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{base}/sendTelepathy") as answer:
            assert answer.status == 404
            assert (await answer.json())["ok"] is False
        async with http.get(f"{base}/SENDmessage", params={"chat_id": 1001, "text": "é"}) as answer:
            assert (await answer.json())["result"]["text"] == "é"
        async with http.post(f"{base}/sendMessage", json={"chat_id": 1001, "text": "j"}) as answer:
            assert (await answer.json())["result"]["text"] == "j"
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        async with http.post(f"{base}/sendMessage", data=b"chat_id=1001&text=%ff", headers=form) as answer:
            assert (await answer.json())["description"] == "Bad Request: strings must be encoded in UTF-8"


async def test_files_that_are_too_big(open_bot):
    """Over 50 MB is 413 for an upload; over 20 MB cannot be downloaded by a bot."""
    with pytest.raises(TelegramEntityTooLarge, match="Request Entity Too Large"):
        await open_bot.send_video(1001, BufferedInputFile(MP4 + bytes(50 * MIB), "a.mp4"))
    sent = await open_bot.send_video(1001, BufferedInputFile(MP4 + bytes(20 * MIB), "a.mp4"))
    with pytest.raises(TelegramBadRequest, match="file is too big"):
        await open_bot.get_file(sent.video.file_id)


async def test_polling_and_webhook_exclude_each_other(open_api, open_bot):
    """A poll that waits is ended by setWebhook, and another is refused while it is set."""
    poll = asyncio.create_task(open_bot.get_updates(offset=2**40, timeout=30))
    await open_api.calls.wait_for(lambda call: call.method == "getUpdates")
    await open_bot.set_webhook("http://127.0.0.1:9/hook")
    with pytest.raises(TelegramConflictError, match="terminated by setWebhook request"):
        await poll
    with pytest.raises(TelegramConflictError, match="can't use getUpdates method while webhook is active"):
        await open_bot.get_updates()
    await open_bot.delete_webhook()
    assert await open_bot.get_updates() == []


@pytest.mark.parametrize(
    "url", ["http://example.org/hook", "https://10.0.0.1/hook", "ftp://127.0.0.1/", "hook"]
)
async def test_a_webhook_elsewhere(open_bot, url):
    """The rehearsal never calls anything but this machine."""
    with pytest.raises(TelegramBadRequest, match="bad webhook"):
        await open_bot.set_webhook(url)
