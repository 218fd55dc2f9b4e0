"""Helpers for tests of the sandbox's Bot API server: a real bot, a webhook, the smallest media."""

import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiogram import Bot
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiohttp import web
from PIL import Image

from sandbox.telegram.server import BotApiServer

# The smallest file that Telegram accepts as a video: an MP4 brand and a sound track.
MP4 = b"\0\0\0\x18ftypmp42" + b"\0" * 64 + b"soun" + b"\0" * 64


class QuickSession(AiohttpSession):
    async def close(self) -> None:
        """Skip aiogram's wait of 0.25 s for TLS: there is none on loopback."""
        if self._session is not None:
            await self._session.close()


@asynccontextmanager
async def bot_of(api: BotApiServer, token: str | None = None, timeout: float = 10) -> AsyncIterator[Bot]:
    session = QuickSession(api=TelegramAPIServer.from_base(api.base_url), timeout=timeout)
    bot = Bot(token or api.token, session, default=DefaultBotProperties(parse_mode="HTML"))
    try:
        yield bot
    finally:
        await session.close()


@asynccontextmanager
async def webhook(handle: Callable[[web.Request], Awaitable[web.Response]]) -> AsyncIterator[str]:
    """Serve a webhook of the test's own and yield its address."""
    app = web.Application()
    app.router.add_post("/hook", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    finally:
        await runner.cleanup()


def jpeg(width: int = 180, height: int = 320) -> bytes:
    written = io.BytesIO()
    Image.new("RGB", (width, height), (120, 60, 100)).save(written, "JPEG")
    return written.getvalue()


def recorder(
    answers: list[int], seen: list[dict[str, Any]]
) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that keeps every update and answers with the next of `answers`, then 200."""

    async def handle(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.Response(status=answers.pop(0) if answers else 200)

    return handle
