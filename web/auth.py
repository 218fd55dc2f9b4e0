"""Admin authentication: token check, signed sessions, CSRF tokens, login throttling.

All keys are derived from ADMIN_TOKEN, so replicas accept each other's sessions and a new token ends them all.
The only state is the wrong attempts of the last minutes, per process; `web.revocations` keeps the logouts.
"""

import base64
import hashlib
import hmac
import re
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

SESSION_S: Final = 8 * 3600
MAX_WRONG_TOKENS: Final = 8
"""Wrong tokens from one address in `WINDOW_S`; after them wrong ones are answered "wait". The right one is
never refused: behind a proxy everyone has one address, and anyone could lock the operators out.
"""
WINDOW_S: Final = 300
_MAX_ADDRESSES: Final = 1000
_NAME: Final = re.compile(r"[\w][\w .@-]{0,39}")


class TooManyAttempts(Exception):
    """Too many wrong tokens from this address; `wait_s` is the time to wait in seconds."""

    def __init__(self, wait_s: int) -> None:
        super().__init__(f"too many wrong tokens; wait {wait_s} s")
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Session:
    """One person's login: name, cookie value, and the CSRF token of every form on their page."""

    who: str
    cookie: str
    form: str

    @property
    def until_s(self) -> int:
        """When it expires, in seconds since the epoch."""
        return int(self.cookie.partition(".")[0])


class TokenAuth:
    """Checks tokens and sessions, always in constant time.

    Args:
        token: ADMIN_TOKEN.
        clock: Seconds since the epoch; tests move it.
    """

    def __init__(self, token: str, clock: Callable[[], float] = time.time) -> None:
        self._keys = {use: _mac(token.encode(), use) for use in ("token", "cookie", "form")}
        self._token = self._sign("token", token)
        self._clock = clock
        self._wrong: dict[str, deque[float]] = {}

    def check_token(self, token: str, address: str) -> bool:
        """Return whether this is the token; wrong ones are counted per address.

        Raises:
            TooManyAttempts: This is a wrong token, and this address sent too many of them lately.
        """
        if hmac.compare_digest(self._sign("token", token), self._token):
            return True
        now, wrong = self._clock(), self._wrong.get(address, deque())
        while wrong and wrong[0] <= now - WINDOW_S:
            wrong.popleft()
        if len(wrong) >= MAX_WRONG_TOKENS:
            raise TooManyAttempts(int(wrong[0] + WINDOW_S - now) + 1)
        wrong.append(now)
        self._remember(address, wrong)
        return False

    def _remember(self, address: str, wrong: deque[float]) -> None:
        self._wrong.pop(address, None)
        if len(self._wrong) >= _MAX_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]  # the address whose latest attempt is oldest
        self._wrong[address] = wrong

    def start_session(self, name: str) -> Session | None:
        """Start a session after a correct token; None if the name is not acceptable."""
        who = " ".join(name.split())
        if not _NAME.fullmatch(who):
            return None
        until = int(self._clock()) + SESSION_S
        body = f"{until}.{secrets.token_urlsafe(12)}.{base64.urlsafe_b64encode(who.encode()).decode()}"
        return self._session(who, f"{body}.{self._sign('cookie', body)}")

    def session(self, cookie: str) -> Session | None:
        """Return the session of a cookie; None if it is not signed by us or has expired."""
        body, _, signature = cookie.rpartition(".")
        if not hmac.compare_digest(self._sign("cookie", body).encode(), signature.encode("utf-8", "replace")):
            return None
        until, _, name = body.split(".")
        if int(until) <= self._clock():
            return None
        return self._session(base64.urlsafe_b64decode(name).decode(), cookie)

    def owns_form(self, session: Session, form: str) -> bool:
        """Return whether `form` is the CSRF token of this session."""
        return hmac.compare_digest(session.form.encode(), form.encode("utf-8", "replace"))

    def _session(self, who: str, cookie: str) -> Session:
        return Session(who, cookie, self._sign("form", cookie))

    def _sign(self, use: str, text: str) -> str:
        return _mac(self._keys[use], text).hex()


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode("utf-8", "replace"), hashlib.sha256).digest()
