"""Tests of the local Bot API with the unchanged aiogram client: what it serves and what it refuses."""

import asyncio
import errno
import socket

import aiohttp
import pytest
from aiogram import Dispatcher
from aiogram.exceptions import (
    TelegramBadRequest,
    TelegramConflictError,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramUnauthorizedError,
)
from aiogram.filters import Command
from aiogram.types import (
    BotCommand,
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InputMediaVideo,
    Message,
)

from sandbox.telegram import BotApiServer, SandboxError
from tests.support.bot_api import MP4, bot_of, jpeg

KEYS = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", callback_data="go:1")]])


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api) as made:
        yield made


async def test_a_polling_dispatcher_answers_a_command(api, bot):
    """aiogram's own polling receives a command with its entity and answers into the same chat."""
    dispatcher = Dispatcher()

    @dispatcher.message(Command("create"))
    async def create(message: Message) -> None:
        await message.answer(f"<b>{message.from_user.language_code}</b> {message.text}")

    polling = asyncio.create_task(dispatcher.start_polling(bot, handle_signals=False, polling_timeout=5))
    ana = api.user(1001, "Ana", language_code="es")
    await ana.send("/create a mercado")
    answer = await ana.wait_for(lambda bubble: not bubble.mine)
    assert (answer.text, answer.html) == (
        "es /create a mercado",
        "<strong>es</strong> <button type='button' class='command'>/create</button> a mercado",
    )
    await dispatcher.stop_polling()
    await polling


async def test_unconfirmed_updates_come_again_with_the_same_id(api, bot):
    """getUpdates repeats an update until an offset beyond it confirms it."""
    await api.user(1001).send("one")
    first = await bot.get_updates()
    assert await bot.get_updates() == first
    assert await bot.get_updates(offset=first[-1].update_id + 1, timeout=0) == []
    assert api.pending_updates == []


async def test_a_long_poll_blocks_and_wakes(api, bot):
    """A poll without updates waits, and ends as soon as a person writes."""
    poll = asyncio.create_task(bot.get_updates(timeout=30))
    await api.calls.wait_for(lambda call: call.method == "getUpdates")
    assert not poll.done()
    await api.user(1001).send("hello")
    assert [update.message.text for update in await poll] == ["hello"]


async def test_updates_are_limited_to_what_was_asked_for(api, bot):
    """allowed_updates holds for updates made afterwards, and limit cuts a batch."""
    await bot.get_updates(allowed_updates=["message"])
    ana = api.user(1001)
    sent = await ana.send("one")
    await ana.edit(sent.id, "two")
    await ana.send("three")
    assert [u.message.text for u in await bot.get_updates(limit=1)] == ["one"]
    assert [u.message.text for u in await bot.get_updates()] == ["one", "three"]


async def test_the_second_poller_ends_the_first(api, bot):
    """Of two pollers the earlier one gets 409, as on Telegram."""
    first = asyncio.create_task(bot.get_updates(timeout=30))
    await api.calls.wait_for(lambda call: call.method == "getUpdates")
    await bot.get_updates(timeout=0)
    with pytest.raises(TelegramConflictError, match="terminated by other getUpdates request"):
        await first


async def test_a_video_replaces_a_text_and_can_be_downloaded(api, bot):
    """editMessageMedia takes attach:// uploads, the file id works again, getFile leads to the bytes."""
    ana = api.user(1001)
    await ana.send("/create")
    status = await bot.send_message(1001, "working", reply_markup=KEYS)
    video = InputMediaVideo(
        media=BufferedInputFile(MP4, "video.mp4"),
        thumbnail=BufferedInputFile(jpeg(), "thumb.jpg"),
        caption="<i>done</i>",
        width=720,
        height=1280,
        duration=8,
    )
    edited = await bot.edit_message_media(video, chat_id=1001, message_id=status.message_id)
    assert (edited.caption, edited.text, edited.reply_markup) == ("done", None, None)
    assert (edited.video.width, edited.video.height, edited.video.duration) == (720, 1280, 8)
    assert (edited.video.thumbnail.width, edited.video.thumbnail.height) == (180, 320)
    file = await bot.get_file(edited.video.file_id)
    assert (await bot.download_file(file.file_path)).read() == MP4
    again = await bot.send_video(1001, edited.video.file_id, caption="again")
    assert again.video.file_id == edited.video.file_id


@pytest.mark.parametrize(("data", "kind"), [(b"no video at all", "document"), (MP4[:40], "animation")])
async def test_what_is_no_video_with_sound_is_not_shown_as_one(api, bot, data, kind):
    """Telegram goes by bytes, not names: no MP4 is a document, no sound is an animation."""
    await api.user(1001).send("/create")
    sent = await bot.send_video(1001, BufferedInputFile(data, "video.mp4"))
    assert sent.video is None
    assert getattr(sent, kind) is not None


async def test_a_tap_brings_the_button_and_is_answered_once(api, bot):
    """A tap is a callback_query with its message; the second answer to it is refused."""
    ana = api.user(1001, "Ana")
    await ana.send("/create")
    sent = await bot.send_message(1001, "sure?", reply_markup=KEYS)
    query_id = await ana.tap(sent.message_id, "Go")
    (update,) = await bot.get_updates(offset=-1)
    assert (update.callback_query.id, update.callback_query.data) == (query_id, "go:1")
    assert update.callback_query.message.message_id == sent.message_id
    await bot.answer_callback_query(query_id, "Going", show_alert=True)
    answer = await ana.wait_for_answer(query_id)
    assert (answer["text"], answer["alert"]) == ("Going", True)
    with pytest.raises(TelegramBadRequest, match="query is too old and response timeout expired"):
        await bot.answer_callback_query(query_id)


async def test_in_a_group_only_commands_for_this_bot_arrive(api, bot):
    """A bot in privacy mode sees commands not addressed to others, and replies to itself."""
    group, ana = api.group(-1001234, "Cinema"), api.user(1001)
    for text in (
        "hello",
        "/create a cat",
        "/create@somebody_else a dog",
        "/create@onetake_sandbox_bot a cow",
    ):
        await ana.send(text, chat=group)
    answer = await bot.send_message(group, "which?")
    await ana.send("the cat", chat=group, reply_to=answer.message_id)
    texts = [update.message.text for update in await bot.get_updates()]
    assert texts == ["/create a cat", "/create@onetake_sandbox_bot a cow", "the cat"]


async def test_other_updates_parse(api, bot):
    """Forwards, edits, albums and blocking arrive in the shape that aiogram reads."""
    ana = api.user(1001, "Ana")
    sent = await ana.send("/create")
    await ana.forward(sent)
    await ana.edit(sent.id, "/create more")
    await ana.photo(album="trip")
    await ana.block()
    forward, edit, photo, block = (await bot.get_updates())[1:]
    assert forward.message.forward_origin.sender_user.id == 1001
    assert (edit.edited_message.message_id, edit.edited_message.text) == (sent.id, "/create more")
    assert (photo.message.text, photo.message.media_group_id) == (None, "trip")
    assert block.my_chat_member.new_chat_member.status == "kicked"


async def test_commands_chat_and_me(api, bot):
    """The bot's menu is stored by scope and language; getMe and getChat parse."""
    await bot.set_my_commands(
        [BotCommand(command="create", description="hacer un video")], language_code="es"
    )
    assert [c.command for c in await bot.get_my_commands(language_code="es")] == ["create"]
    assert await bot.get_my_commands() == []
    api.user(1001, "Ana")
    assert (await bot.get_chat(1001)).first_name == "Ana"
    assert (await bot.me()).id == bot.id


async def test_the_chat_outlives_the_server(tmp_path):
    """With a state folder messages, ids, files, unconfirmed updates and people are there after a restart."""
    async with BotApiServer(state_dir=tmp_path) as api, bot_of(api) as bot:
        sent = await api.user(1001, "Ana", language_code="pt").send("/create a cat")
        video = await bot.send_video(1001, BufferedInputFile(MP4, "video.mp4"))
        update_id = api.pending_updates[0]
    async with BotApiServer(state_dir=tmp_path, seed=99) as api, bot_of(api) as bot:
        (update,) = await bot.get_updates()
        assert (update.update_id, update.message.from_user.language_code) == (update_id, "pt")
        assert [bubble.id for bubble in api.user(1001).history()] == [sent.id, video.message_id]
        assert (await api.user(1001).send("more")).id == video.message_id + 1
        assert api.pending_updates == [update_id, update_id + 1]
        file = await bot.get_file(video.video.file_id)
        assert (await bot.download_file(file.file_path)).read() == MP4


async def test_only_loopback_hosts_are_allowed():
    """A host that is not loopback is refused before anything listens."""
    with pytest.raises(SandboxError, match=r"loopback only, not on '0\.0\.0\.0'"):
        BotApiServer(host="0.0.0.0")


async def test_a_taken_port_is_named():
    """A taken port is one sentence with the port in it, not a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SandboxError, match=f"port {port} on 127.0.0.1 is taken") as error:
            await BotApiServer(port=port).start()
    assert error.value.__cause__.errno == errno.EADDRINUSE


async def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    """State that cannot be stored is refused at the start, with the path."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SandboxError, match=r"cannot keep the chat in .*file"):
        BotApiServer(state_dir=tmp_path / "file")


async def test_wait_for_reports_the_chat(api):
    """The timeout of wait_for shows what the chat holds."""
    ana = api.user(1001, "Ana")
    await ana.send("hello there")
    with pytest.raises(SandboxError, match="Ana: 'hello there'"):
        await ana.wait_for(lambda bubble: bubble.media is not None, timeout=0.05)


def test_the_sandbox_does_not_import_aiogram():
    """A bug in the client cannot hide in its test server."""
    import ast
    from pathlib import Path

    import sandbox.telegram

    for path in Path(sandbox.telegram.__file__).parent.glob("*.py"):
        if path.name.startswith("demo"):
            continue
        imports = [
            n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        assert not any("aiogram" in ast.unparse(node) for node in imports), path


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


async def test_tags_do_not_count(open_bot):
    """4096 letters inside of tags are accepted: the limit is on the visible text."""
    sent = await open_bot.send_message(1001, f"<b>{'x' * 4096}</b>")
    assert len(sent.text) == 4096


async def test_an_edit_that_changes_nothing(open_bot):
    """The same text, tags and keyboard again is refused; another keyboard alone is a change."""
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


async def test_unknown_chats_messages_and_files(open_api, open_bot):
    """Unknown chats, messages, files and people who never wrote are refused, each with its own error."""
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


async def test_a_tap_expires_after_150_seconds():
    """A later answer is refused; the clock is scaled."""
    async with (
        BotApiServer(clock_scale=150 / 0.05, min_time_limit=0) as open_api,
        bot_of(open_api) as open_bot,
    ):
        ana = open_api.user(1001)
        await ana.send("/start")
        sent = await open_bot.send_message(1001, "x", reply_markup=keys("a"))
        query_id = await ana.tap(sent.message_id, "a")
        async with asyncio.timeout(5):
            while open_api.pending_updates[1:]:  # the tap's own update expires with it
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
    async with bot_of(open_api, token="1000000001:wrong") as wrong_bot:
        with pytest.raises(TelegramUnauthorizedError, match="Unauthorized"):
            await wrong_bot.get_me()


async def test_unknown_methods_and_plain_http(open_api):
    """Unknown methods are 404; GET, JSON and any case of the name work; bytes that are not UTF-8 do not."""
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
    """The sandbox calls only this machine."""
    with pytest.raises(TelegramBadRequest, match="bad webhook"):
        await open_bot.set_webhook(url)
