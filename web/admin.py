"""Admin routes: login, costs page and API, resolve a hold, open or close a breaker."""

from collections.abc import Mapping
from typing import Final, get_args

from aiohttp import web

from ledger import breaker, reports, transitions
from ledger.breaker import UnknownScope
from ledger.history import pending_orders
from ledger.overview import read_overview
from ledger.reports import ReportPeriod
from ledger.transitions import HoldNotResolved, JobTaken, Resolution
from telemetry.logs import get_logger
from web import operator_acts, operator_pages
from web.admin_context import Admin, ledger_errors_as_503, operator_name, parse_number, run_effects, unsure
from web.auth import Session
from web.login import LOGIN, LoginRoutes
from web.pages import WEB_DIR, Frame, costs_page
from web.serializers import report_as_json

log = get_logger(__name__)

_MAX_USER_ID: Final = 2**52
_DONE_MESSAGES: Final = {
    "settled": "Resolved. A worker continues from here.",
    "closed": "The breaker is closed. Waiting orders continue.",
    "opened": "Paid work is stopped. What was sent before is still delivered.",
    "taken": "You have taken it on. It is not repeated, and is listed until its cause ends.",
    "taken_before": "Someone has taken it on before: see the list.",
}
_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; media-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: with it browsers send `Origin: null` even with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def add_admin(app: web.Application, admin: Admin) -> None:
    """Mount the page under /admin and the API under /api/admin."""
    login = LoginRoutes(admin.auth, admin.revocations)
    routes = _Routes(admin, login)
    operator_pages.add_pages(app, admin, login, ledger_errors_as_503)
    operator_acts.add_acts(app, admin, login, ledger_errors_as_503)
    app.router.add_get("/api/admin/costs", ledger_errors_as_503(routes.api))
    app.router.add_get("/admin", ledger_errors_as_503(routes.costs))
    app.router.add_post("/admin/resolve", ledger_errors_as_503(routes.resolve))
    app.router.add_post("/admin/breaker", ledger_errors_as_503(routes.close))
    app.router.add_post("/admin/breaker/open", ledger_errors_as_503(routes.open))
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


class _Routes:
    def __init__(self, admin: Admin, login: LoginRoutes) -> None:
        self._admin, self._login_routes, self._ledger = admin, login, admin.ledger

    async def api(self, request: web.Request) -> web.Response:
        await self._login_routes.require_access(request)
        period, user = _read_query(request)
        report = await reports.read_report(self._ledger, period, user)
        opened = await breaker.open_breakers(self._ledger)
        overview = await read_overview(self._ledger, period, user)
        pending = await pending_orders(self._ledger)
        return web.json_response(report_as_json(report, overview, pending, opened))

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
            await read_overview(self._ledger, period, user),
            await pending_orders(self._ledger),
            await breaker.open_breakers(self._ledger),
            Frame(session, self._admin.jaeger, notice, error and f"Nothing was changed: {error}."),
            live=request.query.get("live") == "1",
        )
        return web.Response(text=text, content_type="text/html", status=409 if error else 200)

    async def resolve(self, request: web.Request) -> web.Response:
        """Resolve the HOLD that the page showed, by the same transition as `python -m bot resolve`."""
        session, form = await self._login_routes.form(request)
        try:
            seen, found = parse_number(form.get("seen", "")), _read_resolution(form)
            video = await transitions.find_hold(self._ledger, form.get("request", ""))
            await self._admin.worker.check_job(video, found)
            if question := unsure(
                request, session, form, f"Resolve #{video.short_id} as {found.outcome}?",
                f"{video.quote} is on hold. Why: {found.why}",
            ):  # fmt: skip
                return question
            moved = await transitions.resolve_hold(
                self._ledger, video.request_id, found, operator_name(session), seen
            )
        except (HoldNotResolved, JobTaken) as error:
            return await self._page(request, session, error=str(error))
        log.warning(
            "hold resolved by operator", request=moved.request_id, to=moved.state, who=operator_name(session)
        )
        await run_effects(self._admin.worker.apply_effects(moved))
        raise web.HTTPSeeOther("/admin?said=settled")

    async def close(self, request: web.Request) -> web.Response:
        """Close the opening that the page showed; a later one stays open."""
        session, form = await self._login_routes.form(request)
        scope, seen = form.get("scope", ""), parse_number(form.get("seen", ""))
        text = "Waiting orders are sent, and new ones are taken."
        if question := unsure(request, session, form, f"Close the breaker for {scope}?", text):
            return question
        if not await breaker.close(self._ledger, scope, operator_name(session), seen):
            text = "this breaker is no longer open, or it was opened again"
            return await self._page(request, session, error=text)
        log.warning("breaker closed by operator", scope=scope, who=operator_name(session))
        await run_effects(self._admin.worker.breaker_closed())
        raise web.HTTPSeeOther("/admin?said=closed")

    async def open(self, request: web.Request) -> web.Response:
        """Stop paid work of one user or of everyone, first POSTs and replays."""
        session, form = await self._login_routes.form(request)
        scope, why = form.get("scope", "").strip(), form.get("why", "").strip()
        if not why:
            return await self._page(request, session, error="say why: every operator reads it")
        text = f"No order is sent for {scope} until someone closes it. Why: {why}"
        if breaker.is_scope(scope) and (
            question := unsure(request, session, form, f"Stop paid work for {scope}?", text)
        ):
            return question
        try:
            opened = await breaker.open_scope(self._ledger, scope, operator_name(session), why)
        except UnknownScope as error:
            return await self._page(request, session, error=str(error))
        if not opened:
            return await self._page(request, session, error=f"the breaker for {scope} is open already")
        log.warning("breaker opened by operator", scope=scope, who=operator_name(session))
        await run_effects(self._admin.worker.breaker_opened())
        raise web.HTTPSeeOther("/admin?said=opened")


def _read_resolution(form: Mapping[str, str]) -> Resolution:
    found = transitions.parse_resolution(
        form.get("outcome", ""), form.get("job", "").strip(), form.get("why", "")
    )
    if not found.why:
        raise HoldNotResolved("say why: what you saw at the provider is stored with the transition")
    return found


def _read_query(request: web.Request) -> tuple[ReportPeriod, int | None]:
    """Parse `?span=today|hour|30d&user=ID`; raise 400 for other values."""
    given = request.query.get("span", "today")
    period = next((one for one in get_args(ReportPeriod) if one == given), None)
    if period is None:
        raise web.HTTPBadRequest(text=f"span is one of {', '.join(get_args(ReportPeriod))}\n")
    user = request.query.get("user", "")
    if user and not 0 < parse_number(user) < _MAX_USER_ID:
        raise web.HTTPBadRequest(text="user is a Telegram user id, a positive number\n")
    return period, int(user) if user else None
