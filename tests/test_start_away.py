"""At start Telegram may be away, or a balancer's page stands in its place: the bot waits and asks again."""

from collections import deque
from types import SimpleNamespace

import pytest
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiohttp import web
from aiohttp.test_utils import TestServer

from app import processes
from app.settings import Settings

OK = {"ok": True, "result": {"id": 42, "is_bot": True, "first_name": "OneTake", "username": "onetake_bot"}}
NO_HOOK = {"ok": True, "result": {"url": "", "has_custom_certificate": False, "pending_update_count": 0}}


@pytest.fixture
async def telegram():
    """A bot, and the answers that are before Telegram's own; each is (status, HTML or JSON)."""
    answers: deque[web.Response] = deque()

    async def answer(_: web.Request) -> web.Response:
        return answers.popleft()

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    async with TestServer(app) as server:
        session = AiohttpSession(api=TelegramAPIServer.from_base(str(server.make_url(""))))
        yield Bot("42:a-token-of-a-test", session=session), answers
        await session.close()


def away(status: int) -> web.Response:
    return web.Response(status=status, text="<html>Bad Gateway</html>", content_type="text/html")


@pytest.mark.parametrize("status", [200, 502])
async def test_a_page_in_telegrams_place_is_waited_for(telegram, monkeypatch, status):
    """What is asked at start is asked until Telegram itself answers."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr(processes, "asyncio", SimpleNamespace(sleep=sleep))
    bot, answers = telegram
    answers.extend([away(status), away(status), web.json_response(OK)])
    me = await processes._retry_telegram(bot.get_me)
    assert me.username == "onetake_bot"
    assert waited == [2, 4]


@pytest.mark.parametrize("status", [200, 502])
async def test_a_page_is_no_reason_not_to_start(telegram, status):
    """Whether a webhook is in the way is then not known; polling itself finds out."""
    bot, answers = telegram
    answers.append(away(status))
    await processes._check_telegram(SimpleNamespace(bot=bot, settings=Settings(_env_file=None)))
    answers.append(web.json_response(NO_HOOK))
    await processes._check_telegram(SimpleNamespace(bot=bot, settings=Settings(_env_file=None)))
    assert not answers
