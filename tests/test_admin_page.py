"""Page, API, commands and ledger say the same; what users wrote is only text."""

import io
import json
from html import unescape
from html.parser import HTMLParser

import pytest
from lives import NO_LIMITS, PRICE, accepted, new_job, order_for, ordered, put
from operator_stage import hold, operator, settle
from pydantic import SecretStr
from rich.console import Console
from test_reports import ODD, lives, sums

from app.operator_commands import costs as costs_command
from app.settings import read_settings
from ledger import breaker, orders, transitions
from ledger.models import VideoState, provider_key, seed
from ledger.money import Money
from ledger.schema import requests
from telemetry.redaction import short_id

V = VideoState
EVIL = "<script>alert('x')</script><img onerror=alert(1)>\"'&{{7*7}}"


@pytest.fixture
async def jaeger_browser(ledger):
    async with operator(ledger, "http://jaeger.example:16686") as one:
        await one.log_in()
        yield one


class Elements(HTMLParser):
    """Reads a page as a browser does: what is an element, and what is only text."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.words = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.words += data


@pytest.mark.any_ledger
async def test_page_api_command_and_ledger_agree_to_the_cent(ledger, ledger_url, opened, jaeger_browser):
    """After charges, odd prices, credits, holds and releases all four show the same amounts."""
    await lives(ledger, opened)
    charge, credit, held = await sums(ledger)
    api = await jaeger_browser.api("?span=30d")
    month = api["spans"]["30d"]
    assert (charge, credit, held) == tuple(
        month[name]["micros"] for name in ("charged", "refunded", "reserved")
    )
    assert sum(one["paid"]["micros"] for one in api["by_request"]) == charge - credit
    assert sum(one["paid"]["micros"] for one in api["by_user"]) == charge - credit
    said = io.StringIO()
    settings = read_settings(_env_file=None, database_url=SecretStr(ledger_url))
    await costs_command(settings, Console(file=said, width=200), span="30d", as_json=True)
    command = json.loads(said.getvalue())
    assert {**command, "at": ""} == {**api, "at": ""}
    page = unescape(await jaeger_browser.page("?span=30d"))
    for micros in (charge, credit, charge - credit, held):
        assert str(Money(micros)) in page
    assert str(ODD) in page
    await costs_command(settings, Console(file=said, width=200))
    assert str(Money(charge - credit)) in said.getvalue()


async def test_a_report_may_be_of_one_user_and_one_span(ledger, opened, jaeger_browser):
    """`?user=` and `?span=` narrow page and API alike; what is neither is refused in words."""
    await lives(ledger, opened)
    found = await jaeger_browser.api("?span=hour&user=8")
    assert (found["span"], found["user"]) == ("hour", 8)
    assert {one["user"] for one in found["by_request"]} <= {8}
    assert found["spans"]["today"]["paid"]["micros"] == 0
    assert "of user 8" in await jaeger_browser.page("?user=8")
    for query in ("?span=year", "?user=me", "?user=-1", "?user=0", "?user=99999999999999999999"):
        for path in ("/admin", "/api/admin/costs"):
            assert (await jaeger_browser.get(f"{path}{query}"))[0] == 400, query


async def test_two_videos_of_one_command_cannot_be_overlooked(ledger, opened, jaeger_browser):
    """A command with two paid jobs is marked, and the figure above it is over one."""
    assert 'class="tile bad"' not in await jaeger_browser.page()
    request = await accepted(ledger, opened, new_job())
    await transitions.adopt_job(ledger, request, new_job(), "law", None)
    page = await jaeger_browser.page()
    assert 'class="tile bad"' in page
    assert "2.00" in page
    assert 'class="bad"' in page


async def test_traces_are_named_and_linked(ledger, opened, jaeger_browser):
    """A request that carries a trace leads to it in Jaeger; one without says so."""
    await accepted(ledger, opened, new_job())
    assert (await jaeger_browser.api())["by_request"][0]["trace_id"] is None
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with ledger.write() as conn:
        await conn.execute(requests.update().values(traceparent=f"00-{trace}-b7ad6b7169203331-01"))
    assert (await jaeger_browser.api())["by_request"][0]["trace_id"] == trace
    assert f'href="http://jaeger.example:16686/trace/{trace}"' in await jaeger_browser.page()


async def test_a_users_text_is_text(ledger, opened, jaeger_browser):
    """An idea, a job's name and a reason with markup are shown as they were written, and do nothing."""
    for _ in range(2):
        request = await opened(idea=EVIL)
        await orders.place(ledger, order_for(request), NO_LIMITS)
    await put(ledger, request, V.HOLD, failure="<b>", job_id='"><script>')
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "law", EVIL, 5)
    seen = Elements()
    seen.feed(await jaeger_browser.page("?span=30d"))
    assert not seen.tags & {"script", "img", "b", "iframe", "style"}
    assert not {name for name in seen.attributes if name.startswith("on")}
    assert seen.words.count(EVIL) == 5  # on hold, under way, both by request, and why the breaker is open
    status, text, _ = await settle(jaeger_browser, request, outcome="<script>alert(2)</script>")
    assert status == 409
    assert "<script" not in text


async def test_no_idea_leaves_by_the_api(ledger, opened, jaeger_browser):
    """What a user wrote stands on the page alone, not in the API."""
    request = await ordered(ledger, opened)
    await put(ledger, request, V.HOLD)
    assert "a market" in await jaeger_browser.page()
    assert "a market" not in json.dumps(await jaeger_browser.api())


async def test_a_ledger_that_is_away_is_said(ledger, jaeger_browser):
    """Page and API answer 503 in a sentence while the ledger cannot be read."""
    async with ledger.write() as conn:
        await conn.execute(requests.delete())
        await conn.exec_driver_sql("ALTER TABLE entries RENAME TO away")
    for path in ("/admin", "/api/admin/costs"):
        status, text, _ = await jaeger_browser.get(path)
        assert (status, text) == (503, "The ledger cannot be used at the moment.\n")


async def test_a_hold_shows_what_a_person_needs(ledger, opened, jaeger_browser):
    """Id, failure, payer, model, quote, job, key, seed: all that finds it at the provider."""
    request = await hold(ledger, opened, job_id="job-77", failure="overdue")
    page = unescape(await jaeger_browser.page())
    sent = (provider_key(request), str(seed(request)))
    for word in (f"#{short_id(request)}", "overdue", "job-77", "local/preview", str(PRICE), "User 7", *sent):
        assert word in page
