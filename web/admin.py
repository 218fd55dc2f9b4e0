"""Admin routes: login, costs page and API, resolve a hold, open or close a breaker."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, get_args
from urllib.parse import urlsplit

from aiohttp import web

from ledger import breaker, reports, transitions
from ledger.breaker import UnknownScope
from ledger.database import Ledger
from ledger.history import pending_orders
from ledger.models import Video
from ledger.reports import ReportPeriod
from ledger.transitions import HoldNotResolved, JobTaken, Resolution
from telemetry.logs import get_logger
from web.auth import SESSION_S, Session, TokenAuth, TooManyAttempts
from web.pages import WEB_DIR, costs_page, login_page
from web.revocations import Revocations
from web.serializers import report_as_json
from worker.outages import is_outage

log = get_logger(__name__)

COOKIE: Final = "onetake_session"
LOGIN: Final = "/admin/login"
_MAX_USER_ID: Final = 2**52
_DONE_MESSAGES: Final = {
    "settled": "Resolved. A worker continues from here.",
    "closed": "The breaker is closed. Waiting orders continue.",
    "opened": "Paid work is stopped. What was sent before is still delivered.",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers send `Origin: null` even with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WorkerEffects(Protocol):
    """The part of `WorkerContext` around a manual change: asks before it, enqueues the next tasks after."""

    async def apply_effects(self, video: Video | None) -> None: ...

    async def check_job(self, video: Video, found: Resolution) -> None: ...

    async def breaker_closed(self) -> None: ...

    async def breaker_opened(self) -> None: ...


@dataclass(frozen=True)
class Admin:
    """What the admin routes need.

    Attributes:
        ledger: Read for every figure; written by `resolve`, `open` and `close`.
        auth: Checks tokens and sessions.
        revocations: The sessions that were logged out.
        worker: Wakes what follows a change; a worker finds in the ledger what it missed.
        jaeger: Base URL of Jaeger for links to traces; empty for none.
    """

    ledger: Ledger
    auth: TokenAuth
    revocations: Revocations
    worker: WorkerEffects
    jaeger: str = ""


def add_admin(app: web.Application, admin: Admin) -> None:
    """Mount the page under /admin and the API under /api/admin."""
    login = LoginRoutes(admin.auth, admin.revocations)
    routes = _Routes(admin, login)
    app.router.add_get("/api/admin/costs", _ledger_errors_as_503(routes.api))
    app.router.add_get("/admin", _ledger_errors_as_503(routes.costs))
    app.router.add_post("/admin/resolve", _ledger_errors_as_503(routes.resolve))
    app.router.add_post("/admin/breaker", _ledger_errors_as_503(routes.close))
    app.router.add_post("/admin/breaker/open", _ledger_errors_as_503(routes.open))
    app.router.add_get("/admin/style.css", _style)
    app.router.add_get(LOGIN, login.login_form)
    app.router.add_post(LOGIN, login.log_in)
    app.router.add_post("/admin/logout", login.log_out)
    app.on_response_prepare.append(_protect)


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    if request.path.startswith(("/admin", "/api/admin")):
        response.headers.update(_HEADERS)


async def _style(_: web.Request) -> web.StreamResponse:
    return web.FileResponse(WEB_DIR / "static" / "admin.css")


def _ledger_errors_as_503(route: Route) -> Route:
    """Answer 503 with one sentence if the ledger is unavailable."""

    async def call(request: web.Request) -> web.StreamResponse:
        try:
            return await route(request)
        except Exception as error:
            if not is_outage(error):
                raise
            log.error("ledger unavailable for admin", error=type(error).__name__)
            raise web.HTTPServiceUnavailable(text="The ledger is unavailable at the moment.\n") from error

    return call


class LoginRoutes:
    """Login and logout, and the access checks of the other routes."""

    def __init__(self, auth: TokenAuth, revocations: Revocations) -> None:
        self._auth, self._revocations = auth, revocations

    async def session(self, request: web.Request) -> Session | None:
        """Return the session of this browser, if any."""
        session = self._auth.session(request.cookies.get(COOKIE, ""))
        if session is None or await self._revocations.contain(session.cookie):
            return None
        return session

    async def require_session(self, request: web.Request) -> Session:
        """Return the session of this browser, or redirect it to the login."""
        session = await self.session(request)
        if session is None:
            raise web.HTTPSeeOther(LOGIN)
        return session

    async def require_access(self, request: web.Request) -> None:
        """Accept a session or a bearer token; else raise 401, or 429 after too many wrong tokens."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme and await self.session(request) is not None:
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
        """Return session and fields of a form; raise 403 unless this session's page sent it."""
        session = await self.require_session(request)
        _require_same_origin(request)
        fields = await _read_form(request)
        if not self._auth.owns_form(session, fields.get("form", "")):
            raise web.HTTPForbidden(text="This form does not belong to your session. Load the page again.\n")
        return session, fields

    async def login_form(self, _: web.Request) -> web.Response:
        return _login_response(200)

    async def log_in(self, request: web.Request) -> web.Response:
        _require_same_origin(request)
        form = await _read_form(request)
        try:
            valid = self._auth.check_token(form.get("token", ""), _address(request))
        except TooManyAttempts as error:
            response = _login_response(
                429, f"Too many wrong tokens from this address. Wait {error.wait_s} s."
            )
            response.headers["Retry-After"] = str(error.wait_s)
            return response
        session = self._auth.start_session(form.get("who", "")) if valid else None
        if session is None:
            log.warning("login refused", token_valid=valid)
            return _login_response(401, "Enter a name of at most 40 letters." if valid else "Wrong token.")
        log.info("operator logged in", who=session.who)
        response = _redirect("/admin")
        response.set_cookie(
            COOKIE, session.cookie, max_age=SESSION_S, path="/", httponly=True, samesite="Strict",
            secure="https" in (request.scheme, request.headers.get("X-Forwarded-Proto")),
        )  # fmt: skip
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        session, _ = await self.form(request)
        await self._revocations.add(session.cookie, session.until_s)
        response = _redirect(LOGIN)
        response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict")
        return response


async def _read_form(request: web.Request) -> dict[str, str]:
    """Return the text fields of a form; raise 400 for a NUL, which PostgreSQL stores in no text."""
    fields = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    if wrong := [name for name, value in fields.items() if "\0" in value or "\0" in name]:
        names = ", ".join(name.replace("\0", "?") for name in wrong)
        raise web.HTTPBadRequest(text=f"The field {names} holds a NUL character; send text without it.\n")
    return fields


def _redirect(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


def _login_response(status: int, error: str = "") -> web.Response:
    return web.Response(text=login_page(error), content_type="text/html", status=status)


def _address(request: web.Request) -> str:
    """Return the connecting address. X-Forwarded-For is not used: any sender can write it."""
    return request.remote or ""


def _require_same_origin(request: web.Request) -> None:
    """Refuse a form sent by another site: browsers send the page's Origin with every POST."""
    if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
        raise web.HTTPForbidden(text="This form was not sent by this site's own page.\n")


class _Routes:
    def __init__(self, admin: Admin, login: LoginRoutes) -> None:
        self._admin, self._login_routes, self._ledger = admin, login, admin.ledger

    async def api(self, request: web.Request) -> web.Response:
        await self._login_routes.require_access(request)
        period, user = _read_query(request)
        report = await reports.read_report(self._ledger, period, user)
        opened = await breaker.open_breakers(self._ledger)
        return web.json_response(report_as_json(report, await pending_orders(self._ledger), opened))

    async def costs(self, request: web.Request) -> web.Response:
        session = await self._login_routes.require_session(request)
        return await self._page(
            request, session, notice=_DONE_MESSAGES.get(request.query.get("said", ""), "")
        )

    async def _page(
        self, request: web.Request, session: Session, *, notice: str = "", error: str = ""
    ) -> web.Response:
        period, user = _read_query(request)
        text = costs_page(
            await reports.read_report(self._ledger, period, user),
            await pending_orders(self._ledger),
            await breaker.open_breakers(self._ledger),
            session,
            jaeger=self._admin.jaeger,
            notice=notice,
            error=error and f"Nothing was changed: {error}.",
        )
        return web.Response(text=text, content_type="text/html", status=409 if error else 200)

    async def resolve(self, request: web.Request) -> web.Response:
        """Resolve the HOLD that the page showed, by the same transition as `python -m bot resolve`."""
        session, form = await self._login_routes.form(request)
        try:
            seen, found = _parse_number(form.get("seen", "")), _read_resolution(form)
            video = await transitions.find_hold(self._ledger, form.get("request", ""))
            await self._admin.worker.check_job(video, found)
            moved = await transitions.resolve_hold(self._ledger, video.request_id, found, _who(session), seen)
        except (HoldNotResolved, JobTaken) as error:
            return await self._page(request, session, error=str(error))
        log.warning("hold resolved by operator", request=moved.request_id, to=moved.state, who=_who(session))
        await _run_effects(self._admin.worker.apply_effects(moved))
        raise web.HTTPSeeOther("/admin?said=settled")

    async def close(self, request: web.Request) -> web.Response:
        """Close the opening that the page showed; a later one stays open."""
        session, form = await self._login_routes.form(request)
        scope, seen = form.get("scope", ""), _parse_number(form.get("seen", ""))
        if not await breaker.close(self._ledger, scope, _who(session), seen):
            text = "this breaker is no longer open, or it was opened again"
            return await self._page(request, session, error=text)
        log.warning("breaker closed by operator", scope=scope, who=_who(session))
        await _run_effects(self._admin.worker.breaker_closed())
        raise web.HTTPSeeOther("/admin?said=closed")

    async def open(self, request: web.Request) -> web.Response:
        """Stop paid work of one user or of everyone, first POSTs and replays."""
        session, form = await self._login_routes.form(request)
        scope, why = form.get("scope", "").strip(), form.get("why", "").strip()
        if not why:
            return await self._page(request, session, error="say why: every operator reads it")
        try:
            opened = await breaker.open_scope(self._ledger, scope, _who(session), why)
        except UnknownScope as error:
            return await self._page(request, session, error=str(error))
        if not opened:
            return await self._page(request, session, error=f"the breaker for {scope} is open already")
        log.warning("breaker opened by operator", scope=scope, who=_who(session))
        await _run_effects(self._admin.worker.breaker_opened())
        raise web.HTTPSeeOther("/admin?said=opened")


def _read_resolution(form: Mapping[str, str]) -> Resolution:
    found = transitions.parse_resolution(
        form.get("outcome", ""), form.get("job", "").strip(), form.get("why", "")
    )
    if not found.why:
        raise HoldNotResolved("say why: what you saw at the provider is stored with the transition")
    return found


async def _run_effects(effects: Coroutine[Any, Any, None]) -> None:
    """Enqueue what follows a change; a failure is only logged, because the change is committed."""
    try:
        await effects
    except Exception as error:  # noqa: BLE001 - a worker finds in the ledger what was not woken
        log.warning("effects not applied, left to the workers", error=type(error).__name__)


def _who(session: Session) -> str:
    return f"web:{session.who}"


def _parse_number(text: str) -> int:
    """Parse a number that our own page wrote; -1 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1


def _read_query(request: web.Request) -> tuple[ReportPeriod, int | None]:
    """Parse `?span=today|hour|30d&user=ID`; raise 400 for other values."""
    given = request.query.get("span", "today")
    period = next((one for one in get_args(ReportPeriod) if one == given), None)
    if period is None:
        raise web.HTTPBadRequest(text=f"span is one of {', '.join(get_args(ReportPeriod))}\n")
    user = request.query.get("user", "")
    if user and not 0 < _parse_number(user) < _MAX_USER_ID:
        raise web.HTTPBadRequest(text="user is a Telegram user id, a positive number\n")
    return period, int(user) if user else None
