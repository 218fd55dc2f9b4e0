"""An operator's acts are the ledger's own moves: in their name, with their reason, once."""

from html import unescape

import pytest
from lives import PRICE, accepted, books, video_of
from operator_stage import NAME, hidden, hold, operator, settle
from sqlalchemy import select

from ledger import breaker
from ledger.models import EVERYONE, VideoState
from ledger.schema import transitions

V = VideoState


@pytest.fixture
async def browser(ledger):
    async with operator(ledger) as one:
        await one.log_in()
        yield one


async def last_line(ledger, request):
    query = select(transitions).where(transitions.c.request_id == request, transitions.c.subject == "video")
    async with ledger.read() as conn:
        row = (await conn.execute(query.order_by(transitions.c.transition_id.desc()))).first()
    return row.to_state, row.who, row.why


@pytest.mark.any_ledger
@pytest.mark.parametrize(
    ("fields", "to", "net"),
    [
        ({"outcome": "paid", "job": "job-1"}, V.ACCEPTED, PRICE.micros),
        ({"outcome": "unpaid"}, V.FAILED_UNPAID, 0),
        ({"outcome": "gone", "job": "job-1"}, V.FAILED_PAID, PRICE.micros),
    ],
)
async def test_a_hold_is_settled_by_its_form(ledger, opened, browser, fields, to, net):
    """The form makes the transition of `python -m bot resolve`, in the operator's name and words, once."""
    request = await hold(ledger, opened)
    status, _, answer = await settle(browser, request, **fields)
    assert (status, answer.headers["Location"]) == (303, "/admin?said=settled")
    assert "A worker goes on" in await browser.page("?said=settled")
    assert (await video_of(ledger, request)).state is to
    state, who, why = await last_line(ledger, request)
    assert (state, who) == (to, f"web:{NAME}")
    assert "their invoice" in why
    found = await books(ledger, request)
    assert sum(found.get("charge", [])) - sum(found.get("credit", [])) == net
    assert [one.state for one in browser.floor.followed] == [to]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"outcome": "unpaid", "why": " "}, "say why"),
        ({"outcome": "maybe"}, "the outcome is"),
        ({"outcome": "paid"}, "job id"),
        ({"outcome": "unpaid", "job": "job-1"}, "takes none"),
        ({"outcome": "paid", "job": "job-other"}, "belongs to request"),
        ({"outcome": "unpaid", "seen": "17"}, "somebody else"),
        ({"outcome": "unpaid", "seen": "x"}, "somebody else"),
    ],
)
async def test_a_form_that_is_off_changes_nothing(ledger, opened, browser, fields, why):
    """No reason, a job of another request, a HOLD of another time: 409 with a sentence, books as before."""
    await accepted(ledger, opened, "job-other")
    request = await hold(ledger, opened)
    status, text, _ = await settle(browser, request, **fields)
    assert status == 409
    assert why in unescape(text)
    assert (await video_of(ledger, request)).state is V.HOLD
    assert browser.floor.followed == []


async def test_a_form_sent_twice_settles_once(ledger, opened, browser):
    """The second of two taps on one form finds that it was settled, whatever it says."""
    request = await hold(ledger, opened)
    form, seen = await browser.form(), hidden(await browser.page(), "seen")[0]
    fields = {"form": form, "seen": seen, "request": request, "why": "w"}
    assert (await browser.post("/admin/resolve", outcome="unpaid", **fields))[0] == 303
    assert (await browser.post("/admin/resolve", outcome="gone", job="job-1", **fields))[0] == 409
    assert (await video_of(ledger, request)).state is V.FAILED_UNPAID


async def test_an_act_stands_though_nobody_is_woken(ledger, opened, browser):
    """Redis away: the settlement is in the ledger and answered as done; the sweep goes on from there."""
    request = await hold(ledger, opened)
    browser.floor.away = True
    assert (await settle(browser, request, outcome="unpaid"))[0] == 303
    assert (await video_of(ledger, request)).state is V.FAILED_UNPAID


async def test_a_breaker_is_closed_by_its_button(ledger, browser):
    """The button closes the opening it was drawn for, in the operator's name, and not a later one."""
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "law", "a job too many", 5)
    text = await browser.page()
    assert "Paid work is stopped for everyone" in text
    fields = {"form": hidden(text, "form")[0], "scope": EVERYONE}
    for seen in ("4", "", "x"):
        assert (await browser.post("/admin/breaker", seen=seen, **fields))[0] == 409
    assert await breaker.open_breakers(ledger)
    status, _, answer = await browser.post("/admin/breaker", seen="5", **fields)
    assert (status, answer.headers["Location"]) == (303, "/admin?said=closed")
    assert await breaker.open_breakers(ledger) == []
    assert browser.floor.reopenings == 1
    assert "Paid work is stopped" not in await browser.page()
