"""The operators' page of a test's ledger, and a browser at it."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path

from aiohttp import ClientResponse, ClientSession, CookieJar

from app.application import App
from app.processes import _http_app
from guardrails.redis_client import RedisClient
from ledger.corrections import Corrected
from ledger.database import Ledger
from ledger.models import Video, VideoState
from ledger.transitions import HoldNotResolved, Resolution
from tests.support.factories import LIMITS, begun, put
from web.admin_context import Admin
from web.auth import TokenAuth
from web.login import COOKIE
from web.revocations import Revocations
from web.server import build_app, serve

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
class FakeWorker:
    """Records which videos were passed on after a resolve; raises when `unavailable`.

    It knows every job but `unknown`.
    """

    passed_on: list[Video | None] = field(default_factory=list)
    reopenings: int = 0
    openings: int = 0
    unavailable: bool = False
    unknown: str = ""
    delivered: list[str] = field(default_factory=list)
    media_dir: Path = Path("absent")

    async def check_job(self, video: Video, found: Resolution) -> None:
        if found.job_id and found.job_id == self.unknown:
            raise HoldNotResolved(f"{video.provider} does not know job {found.job_id!r}")

    async def apply_correction(self, done: Corrected) -> None:
        await self.apply_effects(done.video)

    async def deliver_again(self, request_id: str) -> None:
        self.delivered.append(request_id)

    def asset_path(self, video: Video) -> Path:
        return self.media_dir / f"{video.short_id}.mp4"

    async def apply_effects(self, video: Video | None) -> None:
        if self.unavailable:
            raise ConnectionError("Redis is unavailable")
        self.passed_on.append(video)

    async def breaker_closed(self) -> None:
        self.reopenings += 1

    async def breaker_opened(self) -> None:
        self.openings += 1


@dataclass
class Browser:
    """A browser at the operators' page; it keeps cookies."""

    url: str
    web: ClientSession
    worker: FakeWorker
    clock: Clock

    async def get(self, path: str, **more) -> tuple[int, str, ClientResponse]:
        async with self.web.get(f"{self.url}{path}", allow_redirects=False, **more) as answer:
            return answer.status, await answer.text(), answer

    async def post(
        self, path: str, origin: str | None = "own", headers: dict[str, str] | None = None, **fields: str
    ) -> tuple[int, str, ClientResponse]:
        """Send a form as a page of `origin` would, with the answer yes to the question that follows it."""
        fields = {"sure": "yes"} | fields
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
async def open_admin_page(
    ledger: Ledger, jaeger: str = "", redis: RedisClient | None = None
) -> AsyncIterator[Browser]:
    """Serve the page over this ledger; no one is logged in yet."""
    worker, clock = FakeWorker(), Clock()
    revocations = Revocations(redis, "t", clock)
    app = build_app(
        {},
        {},
        admin=Admin(ledger, TokenAuth(TOKEN, clock), revocations, worker, jaeger, LIMITS, frozenset({1}), 99),
    )
    async with serve(app, "127.0.0.1", 0) as url, ClientSession(cookie_jar=CookieJar(unsafe=True)) as web:
        yield Browser(url, web, worker, clock)


@asynccontextmanager
async def admin_browser(app: App) -> AsyncIterator[Browser]:
    """Serve HTTP as `python -m bot run` does for this app, and yield a browser at it."""
    jar = CookieJar(unsafe=True)
    async with serve(_http_app(app), "127.0.0.1", 0) as url, ClientSession(cookie_jar=jar) as web:
        yield Browser(url, web, FakeWorker(), Clock())


async def held_request(ledger, opened, **columns):
    request = await begun(ledger, opened)
    await put(ledger, request, VideoState.HOLD, **{"failure": "in_doubt"} | columns)
    return request


async def resolve_hold(browser, request, **fields):
    """Send the form of this request's hold as the page shows it, with these fields filled in."""
    text = await browser.page()
    drawn = {name: hidden(text, name) for name in ("request", "seen")}
    [n] = [n for n, one in enumerate(drawn["request"]) if one == request]
    given = {"seen": drawn["seen"][n], "form": hidden(text, "form")[0], "why": "their invoice"} | fields
    return await browser.post("/admin/resolve", request=request, **given)
