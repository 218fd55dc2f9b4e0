"""Login and logout of operators, and the access checks of every admin route."""

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from telemetry.logs import get_logger
from web.auth import SESSION_S, Session, TokenAuth, TooManyAttempts
from web.pages import login_page
from web.revocations import Revocations

log = get_logger(__name__)

COOKIE: Final = "onetake_session"
LOGIN: Final = "/admin/login"


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
