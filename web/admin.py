"""Admin routes: login, costs page and API, resolve a hold, close a breaker."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, get_args
from urllib.parse import urlsplit

from aiohttp import web
from sqlalchemy.exc import SQLAlchemyError

from ledger import breaker, reports, transitions
from ledger.database import Ledger
from ledger.history import pending_orders
from ledger.models import Video
from ledger.reports import ReportPeriod
from ledger.transitions import HoldNotResolved, JobTaken, Resolution
from telemetry.logs import get_logger
from web.auth import SESSION_S, Session, TokenAuth, TooManyAttempts
from web.pages import WEB_DIR, costs_page, login_page
from web.serializers import report_as_json

log = get_logger(__name__)

COOKIE: Final = "onetake_session"
LOGIN: Final = "/admin/login"
_MAX_USER_ID: Final = 2**52
_DONE_MESSAGES: Final = {
    "settled": "Settled. A worker goes on from here.",
    "closed": "The breaker is closed. Orders that wait go on.",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it a browser sends `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WorkerEffects(Protocol):
    """The production line, as far as this room knows it: whoever changes the ledger by hand wakes it."""

    async def apply_effects(self, video: Video | None) -> None: ...

    async def breaker_closed(self) -> None: ...


@dataclass(frozen=True)
class Admin:
    """What the operator's routes need.

    Attributes:
        ledger: Read for every figure, written by an operator's two acts.
        gate: Says who may pass.
        floor: Woken after an act; what it does not hear, the sweep finds.
        jaeger: Where traces can be looked at; empty if nowhere.
    """

    ledger: Ledger
    auth: TokenAuth
    worker: WorkerEffects
    jaeger: str = ""


def add_admin(app: web.Application, admin: Admin) -> None:
    """Mount the page under /admin and the API under /api/admin. Without this call there is neither."""
    door = LoginRoutes(admin.auth)
    routes = _Routes(admin, door)
    app.router.add_get("/api/admin/costs", _ledger_errors_as_503(routes.api))
    app.router.add_get("/admin", _ledger_errors_as_503(routes.costs))
    app.router.add_post("/admin/resolve", _ledger_errors_as_503(routes.resolve))
    app.router.add_post("/admin/breaker", _ledger_errors_as_503(routes.close))
    app.router.add_get("/admin/style.css", _style)
    app.router.add_get(LOGIN, door.login_form)
    app.router.add_post(LOGIN, door.log_in)
    app.router.add_post("/admin/logout", door.log_out)
    app.on_response_prepare.append(_protect)


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    if request.path.startswith(("/admin", "/api/admin")):
        response.headers.update(_HEADERS)


async def _style(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(WEB_DIR / "static" / "admin.css")


def _ledger_errors_as_503(route: Route) -> Route:
    """Say in one sentence that the ledger is away, in place of a trace."""

    async def call(request: web.Request) -> web.StreamResponse:
        try:
            return await route(request)
        except (SQLAlchemyError, OSError, TimeoutError) as error:
            log.error("the ledger cannot be used", error=type(error).__name__)
            raise web.HTTPServiceUnavailable(text="The ledger cannot be used at the moment.\n") from error

    return call


class LoginRoutes:
    """The routes that anybody may call, and the checks of those that not everybody may."""

    def __init__(self, gate: TokenAuth) -> None:
        self._auth = gate

    def session(self, request: web.Request) -> Session | None:
        """Return the session of this browser, if it has one."""
        return self._auth.session(request.cookies.get(COOKIE, ""))

    def require_session(self, request: web.Request) -> Session:
        """Return the session of this browser, or send it to the login."""
        session = self.session(request)
        if session is None:
            raise web.HTTPSeeOther(LOGIN)
        return session

    def require_access(self, request: web.Request) -> None:
        """Let a program pass by its bearer token, and a person by their session; else 401 or 429."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme and self.session(request) is not None:
            return
        try:
            if scheme.lower() == "bearer" and self._auth.check_token(token.strip(), _address(request)):
                return
        except TooManyAttempts as error:
            wait = {"Retry-After": str(error.wait_s)}
            raise web.HTTPTooManyRequests(text=f"{error}\n", headers=wait) from None
        raise web.HTTPUnauthorized(
            text="Send the header `Authorization: Bearer ADMIN_TOKEN`.\n",
            headers={"WWW-Authenticate": 'Bearer realm="onetake"'},
        )

    async def form(self, request: web.Request) -> tuple[Session, dict[str, str]]:
        """Return who sent a form and its fields; refuse what our own page did not send."""
        session = self.require_session(request)
        _must_be_ours(request)
        fields = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        if not self._auth.owns_form(session, fields.get("form", "")):
            raise web.HTTPForbidden(text="This form was not drawn for your session. Load the page again.\n")
        return session, fields

    async def login_form(self, _: web.Request) -> web.Response:
        return _login(200)

    async def log_in(self, request: web.Request) -> web.Response:
        _must_be_ours(request)
        form = await request.post()
        try:
            good = self._auth.check_token(str(form.get("token", "")), _address(request))
        except TooManyAttempts as error:
            answer = _login(429, f"Too many wrong tokens from here. Wait {error.wait_s} s.")
            answer.headers["Retry-After"] = str(error.wait_s)
            return answer
        session = self._auth.start_session(str(form.get("who", ""))) if good else None
        if session is None:
            log.warning("a login was refused", token_was_right=good)
            return _login(
                401, "Say who you are, in at most 40 letters." if good else "That is not the token."
            )
        log.info("an operator logged in", who=session.who)
        answer = _to("/admin")
        answer.set_cookie(
            COOKIE, session.cookie, max_age=SESSION_S, path="/", httponly=True, samesite="Strict",
            secure="https" in (request.scheme, request.headers.get("X-Forwarded-Proto")),
        )  # fmt: skip
        return answer

    async def log_out(self, request: web.Request) -> web.Response:
        await self.form(request)
        answer = _to(LOGIN)
        answer.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return answer


def _to(place: str) -> web.Response:
    return web.Response(status=303, headers={"Location": place})


def _login(status: int, wrong: str = "") -> web.Response:
    return web.Response(text=login_page(wrong), content_type="text/html", status=status)


def _address(request: web.Request) -> str:
    """Return whose attempts these are: the peer, because any sender can write an X-Forwarded-For."""
    return request.remote or ""


def _must_be_ours(request: web.Request) -> None:
    """Refuse a form that another site's page sent: every browser names the page's origin with a POST."""
    if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
        raise web.HTTPForbidden(text="This form was not sent by this site's own page.\n")


class _Routes:
    def __init__(self, admin: Admin, door: LoginRoutes) -> None:
        self._admin, self._login_routes, self._ledger = admin, door, admin.ledger

    async def api(self, request: web.Request) -> web.Response:
        self._login_routes.require_access(request)
        span, user = _read_query(request)
        report = await reports.read_report(self._ledger, span, user)
        opened = await breaker.open_breakers(self._ledger)
        return web.json_response(report_as_json(report, await pending_orders(self._ledger), opened))

    async def costs(self, request: web.Request) -> web.Response:
        session = self._login_routes.require_session(request)
        return await self._page(request, session, said=_DONE_MESSAGES.get(request.query.get("said", ""), ""))

    async def _page(
        self, request: web.Request, session: Session, *, said: str = "", wrong: str = ""
    ) -> web.Response:
        span, user = _read_query(request)
        text = costs_page(
            await reports.read_report(self._ledger, span, user),
            await pending_orders(self._ledger),
            await breaker.open_breakers(self._ledger),
            session,
            jaeger=self._admin.jaeger,
            said=said,
            wrong=wrong and f"Nothing was changed: {wrong}.",
        )
        return web.Response(text=text, content_type="text/html", status=409 if wrong else 200)

    async def resolve(self, request: web.Request) -> web.Response:
        """Settle the HOLD that the page showed, by the transition that `python -m bot resolve` makes."""
        session, form = await self._login_routes.form(request)
        try:
            seen = _number(form.get("seen", ""))
            moved = await transitions.resolve_hold(
                self._ledger, form.get("request", ""), _read_resolution(form), _who(session), seen
            )
        except (HoldNotResolved, JobTaken) as error:
            return await self._page(request, session, wrong=str(error))
        log.warning("settled by a person", request=moved.request_id, to=moved.state, who=_who(session))
        await _run_effects(self._admin.worker.apply_effects(moved))
        raise web.HTTPSeeOther("/admin?said=settled")

    async def close(self, request: web.Request) -> web.Response:
        """Close the opening that the page showed; a later one stays open."""
        session, form = await self._login_routes.form(request)
        scope, seen = form.get("scope", ""), _number(form.get("seen", ""))
        if not await breaker.close(self._ledger, scope, _who(session), seen):
            words = "that breaker is not open any more, or it was opened anew"
            return await self._page(request, session, wrong=words)
        log.warning("breaker closed by a person", scope=scope, who=_who(session))
        await _run_effects(self._admin.worker.breaker_closed())
        raise web.HTTPSeeOther("/admin?said=closed")


def _read_resolution(form: Mapping[str, str]) -> Resolution:
    found = transitions.parse_resolution(
        form.get("outcome", ""), form.get("job", "").strip(), form.get("why", "")
    )
    if not found.why:
        raise HoldNotResolved("say why: what you saw at the provider stands beside the transition")
    return found


async def _run_effects(following: Coroutine[Any, Any, None]) -> None:
    """Wake whoever goes on. The act stands in the ledger already, so nothing here may take it back."""
    try:
        await following
    except Exception as error:  # noqa: BLE001 - the sweep follows what was not followed
        log.warning("the sweep goes on from here", error=type(error).__name__)


def _who(session: Session) -> str:
    return f"web:{session.who}"


def _number(words: str) -> int:
    """Read a time that our own page wrote; anything else names no time at all."""
    return int(words) if words.isascii() and words.isdigit() and len(words) < 19 else -1


def _read_query(request: web.Request) -> tuple[ReportPeriod, int | None]:
    """Read `?span=today|hour|30d&user=ID`."""
    given = request.query.get("span", "today")
    span = next((one for one in get_args(ReportPeriod) if one == given), None)
    if span is None:
        raise web.HTTPBadRequest(text=f"span is one of {', '.join(get_args(ReportPeriod))}\n")
    user = request.query.get("user", "")
    if user and not 0 < _number(user) < _MAX_USER_ID:
        raise web.HTTPBadRequest(text="user is a Telegram user id, a positive number\n")
    return span, int(user) if user else None
