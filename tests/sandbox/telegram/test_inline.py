"""Inline mode of the local Bot API: queries, results, and messages sent via the bot."""

import pytest
from aiogram.exceptions import TelegramBadRequest
from aiogram.types import (
    BufferedInputFile,
    InlineKeyboardButton,
    InlineKeyboardMarkup,
    InlineQueryResultArticle,
    InlineQueryResultCachedVideo,
    InlineQueryResultsButton,
    InputTextMessageContent,
)

from sandbox.telegram import BotApiServer, SandboxError
from tests.support.bot_api import MP4, bot_of

ANA, GROUP = 1001, -1001234567890
GO = InlineKeyboardMarkup(inline_keyboard=[[InlineKeyboardButton(text="Go", callback_data="go")]])


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        await running.user(ANA, "Ana").send("/start")
        running.group(GROUP)
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api) as made:
        yield made


async def update(bot):
    (found,) = await bot.get_updates(offset=-1, timeout=5)
    return found


async def video(bot, number: str, **more) -> InlineQueryResultCachedVideo:
    sent = await bot.send_video(ANA, BufferedInputFile(MP4, "v.mp4"), duration=8)
    return InlineQueryResultCachedVideo(id=number, video_file_id=sent.video.file_id, title="A cat", **more)


async def test_a_result_is_sent_via_the_bot(api, bot):
    """A query brings results by file id; the chosen one is the person's message, and reaches the bot."""
    ana = api.user(ANA)
    query_id = await ana.inline_query("cats", chat=GROUP)
    query = (await update(bot)).inline_query
    assert (query.id, query.query, query.chat_type, query.from_user.id) == (
        query_id,
        "cats",
        "supergroup",
        ANA,
    )
    result = await video(bot, "v1", caption="<b>mine</b>", description="8 s")
    button = InlineQueryResultsButton(text="Make one", start_parameter="inline")
    await bot.answer_inline_query(query_id, [result], is_personal=True, cache_time=0, button=button)
    (shown,) = await ana.wait_for_results(query_id)
    assert (shown["id"], shown["title"], shown["description"], shown["duration"]) == ("v1", "A cat", "8 s", 8)
    sent = await ana.choose(query_id, "v1", chat=GROUP)
    assert (sent.mine, sent.via, sent.text, sent.media.kind) == (True, "onetake_sandbox_bot", "mine", "video")
    message, chosen = (await bot.get_updates(timeout=5))[-2:]
    assert (message.message.via_bot.id, message.message.video.file_id) == (bot.id, result.video_file_id)
    assert (chosen.chosen_inline_result.result_id, chosen.chosen_inline_result.inline_message_id) == (
        "v1",
        None,
    )


async def test_an_inline_message_is_edited_and_tapped_by_its_own_id(api, bot):
    """With a keyboard it has an inline id, by which the bot edits it without knowing the chat."""
    ana = api.user(ANA)
    query_id = await ana.inline_query("")
    words = InputTextMessageContent(message_text="soon")
    article = InlineQueryResultArticle(id="a", title="Soon", input_message_content=words, reply_markup=GO)
    await bot.answer_inline_query(query_id, [article])
    sent = await ana.choose(query_id, "a", chat=GROUP)
    inline_id = (await update(bot)).chosen_inline_result.inline_message_id
    assert await bot.edit_message_text("now", inline_message_id=inline_id, reply_markup=GO) is True
    assert ana.history(chat=GROUP)[-1].text == "now"
    await ana.tap(sent.id, "Go", chat=GROUP)
    query = (await update(bot)).callback_query
    assert (query.inline_message_id, query.message) == (inline_id, None)
    with pytest.raises(TelegramBadRequest, match="MESSAGE_ID_INVALID"):
        await bot.edit_message_text("x", inline_message_id="BAAAAnothing")


async def test_a_cached_answer_comes_without_the_bot(api, bot):
    """Telegram keeps an answer for cache_time; a personal one for that person alone."""
    ana, ben = api.user(ANA), api.user(1002, "Ben")
    await bot.answer_inline_query(await ana.inline_query("cats"), [await video(bot, "v1")], is_personal=True)
    before = api.pending_updates
    again = await ana.inline_query("cats")
    assert [one["id"] for one in await ana.wait_for_results(again)] == ["v1"]
    assert api.pending_updates == before
    await ben.inline_query("cats")
    assert len(api.pending_updates) == len(before) + 1


async def test_wrong_answers_are_refused(api, bot):
    """Too many, twice the same id, an unknown file, a wrong button, a query that was answered."""
    query_id = await api.user(ANA).inline_query("cats")
    good = await video(bot, "v1")
    unknown = good.model_copy(update={"video_file_id": "BAACnothing"})
    photo = good.model_copy(update={"id": "x" * 65})
    cases = [
        ([good] * 51, None, "too many inline query results specified"),
        ([good, good], None, "RESULT_ID_DUPLICATE"),
        ([unknown], None, "wrong file identifier"),
        ([photo], None, "RESULT_ID_INVALID"),
        ([], InlineQueryResultsButton(text="x", start_parameter="a b"), "START_PARAM_INVALID"),
    ]
    for results, button, words in cases:
        with pytest.raises(TelegramBadRequest, match=words):
            await bot.answer_inline_query(query_id, results, button=button)
    await bot.answer_inline_query(query_id, [])
    with pytest.raises(TelegramBadRequest, match="query is too old"):
        await bot.answer_inline_query(query_id, [])


async def test_a_bot_without_inline_mode(api, bot):
    """Its owner turned it off: getMe says so, and no one can query it."""
    api.change_bot(supports_inline_queries=False)
    assert not (await bot.get_me()).supports_inline_queries
    with pytest.raises(SandboxError, match="inline mode"):
        await api.user(ANA).inline_query("cats")
