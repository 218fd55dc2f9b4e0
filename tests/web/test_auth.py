"""Admin authentication over HTTP: no figure and no change without the token."""

import hmac

import pytest
from aiohttp import ClientSession

from tests.support.admin_page import BEARER, NAME, TOKEN, open_admin_page
from web.auth import MAX_WRONG_TOKENS, SESSION_S, WINDOW_S, TokenAuth
from web.login import COOKIE
from web.server import build_app, serve

PAGES = ("/admin", "/admin?span=30d", "/api/admin/costs")
FORMS = ("/admin/resolve", "/admin/breaker", "/admin/breaker/open", "/admin/logout")


@pytest.fixture
async def browser(ledger):
    async with open_admin_page(ledger) as one:
        yield one


async def test_without_a_token_there_is_nothing():
    """Without ADMIN_TOKEN there is no page, API or login."""
    async with serve(build_app({}, {}), "127.0.0.1", 0) as url, ClientSession() as web:
        for path in (*PAGES, "/admin/login", "/admin/style.css", "/metrics"):
            async with web.get(f"{url}{path}", headers=BEARER) as answer:
                assert answer.status == 404, path


async def test_without_credentials_nothing_is_shown(browser):
    """Without credentials the API is 401 and the page redirects to the login; neither holds a figure."""
    status, text, answer = await browser.get("/api/admin/costs")
    assert (status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="onetake"')
    assert "$" not in text
    status, text, answer = await browser.get("/admin")
    assert (status, answer.headers["Location"]) == (303, "/admin/login")
    assert "$" not in text
    for path in FORMS:
        status, _, answer = await browser.post(path)
        assert (status, answer.headers["Location"]) == (303, "/admin/login")


@pytest.mark.representative
@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN]
)
async def test_only_the_whole_token_opens_the_api(browser, header):
    """Part of the token, more than the token, or another scheme is 401."""
    status, _, _ = await browser.get("/api/admin/costs", headers={"Authorization": header})
    assert status == 401
    assert (await browser.get("/api/admin/costs", headers=BEARER))[0] == 200


async def test_a_login_sets_a_protected_cookie(browser):
    """The cookie is HttpOnly, SameSite=Strict, expires, is Secure behind https, and opens page and API."""
    status, _, answer = await browser.log_in()
    assert (status, answer.headers["Location"]) == (303, "/admin")
    set_cookie = answer.headers["Set-Cookie"]
    for part in ("HttpOnly", "SameSite=Strict", f"Max-Age={SESSION_S}", "Path=/"):
        assert part in set_cookie
    assert "Secure" not in set_cookie
    assert TOKEN not in set_cookie
    assert NAME in await browser.page()
    assert (await browser.get("/api/admin/costs"))[0] == 200
    _, _, answer = await browser.log_in(headers={"X-Forwarded-Proto": "https"})
    assert "Secure" in answer.headers["Set-Cookie"]


async def test_a_session_ends(browser):
    """An expired cookie is not accepted, whatever the browser does with it; a logout ends it."""
    await browser.log_in()
    browser.clock.now += SESSION_S - 1
    await browser.page()
    browser.clock.now += 1
    assert (await browser.get("/admin"))[0] == 303
    await browser.log_in()
    copied = browser.cookie
    assert (await browser.post("/admin/logout", form=await browser.form()))[0] == 303
    assert browser.cookie == ""
    answer = await browser.get("/api/admin/costs", headers={"Cookie": f"{COOKIE}={copied}"})
    assert answer[0] == 401
    assert (await browser.get("/admin"))[0] == 303


async def test_a_changed_cookie_is_not_accepted(browser):
    """A cookie with any byte changed is not accepted, nor is one of another token."""
    await browser.log_in()
    valid = browser.cookie
    browser.web.cookie_jar.clear()
    foreign = TokenAuth(f"{TOKEN}-2", browser.clock).start_session(NAME).cookie
    changed = [
        valid[:n] + ("A" if valid[n] != "A" else "B") + valid[n + 1 :] for n in range(0, len(valid), 7)
    ]
    for cookie in (foreign, *changed, valid[:-1], "", ".", "a.b.c.d", "é.é.é.é"):
        assert TokenAuth(TOKEN, browser.clock).session(cookie) is None, cookie
    assert TokenAuth(TOKEN, browser.clock).session(valid).who == NAME


async def test_replicas_share_sessions_and_a_new_token_ends_them(browser):
    """Sessions are derived from the token alone: replicas share them, and a changed token ends them all."""
    await browser.log_in()
    assert TokenAuth(TOKEN, browser.clock).session(browser.cookie) is not None
    assert TokenAuth(f"{TOKEN}!", browser.clock).session(browser.cookie) is None


async def test_wrong_tokens_are_counted(browser):
    """After so many wrong tokens wrong ones wait, at login and API; the right one is never locked out."""
    await browser.log_in()
    for n in range(MAX_WRONG_TOKENS):
        if n % 2:
            assert (await browser.log_in(token="wrong-" + TOKEN))[0] == 401
        else:
            assert (await browser.get("/api/admin/costs", headers={"Authorization": "Bearer x"}))[0] == 401
    for status, _, answer in (
        await browser.log_in(token="wrong-" + TOKEN),
        await browser.get("/api/admin/costs", headers={"Authorization": "Bearer x"}),
    ):
        assert status == 429
        assert 0 < int(answer.headers["Retry-After"]) <= WINDOW_S + 1
    await browser.page()
    assert (await browser.log_in())[0] == 303
    assert (await browser.get("/api/admin/costs", headers=BEARER))[0] == 200
    browser.clock.now += WINDOW_S
    assert (await browser.log_in(token="wrong-" + TOKEN))[0] == 401


async def test_tokens_and_signatures_are_compared_in_constant_time(browser, monkeypatch):
    """Every comparison with a secret goes through `hmac.compare_digest`, on digests of one length."""
    seen = []
    real = hmac.compare_digest

    def recording(one, other):
        seen.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr("web.auth.hmac.compare_digest", recording)
    await browser.log_in(token="x")
    assert seen == [(64, 64)]
    await browser.log_in()
    await browser.page()
    await browser.post("/admin/logout", form=await browser.form())
    assert len(seen) >= 5
    assert all(one == (64, 64) for one in seen)


@pytest.mark.parametrize(
    "origin", [None, "null", "https://evil.example", "http://127.0.0.1", "http://127.0.0.1:1"]
)
async def test_a_form_of_another_site_is_refused(browser, origin):
    """A POST without our own origin is 403 even with cookie and form token, the login included."""
    await browser.log_in()
    form = await browser.form()
    for path in FORMS:
        assert (await browser.post(path, origin=origin, form=form))[0] == 403
    assert (await browser.log_in(origin=origin))[0] == 403


async def test_a_form_is_bound_to_its_session(browser):
    """Without a form token, or with that of another session of the same person, nothing is done."""
    await browser.log_in()
    other = await browser.form()
    await browser.log_in()
    for form in ({}, {"form": ""}, {"form": other}, {"form": "é"}):
        for path in FORMS:
            assert (await browser.post(path, **form))[0] == 403
    await browser.page()


async def test_a_login_needs_a_name(browser):
    """A login without a name, or with one that could be misread in a log, is refused."""
    for who in ("", " ", "a" * 41, "<b>", "Olga\n; admin", "-"):
        assert (await browser.log_in(who=who))[0] == 401, who
        assert browser.cookie == ""
    assert (await browser.log_in(who=" José  Ñ. Gil "))[0] == 303
    assert "José Ñ. Gil" in await browser.page()


async def test_every_response_has_security_headers(browser):
    """Page, API, login, style sheet and errors carry the security headers and are not cached."""
    await browser.log_in()
    for path in (
        "/admin",
        "/admin/login",
        "/admin/style.css",
        "/api/admin/costs",
        "/admin?span=x",
        "/admin/y",
    ):
        _, _, answer = await browser.get(path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Referrer-Policy"] == "same-origin"


async def test_a_nul_in_a_form_is_refused(browser):
    """PostgreSQL stores no NUL in a text: 400 names the field, at the login and at every form."""
    assert (await browser.log_in(token="a\0b"))[0] == 400
    await browser.log_in()
    status, text, _ = await browser.post("/admin/resolve", form=await browser.form(), why="a\0b")
    assert (status, "field why" in text) == (400, True)
