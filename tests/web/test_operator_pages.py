"""The pages behind the costs: requests, one request, users, acts, CSV; and what can be done on them."""

import csv
import io
import json
import re
import time
from html import unescape
from urllib.parse import quote

import pytest
from sqlalchemy import update

from guardrails.money import Money
from ledger import (
    erasure,
    members,
    model_usage,
    notifications,
    operator_alerts,
    operator_log,
    requests,
    transitions,
    video_credits,
)
from ledger.corrections import correct, parse_correction, plan
from ledger.model_usage import ModelUse
from ledger.models import VideoState
from ledger.notifications import Notification
from ledger.operator_alerts import NewAlert
from ledger.schema import requests as request_rows
from ledger.totals import CostSummary
from telemetry.redaction import short_id
from tests.support.admin_page import BEARER, NAME, admin_browser, hidden, open_admin_page
from tests.support.factories import (
    ORDER_PRICE,
    accepted,
    booked,
    new_job,
    one_of_each,
    ordered,
    put,
    update_fields,
    video_of,
)
from tests.web.test_admin import ADMIN

V = VideoState


@pytest.fixture
async def browser(ledger):
    async with open_admin_page(ledger) as one:
        await one.log_in()
        yield one


async def seen(browser, path):
    status, text, _ = await browser.get(path)
    assert status == 200, text
    return unescape(text)


def named(text):
    """Return the six letters of the requests of the first list that is not of those paid twice."""
    return re.findall(r"<code title=\"[^\"]+\">#(\w{6})</code>", text)


@pytest.mark.any_ledger
async def test_requests_are_searched_and_counted(ledger, opened, browser):
    """By letters, id, user, words, outcome and day; every list says how many there are."""
    plain, odd, back, held, released = await one_of_each(ledger, opened)
    for query, found in (
        (f"q=%23{short_id(odd)}", {odd}),
        (f"q={plain}", {plain}),
        ("user=8", {held, released}),
        ("outcome=hold", {held}),
        ("outcome=failed", {back}),
        ("q=nothing+like+it", set()),
        ("from=2020-01-01&to=2020-01-02", set()),
    ):
        text = await seen(browser, f"/admin/requests?{query}")
        assert set(named(text)) == {short_id(one) for one in found}, query
    text = await seen(browser, "/admin/requests")
    assert len(named(text)) == 6
    for word, count in (("failed", 1), ("on hold", 1), ("in progress", 3), ("cancelled or expired", 1)):
        assert f"<dt>{word}</dt><dd>{count}</dd>" in text
    for query in ("from=yesterday", "user=me", "outcome=lost", "page=0"):
        assert (await browser.get(f"/admin/requests?{query}"))[0] == 400


async def test_lists_page_on_and_paid_twice_is_never_cut_off(ledger, opened, browser):
    """60 requests are 50 and 10; one that was paid twice, the oldest of all, stands on each page, first."""
    twice = await accepted(ledger, opened, new_job())
    await transitions.adopt_job(ledger, twice, new_job(), "test", None)
    async with ledger.write() as conn:
        await conn.execute(update(request_rows).values(created_at=1_000))
    for _ in range(60):
        await opened(user_id=9)
    first = await seen(browser, "/admin/requests?user=")
    assert "50 of 60" in first
    assert named(first)[0] == short_id(twice)
    second = await seen(browser, "/admin/requests?page=2")
    assert len(named(second)) == 11
    assert "page 2 of 2" in second
    assert named(await seen(browser, "/admin"))[0] == short_id(twice)
    api = await browser.api()
    assert [one["request"] for one in api["twice_paid"]] == [twice]
    assert api["outcomes"]["open"] == 60
    assert api["spans"]["today"]["videos_per_command"] == 2.0


async def test_a_ratio_is_rounded_against_us():
    """1,001 videos for 1,000 commands are not 1.00."""
    assert CostSummary(videos=1001, paid_for=1000).ratio(2) == 1.01
    assert CostSummary(videos=10001, paid_for=10000).ratio(3) == 1.001
    assert CostSummary(videos=7, paid_for=7).ratio(2) == 1.0


async def test_a_request_shows_its_history_and_its_video(ledger, opened, browser, tmp_path):
    """What `trace` prints, the file with ranges, and 404 in words for what is not there."""
    browser.worker.media_dir = tmp_path
    request = await accepted(ledger, opened, "job-of-this")
    text = await seen(browser, f"/admin/request?id={short_id(request)}")
    for word in (request, "job-of-this", "SUBMITTING → ACCEPTED", "hold", "charge", "$3.00"):
        assert word in text
    assert "<video" not in text
    assert (await browser.get(f"/admin/video?id={request}"))[0] == 404
    (tmp_path / f"{short_id(request)}.mp4").write_bytes(b"film of ten")
    assert "<video" in await seen(browser, f"/admin/request?id={request}")
    status, body, _ = await browser.get(f"/admin/video?id={request}", headers={"Range": "bytes=0-3"})
    assert (status, body) == (206, "film")
    assert (await browser.get("/admin/request?id=nothing"))[0] == 404
    waits = await opened()
    assert "OPEN" in await seen(browser, f"/admin/request?id={waits}")


async def ask(browser, path, **fields):
    """Send a form without an answer; return the fields of the question that comes back."""
    status, text, _ = await browser.post(path, form=await browser.form(), sure="", **fields)
    assert status == 200, text
    names = set(re.findall(r'type="hidden" name="(\w+)"', text)) - {"sure"}
    return unescape(text), {name: hidden(text, name)[-1] for name in names}


async def test_a_correction_asks_and_is_booked_once(ledger, opened, browser):
    """The question says what would change; yes books it in the operator's name; again changes nothing."""
    request = await accepted(ledger, opened, new_job())
    await put(ledger, request, V.DELIVERED)
    given = {"request": request, "kind": "refund", "amount": "$1", "why": "credit note 7", "once": "o1"}
    text, fields = await ask(browser, "/admin/correct", **given)
    assert "$3.00 → $2.00" in text
    assert "credit" not in await booked(ledger, request)
    status, _, answer = await browser.post("/admin/correct", **fields)
    assert (status, "said=corrected" in answer.headers["Location"]) == (303, True)
    assert (await booked(ledger, request))["credit"] == [1_000_000]
    _, _, answer = await browser.post("/admin/correct", **fields)
    assert "said=again" in answer.headers["Location"]
    text = await seen(browser, f"/admin/request?id={request}")
    assert f"web:{NAME}: credit note 7" in text
    status, text, _ = await browser.post("/admin/correct", **(fields | {"once": "o2"}))
    assert (status, "changed meanwhile" in text) == (409, True)
    assert (await booked(ledger, request))["credit"] == [1_000_000]
    acts = await seen(browser, "/admin/audit")
    assert f"web:{NAME}" in acts
    assert "$3.00 → $2.00" in acts


async def test_an_alert_is_taken_on(ledger, opened, browser):
    """What is open stands on the page and in the API with its request; a tap puts a name to it, once."""
    request = await accepted(ledger, opened, new_job())
    item = Notification(request, (await video_of(ledger, request)).updated_at)
    kept = await operator_alerts.keep(
        ledger, NewAlert(item, "<b>held</b> &amp; so\nResolve it.", order_id=request, standing=True)
    )
    text = await seen(browser, "/admin")
    assert "held & so" in text
    assert f"/admin/request?id={quote(request)}" in text
    form = {"form": await browser.form(), "alert": str(kept.alert_id)}
    _, _, answer = await browser.post("/admin/acknowledge", **form)
    assert answer.headers["Location"] == "/admin?said=taken"
    assert f"taken on by web:{NAME}" in await seen(browser, "/admin")
    await operator_alerts.acknowledge(ledger, kept.alert_id, "web:another")
    _, report, _ = await browser.get("/api/admin/costs", headers=BEARER)
    [found] = json.loads(report)["alerts"]
    assert (found["id"], found["acknowledged_by"], found["request"]) == (
        kept.alert_id,
        f"web:{NAME}",
        request,
    )
    for unknown in ("0", "x", "99999999999", str(kept.alert_id + 1)):
        assert (await browser.post("/admin/acknowledge", **(form | {"alert": unknown})))[0] == 404


async def test_models_have_their_cost(ledger, opened, browser):
    """Tokens and cost by model, on the page of costs, in the API and on the request's page."""
    request = await opened()
    uses = [ModelUse("a-1", 2, 900, 100, 50, Money.parse("$0.0123")), ModelUse("b-2", 1, 77, 0, 20)]
    await model_usage.record(ledger, request, 7, 1, uses)
    for path in ("/admin", "/admin?span=30d&user=7", f"/admin/request?id={request}"):
        text = await seen(browser, path)
        assert re.findall(r'data-name="cost">([^<]+)<', text) == ["$0.0123", "not known"], path
        assert re.findall(r'data-name="in">(\d+)<', text) == ["900", "77"]
    assert "No model was asked" in await seen(browser, "/admin?user=8")
    _, report, _ = await browser.get("/api/admin/costs", headers=BEARER)
    first, second = json.loads(report)["language_models"]
    assert (first["cost"]["micros"], first["calls"], second["cost"]) == (12_300, 2, None)


@pytest.mark.parametrize("path", ["acknowledge", "correct", "redeliver", "grant", "ban", "unban"])
async def test_a_form_of_another_site_changes_nothing(ledger, opened, browser, path):
    """No session, another origin, a form of another session: refused, as for every form."""
    fields = {"request": "r", "user": "7", "credits": "1", "why": "w", "kind": "refund"}
    assert (await browser.post(f"/admin/{path}", origin="https://evil.example", **fields))[0] == 403
    assert (await browser.post(f"/admin/{path}", form="wrong", **fields))[0] == 403
    async with open_admin_page(ledger) as stranger:
        status, _, answer = await stranger.post(f"/admin/{path}", **fields)
        assert (status, answer.headers["Location"]) == (303, "/admin/login")
    assert (await operator_log.latest(ledger))[0] == 0


async def test_a_delivery_is_tried_again(ledger, opened, browser):
    """A video that was put off for an hour is due now; where none waits, a sentence says so."""
    request = await accepted(ledger, opened, new_job())
    await put(ledger, request, V.SUCCEEDED)
    in_an_hour = int(time.time() + 3600) * 1000
    await update_fields(ledger, request, notify_at=in_an_hour, told_after=0)
    assert "Try to deliver it now" in await seen(browser, f"/admin/request?id={request}")
    _, fields = await ask(browser, "/admin/redeliver", request=request, once="o1")
    assert (await browser.post("/admin/redeliver", **fields))[0] == 303
    found = await requests.find_with_video(ledger, request)
    assert found[0].notify_at < in_an_hour - 3_000_000
    assert browser.worker.delivered == [request]
    await put(ledger, request, V.DELIVERED)
    status, text, _ = await browser.post("/admin/redeliver", **fields)
    assert (status, "waits to be delivered" in text) == (409, True)
    assert not await notifications.deliver_again(ledger, request, "web:x", "s", 1)


async def test_users_are_granted_and_banned(ledger, opened, browser):
    """What is left to each; credits once for each form; a ban and its end, with reasons; never an admin."""
    await one_of_each(ledger, opened)
    text = await seen(browser, "/admin/users")
    assert re.findall(r'users\?user=(\d+)">\d', text) == ["7", "9", "8"]
    await ask(browser, "/admin/grant", user="8", credits="2", why="sorry", once="g1")
    fields = {"form": await browser.form(), "user": "8"}
    for said in ("granted", "again"):
        given = fields | {"credits": "2", "why": "sorry", "once": "g1"}
        _, _, answer = await browser.post("/admin/grant", **given)
        assert answer.headers["Location"] == f"/admin/users?user=8&said={said}"
    assert (await video_credits.balance(ledger, 8)).left == 2
    assert (await browser.post("/admin/grant", **fields, credits="0", why="w"))[0] == 409
    assert (await browser.post("/admin/ban", **fields, why=""))[0] == 409
    assert (await browser.post("/admin/ban", **(fields | {"user": "1"}), why="w"))[0] == 409
    assert (await browser.post("/admin/ban", **fields, why="spam"))[0] == 303
    assert await members.membership(ledger, 8) == "banned"
    assert f"by web:{NAME}: spam" in await seen(browser, "/admin/users?user=8")
    assert (await browser.post("/admin/unban", **fields, why="a mistake"))[0] == 303
    assert await members.membership(ledger, 8) == "unknown"
    assert [one.action for one in (await operator_log.latest(ledger))[1]] == ["unban", "ban", "grant"]


async def test_entries_are_exported(ledger, opened, browser):
    """CSV of every entry of the days, exact, with corrections; not a formula; by token too; no ideas."""
    request, *_ = await one_of_each(ledger, opened)
    await put(ledger, request, V.DELIVERED)
    planned = await plan(ledger, request, parse_correction("refund", why="=1+1"))
    await correct(ledger, planned, "web:Olga", "s")
    async with browser.web.get(f"{browser.url}/admin/entries.csv", headers=BEARER) as answer:
        text = await answer.text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert sum(int(row["micros"]) for row in rows if row["kind"] == "charge") > ORDER_PRICE.micros
    [refund] = [row for row in rows if row["corrected_by"]]
    assert (refund["kind"], refund["usd"], refund["why"]) == ("refund", "3.00", "'=1+1")
    assert "market" not in text
    assert (await browser.get("/admin/entries.csv?to=2020-01-01"))[1].count("\n") == 1


@pytest.mark.any_ledger
async def test_pages_over_an_erased_request(ledger, opened, browser):
    """After /forget: the figures, the history and the operators' reasons stay, and nothing fails."""
    request = await accepted(ledger, opened, new_job())
    await put(ledger, request, V.FAILED_PAID, failure="moderated")
    await erasure.ask(ledger, request, 7)
    assert await erasure.finish(ledger, request)
    planned = await plan(ledger, request, parse_correction("refund", why="their invoice"))
    await correct(ledger, planned, "web:Olga", "s")
    for path in ("/admin?span=30d", "/admin/requests", f"/admin/request?id={request}", "/admin/users?user=7"):
        text = await seen(browser, path)
        assert "a market" not in text
    text = await seen(browser, f"/admin/request?id={request}")
    assert "web:Olga: their invoice" in text
    assert "had its texts and files erased" in text
    found = await requests.find_with_video(ledger, request)
    assert found[0].corrected_at is None
    assert (await video_of(ledger, request)).state is V.FAILED_UNPAID


async def test_amounts_of_a_column_line_up(ledger, opened, browser):
    """Each amount of a column has the same number of decimals."""
    await one_of_each(ledger, opened)
    await ordered(ledger, opened)
    text = await seen(browser, "/admin/requests")
    amounts = re.findall(r'data-name="paid">(\$[\d.]+)<', text)
    assert str(Money(1_234_567)) in amounts
    assert {len(one.partition(".")[2]) for one in amounts} == {6}


@pytest.mark.slow
async def test_a_correction_on_the_page_reaches_the_user(app_env):
    """The whole way: a delivered video, a refund on the page, and the message that its user gets."""
    env = await app_env(settings=ADMIN)
    request, _ = await env.create()
    async with admin_browser(env.app) as browser:
        await browser.log_in()
        given = {"request": request.request_id, "amount": "$0.1", "why": "w"}
        for kind in ("refund", "charge"):
            _, fields = await ask(browser, "/admin/correct", kind=kind, once=kind, **given)
            assert (await browser.post("/admin/correct", **fields))[0] == 303
            await env.user().wait_for(lambda one: "A correction for" in one.text)
