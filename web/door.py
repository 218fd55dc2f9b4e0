"""The door: logging in and out, and who sent a request. `gate` says who may pass, this is the HTTP of it."""

from typing import Final
from urllib.parse import urlsplit

from aiohttp import web

from telemetry.logs import get_logger
from web.gate import SESSION_S, Gate, Session, TooMany
from web.page import login_page

log = get_logger(__name__)

COOKIE: Final = "onetake_session"
LOGIN: Final = "/admin/login"


class Door:
    """The routes that anybody may call, and the checks of those that not everybody may."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def session(self, request: web.Request) -> Session | None:
        """Return the session of this browser, if it has one."""
        return self._gate.session(request.cookies.get(COOKIE, ""))

    def must_have_session(self, request: web.Request) -> Session:
        """Return the session of this browser, or send it to the login."""
        session = self.session(request)
        if session is None:
            raise web.HTTPSeeOther(LOGIN)
        return session

    def let_in(self, request: web.Request) -> None:
        """Let a program pass by its bearer token, and a person by their session; else 401 or 429."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if not scheme and self.session(request) is not None:
            return
        try:
            if scheme.lower() == "bearer" and self._gate.knows(token.strip(), _address(request)):
                return
        except TooMany as error:
            wait = {"Retry-After": str(error.wait_s)}
            raise web.HTTPTooManyRequests(text=f"{error}\n", headers=wait) from None
        raise web.HTTPUnauthorized(
            text="Send the header `Authorization: Bearer ADMIN_TOKEN`.\n",
            headers={"WWW-Authenticate": 'Bearer realm="onetake"'},
        )

    async def form(self, request: web.Request) -> tuple[Session, dict[str, str]]:
        """Return who sent a form and its fields; refuse what our own page did not send."""
        session = self.must_have_session(request)
        _must_be_ours(request)
        fields = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
        if not self._gate.sent_by(session, fields.get("form", "")):
            raise web.HTTPForbidden(text="This form was not drawn for your session. Load the page again.\n")
        return session, fields

    async def ask(self, _: web.Request) -> web.Response:
        return _login(200)

    async def log_in(self, request: web.Request) -> web.Response:
        _must_be_ours(request)
        form = await request.post()
        try:
            good = self._gate.knows(str(form.get("token", "")), _address(request))
        except TooMany as error:
            answer = _login(429, f"Too many wrong tokens from here. Wait {error.wait_s} s.")
            answer.headers["Retry-After"] = str(error.wait_s)
            return answer
        session = self._gate.log_in(str(form.get("who", ""))) if good else None
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
