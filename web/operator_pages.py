"""Pages that only read: requests, one request with its video, users, what operators did; entries as CSV."""

import csv
import io
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast
from uuid import uuid4

from aiohttp import web

from ledger import operator_log, operator_users, request_search, totals
from ledger.database import Ledger, transaction
from ledger.entry_export import EntryLine, entry_lines
from ledger.failures import explanation
from ledger.history import RequestNotFound, find_order, paid_jobs, read_history
from ledger.model_usage import model_costs
from ledger.models import CORRECTIONS, Request, Video, VideoState, provider_key, seed
from ledger.reports import snapshot
from ledger.request_search import OUTCOMES, Outcome, Search
from ledger.requests import find_with_video
from ledger.totals import DAY_MS, CostSummary
from ledger.video_credits import MAX_GRANT
from web.admin_context import Admin, Route, parse_number
from web.auth import Session
from web.login import LoginRoutes
from web.pages import Frame, page
from web.serializers import iso_time

PAGE_LINES: Final = 50
_USER_LINES: Final = 25
_MAX_PAGE: Final = 100_000
_DAYS: Final = 30
_ENDS: Final = {
    VideoState.ACCEPTED: "paid",
    VideoState.FAILED_PAID: "gone",
    VideoState.FAILED_UNPAID: "unpaid",
}
_CSV_COLUMNS: Final = (
    "entry", "at", "request", "id", "user", "kind", "micros", "usd", "job", "n", "model",
    "corrected_by", "why",
)  # fmt: skip

DONE: Final = {
    "corrected": "Corrected. The entry has your name and reason, and the user is told.",
    "again": "That form was sent before: nothing was changed now.",
    "redelivered": "The delivery is tried now, or within three minutes.",
    "granted": "The credits are theirs, and they are told.",
    "banned": "Banned. Workers end what is not paid within a few seconds.",
    "unbanned": "The ban is lifted.",
    "unchanged": "Nothing was changed: that was so already.",
}
"""What a page says after an act, by the word in its address."""


def add_pages(app: web.Application, admin: Admin, login: LoginRoutes, safe: Callable[[Route], Route]) -> None:
    """Mount them; `safe` answers 503 while the ledger is unavailable."""
    pages = OperatorPages(admin, login)
    for path, route in (
        ("/admin/requests", pages.requests),
        ("/admin/request", pages.request),
        ("/admin/video", pages.video),
        ("/admin/users", pages.users),
        ("/admin/audit", pages.audit),
        ("/admin/entries.csv", pages.entries),
    ):
        app.router.add_get(path, safe(route))


class OperatorPages:
    """The routes; those of acts show `request` and `users` again with an error."""

    def __init__(self, admin: Admin, login: LoginRoutes) -> None:
        self._admin, self._login, self._ledger = admin, login, admin.ledger

    async def requests(self, request: web.Request) -> web.Response:
        """Find requests by words, days, user and outcome; what was paid twice comes first and all."""
        session = await self._login.require_session(request)
        search, first, last = await _read_search(self._ledger, request)
        number = _page_number(request)
        found = await request_search.find(self._ledger, search, (number - 1) * PAGE_LINES, PAGE_LINES)
        given = {
            "q": search.words, "from": first, "to": last, "user": search.user_id or "",
            "outcome": search.outcome or "",
        }  # fmt: skip
        return _html(
            page(
                "requests.html", self._frame(request, session), "/admin/requests", given=given, found=found,
                twice=await request_search.twice_paid(self._ledger, search.user_id),
                outcomes=await request_search.outcomes(self._ledger, search),
                costs=await _costs(self._ledger, search), number=number,
                pages=_pages(found.count, PAGE_LINES), at=_without_page(request),
            )
        )  # fmt: skip

    async def request(self, request: web.Request) -> web.Response:
        """Show one request: what `python -m bot trace` prints, its video, and what can be done about it."""
        session = await self._login.require_session(request)
        return await self.show_request(request, session, request.query.get("id", ""))

    async def show_request(
        self, request: web.Request, session: Session, wanted: str, error: str = ""
    ) -> web.Response:
        """Return the page of the request that `wanted` names; with an error its status is 409."""
        try:
            history = await read_history(self._ledger, wanted)
        except RequestNotFound as unknown:
            raise web.HTTPNotFound(text=f"{unknown}\n") from None
        found = await find_with_video(self._ledger, history.request_id)
        if found is None:
            raise web.HTTPNotFound(text="There is no such request.\n")
        row, video = found
        jobs = await paid_jobs(self._ledger, history.request_id)
        values = self._request_values(row, video) | {"history": history, "paid_jobs": jobs}
        values["why"] = explanation(history.failure)
        values["amounts"] = [event.amount for event in history.events if event.amount is not None]
        values["now"] = await _now(self._ledger)
        values["models"] = await model_costs(self._ledger, request_id=history.request_id)
        held = video is not None and video.state is VideoState.HOLD
        values["held"] = await find_order(self._ledger, history.request_id) if held else None
        text = page("request.html", self._frame(request, session, error), "/admin/requests", **values)
        return _html(text, 409 if error else 200)

    def _request_values(self, row: Request, video: Video | None) -> dict[str, Any]:
        targets = CORRECTIONS.get(video.state, frozenset()) if video is not None else frozenset()
        return {
            "state": row.state if video is None else video.state,
            "idea": row.idea,
            "erased": row.erasure is not None,
            "order": video,
            "key": provider_key(row.request_id),
            "seed": seed(row.request_id),
            "notify_at": row.notify_at,
            "has_video": video is not None and self._admin.worker.asset_path(video).is_file(),
            "ends": [_ENDS[one] for one in targets],
            "once": uuid4().hex,
        }

    async def video(self, request: web.Request) -> web.StreamResponse:
        """Send the file of a finished video."""
        await self._login.require_session(request)
        found = await find_with_video(self._ledger, request.query.get("id", ""))
        path = None if found is None or found[1] is None else self._admin.worker.asset_path(found[1])
        if path is None or not path.is_file():
            raise web.HTTPNotFound(text="Its file is not in MEDIA_DIR of this process.\n")
        kind = "video/mp4" if path.suffix == ".mp4" else "image/jpeg"
        return web.FileResponse(path, headers={"Content-Type": kind})

    async def users(self, request: web.Request) -> web.Response:
        """List users with what is left to them; of one user also the forms to give credits and to ban."""
        session = await self._login.require_session(request)
        given = request.query.get("user", "").strip()
        if given and parse_number(given) < 1:
            raise web.HTTPBadRequest(text="user is a Telegram user id, a positive number\n")
        return await self.show_users(request, session, int(given) if given else None)

    async def show_users(
        self, request: web.Request, session: Session, user_id: int | None, error: str = ""
    ) -> web.Response:
        """Return the page of users, or of one; with an error its status is 409."""
        number = _page_number(request)
        count, lines = await operator_users.list_users(
            self._ledger, self._admin.limits, user_id, (number - 1) * _USER_LINES, _USER_LINES
        )
        text = page(
            "users.html", self._frame(request, session, error), "/admin/users", lines=lines, count=count,
            user=user_id, number=number, pages=_pages(count, _USER_LINES), once=uuid4().hex, most=MAX_GRANT,
        )  # fmt: skip
        return _html(text, 409 if error else 200)

    async def audit(self, request: web.Request) -> web.Response:
        """List what operators did, newest first."""
        session = await self._login.require_session(request)
        number = _page_number(request)
        count, acts = await operator_log.latest(self._ledger, (number - 1) * PAGE_LINES, PAGE_LINES)
        return _html(
            page(
                "audit.html", self._frame(request, session), "/admin/audit", acts=acts, count=count,
                number=number, pages=_pages(count, PAGE_LINES),
            )
        )  # fmt: skip

    async def entries(self, request: web.Request) -> web.StreamResponse:
        """Send the entries of some days as CSV, in the order in which they were booked."""
        await self._login.require_access(request)
        search, first, last = await _read_search(self._ledger, request)
        headers = {"Content-Disposition": f'attachment; filename="onetake-entries-{first}-{last}.csv"'}
        response = web.StreamResponse(headers=headers | {"Content-Type": "text/csv; charset=utf-8"})
        after, is_begun = 0, False
        while True:
            lines = await entry_lines(self._ledger, search.since, search.until, search.user_id, after)
            if not is_begun:  # an unavailable ledger is still answered with 503
                await response.prepare(request)
                await response.write(_csv_rows([_CSV_COLUMNS]))
                is_begun = True
            if not lines:
                await response.write_eof()
                return response
            await response.write(_csv_rows([_csv_row(line) for line in lines]))
            after = lines[-1].entry_id

    def _frame(self, request: web.Request, session: Session, error: str = "") -> Frame:
        said = "" if error else DONE.get(request.query.get("said", ""), "")
        return Frame(session, self._admin.jaeger, said, error and f"Nothing was changed: {error}.")


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(text=text, content_type="text/html", status=status)


def _pages(count: int, lines: int) -> int:
    return -(-count // lines)


def _without_page(request: web.Request) -> str:
    """Return the address of this page, to which `page=N` can be added."""
    address = request.rel_url.without_query_params("page")
    return f"{address}{'&' if address.query_string else '?'}"


def _page_number(request: web.Request) -> int:
    number = parse_number(request.query.get("page", "1"))
    if not 1 <= number <= _MAX_PAGE:
        raise web.HTTPBadRequest(text="page is a number from 1\n")
    return number


@transaction
async def _now(ledger: Ledger) -> int:
    async with ledger.read() as conn:
        return await ledger.now(conn)


async def _read_search(ledger: Ledger, request: web.Request) -> tuple[Search, str, str]:
    """Parse `?q=&from=&to=&user=&outcome=`; return the search, and its first and last day; else raise 400."""
    query = request.query
    today = datetime.fromtimestamp(await _now(ledger) / 1000, UTC)
    last = _parse_day(query.get("to", ""), today)
    first = _parse_day(query.get("from", ""), last - timedelta(days=_DAYS - 1))
    user, outcome = query.get("user", "").strip(), query.get("outcome", "")
    if user and parse_number(user) < 1:
        raise web.HTTPBadRequest(text="user is a Telegram user id, a positive number\n")
    if outcome and outcome not in OUTCOMES:
        raise web.HTTPBadRequest(text=f"outcome is one of {', '.join(OUTCOMES)}\n")
    words = query.get("q", "").replace("\0", "")[:200]
    since, until = (int(day.timestamp()) * 1000 for day in (first, last + timedelta(days=1)))
    search = Search(
        since, until, int(user) if user else None, cast("Outcome", outcome) if outcome else None, words
    )
    return search, first.date().isoformat(), last.date().isoformat()


def _parse_day(text: str, usual: datetime) -> datetime:
    if not text:
        return usual.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise web.HTTPBadRequest(text="from and to are days such as 2026-11-28\n") from None


async def _costs(ledger: Ledger, search: Search) -> CostSummary:
    """Return what the days of a search cost, of its user or of everyone: from totals, one row a day."""
    last = max(search.since, search.until - DAY_MS)
    async with snapshot(ledger) as conn:
        return await totals.sum_days(conn, search.since, last, search.user_id)


def _csv_rows(rows: list[tuple[object, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _csv_row(line: EntryLine) -> tuple[object, ...]:
    usd = str(line.amount).replace("$", "")
    return (
        line.entry_id, iso_time(line.at), line.request_id, line.short_id, line.user_id, line.kind,
        line.amount.micros, usd, _plain(line.job_id), line.n, line.model, _plain(line.who), _plain(line.why),
    )  # fmt: skip


def _plain(text: str) -> str:
    """Keep a spreadsheet from taking text for a formula."""
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text
