"""What people do on the chat page, over its JSON API: groups, files, payments, inline results, pacing."""

import asyncio
import io
import json

import aiohttp
import pytest
from aiogram.types import (
    BufferedInputFile,
    EphemeralMessageParameters,
    InlineQueryResultCachedVideo,
    LabeledPrice,
)

from sandbox.telegram import BotApiServer
from tests.support.bot_api import MP4, bot_of, jpeg

ANA, BEN = 1001, 1002


@pytest.fixture
async def api():
    async with BotApiServer() as running:
        await running.user(ANA, "Ana").send("/start")
        running.user(BEN, "Ben")
        yield running


@pytest.fixture
async def bot(api):
    async with bot_of(api) as made:
        yield made


@pytest.fixture
async def http(api):
    async with aiohttp.ClientSession(api.base_url) as session:
        yield session


async def do(http, action, status=200, **form):
    """Do what the page does, as Ana; return the answer, or the reason where it is refused."""
    async with http.post(f"/chat/api/{action}", json={"user": ANA, **form}) as answer:
        text = await answer.text()
        assert answer.status == status, text
        return json.loads(text) if status == 200 else text


async def newest(bot):
    (update,) = await bot.get_updates(offset=-1, timeout=5)
    return update


async def bubbles(http, user=ANA, chat=""):
    async with http.get(f"/chat/api/history?user={user}&chat={chat}") as answer:
        return (await answer.json())["bubbles"]


async def test_a_reply_names_its_message(http, bot):
    """The page's reply reaches the bot as one, and shows what it answers."""
    asked = await bot.send_message(ANA, "Which?")
    await do(http, "send", text="the cat", reply_to=asked.message_id)
    assert (await newest(bot)).message.reply_to_message.message_id == asked.message_id
    shown = (await bubbles(http))[-1]
    assert (shown["reply_to"], shown["reply_text"], shown["reply_sender"]) == (
        asked.message_id,
        "Which?",
        "OneTake",
    )


async def test_photos_and_files_are_sent_as_they_are(http, bot):
    """A body with the page's own type is a photo or a file; a plain form of another page is refused."""
    where = f"/chat/api/attach?user={ANA}&caption=this&name=a.jpg"
    octets = {"Content-Type": "application/octet-stream"}
    async with http.post(f"{where}&kind=photo", data=jpeg(), headers=octets) as answer:
        assert answer.status == 200
    message = (await newest(bot)).message
    assert (message.photo[-1].width, message.caption) == (180, "this")
    async with http.post(f"{where}&kind=file", data=io.BytesIO(b"x" * 2_000_000), headers=octets) as answer:
        assert answer.status == 200
    assert (await newest(bot)).message.document.file_size == 2_000_000
    async with http.post(f"{where}&kind=photo", data=b"no picture", headers=octets) as answer:
        assert (answer.status, await answer.text()) == (409, "Bad Request: IMAGE_PROCESS_FAILED\n")
    async with http.post(where, data=b"x", headers={"Content-Type": "text/plain"}) as answer:
        assert answer.status == 415


async def test_a_group_with_topics_is_made_and_used(http, bot):
    """The page creates it, its page lists it, and what is sent goes to the topic."""
    made = await do(http, "group", name="Film club", forum=True)
    other = await do(http, "topic", chat=made["chat"], name="Night")
    await do(http, "send", text="/create an owl", chat=made["chat"], topic=other["topic"])
    message = (await newest(bot)).message
    assert (message.chat.id, message.message_thread_id) == (made["chat"], other["topic"])
    async with http.get(f"/chat?user={BEN}&chat={made['chat']}&topic={other['topic']}") as answer:
        page = await answer.text()
    assert "Film club › Night</option>" in page
    assert f'data-topic="{other["topic"]}"' in page
    assert await do(http, "send", 404, text="x", chat=-5) == "There is no such group.\n"


async def test_an_invoice_is_paid_with_one_call(http, bot):
    """The call ends when the payment has happened or failed."""
    sent = await bot.send_invoice(
        ANA, "One video", "8 s", "order:1", "XTR", [LabeledPrice(label="Video", amount=150)]
    )
    assert (await bubbles(http))[-1]["invoice"]["stars"] == 150
    paying = asyncio.create_task(do(http, "pay", message_id=sent.message_id))
    query = (await bot.get_updates(offset=-1, timeout=5))[0]
    while not query.pre_checkout_query:
        query = (await bot.get_updates(offset=-1, timeout=5))[0]
    await bot.answer_pre_checkout_query(query.pre_checkout_query.id, ok=True)
    assert (await paying)["ok"]
    last = (await bubbles(http))[-1]
    assert (last["service"], last["service_stars"]) == ("successful_payment", 150)
    assert "is no invoice" in await do(http, "pay", 409, message_id=1)


async def test_inline_results_are_listed_and_chosen(http, bot):
    """The page gets the bot's results as the answer to its query."""
    video = await bot.send_video(ANA, BufferedInputFile(MP4, "v.mp4"))
    asking = asyncio.create_task(do(http, "inline", query="cats"))
    update = await newest(bot)
    while not update.inline_query:
        update = await newest(bot)
    result = InlineQueryResultCachedVideo(id="v1", video_file_id=video.video.file_id, title="A cat")
    await bot.answer_inline_query(update.inline_query.id, [result])
    found = await asking
    assert [one["title"] for one in found["results"]] == ["A cat"]
    await do(http, "choose", query_id=found["query_id"], result_id="v1")
    assert (await bubbles(http))[-1]["via"] == "onetake_sandbox_bot"


async def test_a_deep_link_is_followed(http, bot):
    """A link to the bot starts it; another is refused."""
    await do(http, "follow", url="https://t.me/onetake_sandbox_bot?start=ref_1")
    assert (await newest(bot)).message.text == "/start ref_1"
    assert "is no link to" in await do(http, "follow", 409, url="https://t.me/other?start=x")


async def test_the_pacing_has_a_switch(http, api):
    """The page says which pacing holds, and changes it."""
    await do(http, "pacing", pacing="production")
    assert api.pacing == "production"
    async with http.get("/chat?user=1001&lang=en") as answer:
        assert "Paced like Telegram" in await answer.text()
    await do(http, "pacing", pacing="fast")
    assert api.pacing == "fast"
    await do(http, "pacing", 400, pacing="never")


async def test_two_people_side_by_side(http):
    """One address shows the pages of both, in the same chat."""
    async with http.get("/chat?user=1001&beside=1002&chat=-5") as answer:
        page = await answer.text()
    assert [f"/chat?chat=-5&amp;user={who}" in page for who in (ANA, BEN)] == [True, True]
    async with http.get("/chat?user=1001&beside=x") as answer:
        assert answer.status == 400


async def test_an_ephemeral_message_is_on_one_page(http, api, bot):
    """Neither the history nor the stream of another person has it."""
    ana, ben, group = api.user(ANA), api.user(BEN), -1001000000009
    await ana.create_group(group, "Club")
    await ben.join(group)
    async with http.get(f"/chat/api/events?user={BEN}&chat={group}") as stream:
        to_ana = EphemeralMessageParameters(receiver_user_id=ANA)
        await bot.send_message(group, "for Ana", ephemeral_message_parameters=to_ana)
        await bot.send_message(group, "for all")
        async with asyncio.timeout(5):
            async for line in stream.content:
                if line.startswith(b'data: {"id"'):
                    break
    assert json.loads(line[6:])["text"] == "for all"
    assert [(await bubbles(http, who, group))[-2]["text"] for who in (ANA, BEN)] == ["for Ana", ""]
