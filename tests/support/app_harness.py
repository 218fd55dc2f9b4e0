"""The whole house on loopback for one test: real Bot API, Valkey and ledger, a provider with its books.

Only the model is a stand-in, and a test may choose how it misbehaves. The oracle is `peer.net()`: what the
provider charged, from its own file.
"""

import contextlib
import io
import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import Any, Self

from agents import Model
from aiogram import Bot
from aiogram.client.default import DefaultBotProperties
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, CookieJar, web
from PIL import Image
from sqlalchemy import func, select, text

from app.application import App
from app.processes import run_polling, run_worker
from chat.context import EditLimits
from chat.dispatcher import build_dispatcher, webhook_handler
from chat.polling import ALLOWED_UPDATES
from evals.environment import (
    QUICK_EDIT_LIMITS,
    QUICK_TIMEOUTS,
    EnvironmentConfig,
    assert_ledger_matches,
    is_settled,
    open_environment,
)
from ledger import requests
from ledger.database import Ledger
from ledger.models import Request, Video, VideoState
from ledger.schema import requests as requests_table
from sandbox.model import SandboxModel
from sandbox.telegram.server import BotApiServer
from sandbox.telegram.user import Person
from sandbox.video_api.openai import FakeProvider
from tests.support.factories import begun, put
from tests.support.waiting import wait_until
from web.admin import COOKIE, Admin
from web.auth import TokenAuth
from web.server import build_app, serve
from worker.context import Timeouts


@dataclass
class Theatre:
    """What a test plays with."""

    app: App
    api: BotApiServer
    fake_provider: FakeProvider
    model: SandboxModel

    def user(self, user_id: int = 1001, name: str = "Ana", language: str = "en") -> Person:
        return self.api.user(user_id, name, language_code=language)

    async def latest(self, user_id: int = 1001) -> tuple[Request, Video | None] | None:
        found = await requests.list_for_user(self.app.ledger, user_id, 1)
        return found[0] if found else None

    async def ended(
        self, user_id: int = 1001, count: int = 1, seconds: float = 30
    ) -> list[tuple[Request, Video | None]]:
        """Wait until the user's `count` latest requests rest and were told; return them, newest first."""
        found: list[tuple[Request, Video | None]] = []

        async def rest() -> bool:
            found[:] = await requests.list_for_user(self.app.ledger, user_id, count)
            return len(found) == count and all(is_settled(*one) for one in found)

        await wait_until(rest, seconds, f"{count} requests of {user_id} to end")
        return found

    async def create(
        self, idea: str = "a quiet market at dawn", user_id: int = 1001
    ) -> tuple[Request, Video | None]:
        """Send one /create as a person does and wait for its end."""
        known = len(await requests.list_for_user(self.app.ledger, user_id, 100))
        await self.user(user_id).send(f"/create {idea}")

        async def there() -> bool:
            return len(await requests.list_for_user(self.app.ledger, user_id, 100)) > known

        await wait_until(there, 10, "the request")
        return (await self.ended(user_id))[0]


Opener = Callable[..., "contextlib.AbstractAsyncContextManager[Theatre]"]


@asynccontextmanager
async def open_theatre(
    folder: Path,
    redis_url: str,
    *,
    model: Model | None = None,
    shape: str = "inworld",
    changes: Mapping[str, str | None] | None = None,
    capabilities: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    timeouts: Timeouts = QUICK_TIMEOUTS,
    wake: Callable[[App], tuple[Awaitable[None], ...]] | None = None,
    fake_provider_options: Mapping[str, Any] | None = None,
    clock_scale: float = 60,
    edit_limits: EditLimits = QUICK_EDIT_LIMITS,
) -> AsyncIterator[Theatre]:
    """Open everything and let it run: updates by polling, one worker, the sweep.

    Args:
        folder: The test's own.
        redis_url: A Valkey of the test's own; keys get a prefix of their own as well.
        model: Plays the agents; by default a benign rehearsal model.
        shape: The peer's documentation: `inworld` is keyed, `openai` and `sglang` list, `vllm_omni` lists.
        changes: Of the declaration of generate_video; see `declare`.
        capabilities: Changed capabilities of the provider, for example quicker doubts.
        settings: Further settings.
        pace: The studio's times.
        wake: What runs; by default a worker and polling.
        fake_provider_options: Of the peer.
        clock_scale: Telegram seconds in one of ours.
        manners: The chat's times.
    """
    chosen = model or SandboxModel()
    plan = EnvironmentConfig(
        folder,
        redis_url,
        chosen,
        shape=shape,
        changes=changes,
        capabilities=capabilities,
        settings=settings,
        timeouts=timeouts,
        edit_limits=edit_limits,
        fake_provider_options=fake_provider_options,
        clock_scale=clock_scale,
        wake=wake,
    )
    async with open_environment(plan) as env:
        yield Theatre(env.app, env.api, env.fake_provider, chosen)
        await assert_ledger_matches(env.app.ledger, env.fake_provider)


SECRET = "a-secret_of-1"
HEADER = "X-Telegram-Bot-Api-Secret-Token"
GROUP = -1001234567890
_ids = itertools.count(50_000)


def work_only(app):
    """Updates come some other way: by a webhook of the test."""
    return (run_worker(app),)


def front_only(app):
    """Nobody works: what the handlers wrote stays as they wrote it."""
    return (run_polling(app),)


@asynccontextmanager
async def on_webhook(env, *, around=None, announce=True) -> AsyncIterator[str]:
    """Serve the house's updates by webhook; yield its address; `around` stands before the gate."""
    dispatcher = build_dispatcher(env.app.chat)
    if around is not None:
        dispatcher.update.outer_middleware(around)
    handler = webhook_handler(dispatcher, env.app.bot, SECRET)
    async with serve(build_app({}, {"/hook": handler.handle}), "127.0.0.1", 0) as url:
        if announce:
            await env.app.bot.set_webhook(f"{url}/hook", secret_token=SECRET, allowed_updates=ALLOWED_UPDATES)
        yield f"{url}/hook"


async def post(url: str, update: dict | bytes, secret: str | None = SECRET) -> int:
    """POST one update as Telegram does; return the status."""
    headers = {} if secret is None else {HEADER: secret}
    body = {"data": update} if isinstance(update, bytes) else {"json": update}
    async with ClientSession() as session, session.post(url, headers=headers, **body) as answer:
        return answer.status


def push(env, kind: str = "message", **body):
    """Queue an update as Telegram would send it, for senders that no person can be."""
    message = {
        "message_id": next(_ids),
        "date": 1,
        "chat": {"id": 1001, "type": "private", "first_name": "A"},
    }
    sender = {"from": {"id": 1001, "is_bot": False, "first_name": "A", "language_code": "en"}}
    return env.api.world.updates.push(kind, message | sender | body, "chat:raw", 60)


def said(env, chat_id: int | None = None) -> list[str]:
    """Return every text that the bot sent to a chat, oldest first."""
    calls = env.api.calls.of("sendMessage")
    return [
        call.params["text"]
        for call in calls
        if call.performed and (chat_id is None or int(call.params["chat_id"]) == chat_id)
    ]


def told_once(env) -> None:
    """One ping; at most one status message: a video that is here before the first look needs none."""
    texts = said(env)
    pings = [text for text in texts if "ready" in text]
    assert len(pings) == 1, texts
    assert len(texts) <= 2, texts


async def count_requests(env) -> int:
    async with env.app.ledger.read() as conn:
        return int(await conn.scalar(select(func.count()).select_from(requests_table)) or 0)


async def answers(env, count: int, chat_id: int | None = None, seconds: float = 10) -> list[str]:
    """Wait until the bot has sent `count` texts; return them."""

    async def there() -> bool:
        return len(said(env, chat_id)) >= count

    await wait_until(there, seconds, f"{count} answers; there are {said(env, chat_id)}")
    return said(env, chat_id)


async def taken_up(env) -> None:
    """Wait until the bot has confirmed every update."""

    async def empty() -> bool:
        return not env.api.pending_updates

    await wait_until(empty, 10, "all updates to be confirmed")


async def state_is(env, state, user_id: int = 1001, seconds: float = 15) -> None:
    """Wait until the user's latest request, or its video, is in `state`, and was told so."""

    async def there() -> bool:
        found = await env.latest(user_id)
        return found is not None and (found[1] or found[0]).state == state and found[0].told == state

    await wait_until(there, seconds, f"{state}")


@asynccontextmanager
async def without_requests(ledger) -> AsyncIterator[None]:
    """Take the ledger's first table away: to its clients the database fails, until the block ends."""
    async with ledger.write() as conn:
        await conn.execute(text("ALTER TABLE requests RENAME TO away"))
    try:
        yield
    finally:
        async with ledger.write() as conn:
            await conn.execute(text("ALTER TABLE away RENAME TO requests"))


async def both(env, user_id: int = 1001):
    found = await requests.list_for_user(env.app.ledger, user_id, 1)
    return found[0]


TOKEN = "an-operators-token-of-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
NAME = "Olga"


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Floor:
    """A production line that notes whom it was woken for."""

    followed: list[Video | None] = field(default_factory=list)
    reopenings: int = 0
    away: bool = False

    async def apply_effects(self, video: Video | None) -> None:
        if self.away:
            raise ConnectionError("Redis is away")
        self.followed.append(video)

    async def breaker_closed(self) -> None:
        self.reopenings += 1


@dataclass
class Browser:
    """A browser at the operator's page; cookies are kept as browsers do."""

    url: str
    web: ClientSession
    floor: Floor
    clock: Clock

    async def get(self, path: str, **more) -> tuple[int, str, ClientResponse]:
        async with self.web.get(f"{self.url}{path}", allow_redirects=False, **more) as answer:
            return answer.status, await answer.text(), answer

    async def post(
        self, path: str, origin: str | None = "own", headers: dict[str, str] | None = None, **fields: str
    ) -> tuple[int, str, ClientResponse]:
        """Send a form as a page of `origin` would."""
        sent = dict(headers or {})
        if origin is not None:
            sent["Origin"] = self.url if origin == "own" else origin
        async with self.web.post(
            f"{self.url}{path}", data=fields, headers=sent, allow_redirects=False
        ) as answer:
            return answer.status, await answer.text(), answer

    async def log_in(self, token: str = TOKEN, who: str = NAME, **more) -> tuple[int, str, ClientResponse]:
        return await self.post("/admin/login", token=token, who=who, **more)

    async def page(self, query: str = "") -> str:
        status, text, _ = await self.get(f"/admin{query}")
        assert status == 200, text
        return text

    async def form(self) -> str:
        """The form token of this session, from the page."""
        return hidden(await self.page(), "form")[0]

    async def api(self, query: str = "") -> dict:
        async with self.web.get(f"{self.url}/api/admin/costs{query}", headers=BEARER) as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()

    @property
    def cookie(self) -> str:
        found = {one.key: one.value for one in self.web.cookie_jar}
        return found.get(COOKIE, "")


def hidden(text: str, name: str) -> list[str]:
    """Return the values of the hidden fields of this name, in the order of the page."""
    return [unescape(one) for one in re.findall(rf'type="hidden" name="{name}" value="([^"]*)"', text)]


@asynccontextmanager
async def operator(ledger: Ledger, jaeger: str = "") -> AsyncIterator[Browser]:
    """Serve the page over this ledger; nobody is logged in yet."""
    floor, clock = Floor(), Clock()
    app = build_app({}, {}, admin=Admin(ledger, TokenAuth(TOKEN, clock), floor, jaeger))
    async with serve(app, "127.0.0.1", 0) as url, ClientSession(cookie_jar=CookieJar(unsafe=True)) as web:
        yield Browser(url, web, floor, clock)


async def hold(ledger, opened, **columns):
    request = await begun(ledger, opened)
    await put(ledger, request, VideoState.HOLD, **{"failure": "in_doubt"} | columns)
    return request


async def settle(browser, request, **fields):
    """Send the form of this request's HOLD as the page drew it, with these fields filled in."""
    text = await browser.page()
    drawn = {name: hidden(text, name) for name in ("request", "seen")}
    [n] = [n for n, one in enumerate(drawn["request"]) if one == request]
    given = {"seen": drawn["seen"][n], "form": hidden(text, "form")[0], "why": "their invoice"} | fields
    return await browser.post("/admin/resolve", request=request, **given)


HEADERS = ("Content-Type", "X-Telegram-Bot-Api-Secret-Token")


class Front:
    """A reverse proxy as operators have one: no answer of a replica is a 502, and Telegram comes again.

    Attributes:
        replicas: Base addresses of the bots.
        accepted: How many updates each replica said 200 to.
    """

    def __init__(self) -> None:
        self.replicas: list[str] = []
        self.accepted: Counter[str] = Counter()
        self._turn = 0

    async def __aenter__(self) -> Self:
        self._session = ClientSession(timeout=ClientTimeout(total=30))
        app = web.Application()
        app.router.add_post("/telegram", self._pass_on)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/telegram"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _pass_on(self, request: web.Request) -> web.Response:
        self._turn += 1
        replica = self.replicas[self._turn % len(self.replicas)]
        headers = {name: request.headers[name] for name in HEADERS if name in request.headers}
        try:
            async with self._session.post(
                f"{replica}/telegram", data=await request.read(), headers=headers
            ) as answer:
                body = await answer.read()
        except (ClientError, TimeoutError, OSError):
            return web.Response(status=502)
        self.accepted[replica] += answer.status == 200
        return web.Response(status=answer.status, body=body, content_type="application/json")

    async def ready(self, replica: str) -> bool:
        """Ask a replica whether it may have traffic."""
        try:
            async with self._session.get(f"{replica}/readyz") as answer:
                return answer.status == 200
        except (ClientError, TimeoutError, OSError):
            return False


# The least that Telegram takes for a video: an MP4 brand and a sound track.
MP4 = b"\0\0\0\x18ftypmp42" + b"\0" * 64 + b"soun" + b"\0" * 64


class QuickSession(AiohttpSession):
    async def close(self) -> None:
        """Without aiogram's quarter of a second for TLS: there is none on loopback."""
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
    """A webhook of the test's own; yields its address."""
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
    """A handler that keeps every update and answers with the next status of `answers`, then 200."""

    async def handle(request: web.Request) -> web.Response:
        seen.append(await request.json())
        return web.Response(status=answers.pop(0) if answers else 200)

    return handle
