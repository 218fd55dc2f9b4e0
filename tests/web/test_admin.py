"""The admin page and API: same figures as the ledger, actions, and escaping of users' text."""

import asyncio
import io
import json
import re
from html import unescape
from html.parser import HTMLParser

import pytest
from aiohttp import ClientSession
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select

from app.operator_commands import costs as costs_command
from app.processes import run_chat
from app.settings import read_settings
from evals.environment import PRICE
from guardrails.limits import EVERYONE
from guardrails.money import Money
from ledger import breaker, orders, transitions
from ledger.models import VideoState, provider_key, seed
from ledger.schema import requests
from ledger.schema import transitions as transition_rows
from telemetry.redaction import short_id
from tests.support.admin_page import (
    BEARER,
    NAME,
    TOKEN,
    admin_browser,
    held_request,
    hidden,
    open_admin_page,
    resolve_hold,
)
from tests.support.app_harness import wait_for_state
from tests.support.factories import (
    NO_LIMITS,
    ODD_PRICE,
    ORDER_PRICE,
    accepted,
    booked,
    new_job,
    one_of_each,
    order_for,
    ordered,
    put,
    sum_entries,
    video_of,
)
from tests.support.waiting import wait_until

V = VideoState
EVIL = "<script>alert('x')</script><img onerror=alert(1)>\"'&{{7*7}}"


@pytest.fixture
async def jaeger_browser(ledger):
    async with open_admin_page(ledger, "http://jaeger.example:16686") as one:
        await one.log_in()
        yield one


class Elements(HTMLParser):
    """Collects tags, attribute names and text of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


@pytest.mark.any_ledger
async def test_page_api_command_and_ledger_agree_to_the_cent(ledger, ledger_url, opened, jaeger_browser):
    """After charges, odd prices, refunds, holds and releases all four show the same amounts."""
    await one_of_each(ledger, opened)
    charge, credit, held = await sum_entries(ledger)
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
    assert str(ODD_PRICE) in page
    await costs_command(settings, Console(file=said, width=200))
    assert str(Money(charge - credit)) in said.getvalue()


@pytest.mark.slow
async def test_a_report_may_be_of_one_user_and_one_span(ledger, opened, jaeger_browser):
    """`?user=` and `?span=` filter page and API alike; other values are 400."""
    await one_of_each(ledger, opened)
    found = await jaeger_browser.api("?span=hour&user=8")
    assert (found["span"], found["user"]) == ("hour", 8)
    assert {one["user"] for one in found["by_request"]} <= {8}
    assert found["spans"]["today"]["paid"]["micros"] == 0
    assert "of user 8" in await jaeger_browser.page("?user=8")
    for query in ("?span=year", "?user=me", "?user=-1", "?user=0", "?user=99999999999999999999"):
        for path in ("/admin", "/api/admin/costs"):
            assert (await jaeger_browser.get(f"{path}{query}"))[0] == 400, query


async def test_two_videos_of_one_command_are_marked(ledger, opened, jaeger_browser):
    """A command with two paid jobs is marked, and the figure above it is over one."""
    assert 'class="tile bad"' not in await jaeger_browser.page()
    request = await accepted(ledger, opened, new_job())
    await transitions.adopt_job(ledger, request, new_job(), "test", None)
    page = await jaeger_browser.page()
    assert 'class="tile bad"' in page
    assert "2.00" in page
    assert 'class="bad"' in page


async def test_traces_are_linked(ledger, opened, jaeger_browser):
    """A request with a trace links to it in Jaeger; one without has a null trace id."""
    await accepted(ledger, opened, new_job())
    assert (await jaeger_browser.api())["by_request"][0]["trace_id"] is None
    trace = "0af7651916cd43dd8448eb211c80319c"
    async with ledger.write() as conn:
        await conn.execute(requests.update().values(traceparent=f"00-{trace}-b7ad6b7169203331-01"))
    assert (await jaeger_browser.api())["by_request"][0]["trace_id"] == trace
    assert f'href="http://jaeger.example:16686/trace/{trace}"' in await jaeger_browser.page()


async def test_users_text_is_escaped(ledger, opened, jaeger_browser):
    """An idea, a job id and a reason with markup are shown as they were written, and are not markup."""
    for _ in range(2):
        request = await opened(idea=EVIL)
        await orders.place(ledger, order_for(request), NO_LIMITS)
    await put(ledger, request, V.HOLD, failure="<b>", job_id='"><script>')
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "test", EVIL, 5)
    page = Elements()
    page.feed(await jaeger_browser.page("?span=30d"))
    assert not page.tags & {"script", "img", "b", "iframe", "style"}
    assert not {name for name in page.attributes if name.startswith("on")}
    assert page.text.count(EVIL) == 5  # on hold, in progress, both by request, and why the breaker is open
    status, text, _ = await resolve_hold(jaeger_browser, request, outcome="<script>alert(2)</script>")
    assert status == 409
    assert "<script" not in text


async def test_the_api_has_no_ideas(ledger, opened, jaeger_browser):
    """What a user wrote is on the page only, not in the API."""
    request = await ordered(ledger, opened)
    await put(ledger, request, V.HOLD)
    assert "a market" in await jaeger_browser.page()
    assert "a market" not in json.dumps(await jaeger_browser.api())


async def test_an_unavailable_ledger_is_503(ledger, jaeger_browser):
    """Page and API answer 503 in a sentence while the ledger cannot be read."""
    async with ledger.write() as conn:
        await conn.execute(requests.delete())
        await conn.exec_driver_sql("ALTER TABLE entries RENAME TO gone")
    for path in ("/admin", "/api/admin/costs"):
        status, text, _ = await jaeger_browser.get(path)
        assert (status, text) == (503, "The ledger is unavailable at the moment.\n")


async def test_a_hold_shows_what_an_operator_needs(ledger, opened, jaeger_browser):
    """Id, failure, user, model, quote, job, key, seed: all that helps to find it at the provider."""
    request = await held_request(ledger, opened, job_id="job-77", failure="overdue")
    page = unescape(await jaeger_browser.page())
    sent = (provider_key(request), str(seed(request)))
    for value in (
        f"#{short_id(request)}",
        "overdue",
        "job-77",
        "local/preview",
        str(ORDER_PRICE),
        "User 7",
        *sent,
    ):
        assert value in page


@pytest.fixture
async def browser(ledger):
    async with open_admin_page(ledger) as one:
        await one.log_in()
        yield one


async def last_transition(ledger, request):
    query = select(transition_rows).where(
        transition_rows.c.request_id == request, transition_rows.c.subject == "video"
    )
    async with ledger.read() as conn:
        row = (await conn.execute(query.order_by(transition_rows.c.transition_id.desc()))).first()
    return row.to_state, row.who, row.why


@pytest.mark.any_ledger
@pytest.mark.parametrize(
    ("fields", "to", "net"),
    [
        ({"outcome": "paid", "job": "job-1"}, V.ACCEPTED, ORDER_PRICE.micros),
        ({"outcome": "unpaid"}, V.FAILED_UNPAID, 0),
        ({"outcome": "gone", "job": "job-1"}, V.FAILED_PAID, ORDER_PRICE.micros),
    ],
)
async def test_a_hold_is_resolved_by_its_form(ledger, opened, browser, fields, to, net):
    """The form makes the transition of `python -m bot resolve`, with the operator's name and reason, once."""
    request = await held_request(ledger, opened)
    status, _, answer = await resolve_hold(browser, request, **fields)
    assert (status, answer.headers["Location"]) == (303, "/admin?said=settled")
    assert "A worker continues" in await browser.page("?said=settled")
    assert (await video_of(ledger, request)).state is to
    state, who, why = await last_transition(ledger, request)
    assert (state, who) == (to, f"web:{NAME}")
    assert "their invoice" in why
    found = await booked(ledger, request)
    assert sum(found.get("charge", [])) - sum(found.get("credit", [])) == net
    assert [one.state for one in browser.worker.passed_on] == [to]


@pytest.mark.representative
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
async def test_an_invalid_form_changes_nothing(ledger, opened, browser, fields, why):
    """No reason, a job of another request, a HOLD of another time: 409 with a sentence, ledger unchanged."""
    await accepted(ledger, opened, "job-other")
    request = await held_request(ledger, opened)
    status, text, _ = await resolve_hold(browser, request, **fields)
    assert status == 409
    assert why in unescape(text)
    assert (await video_of(ledger, request)).state is V.HOLD
    assert browser.worker.passed_on == []


async def test_a_job_that_the_provider_does_not_know_is_refused(ledger, opened, browser):
    """The provider is asked before the page's answer is accepted."""
    request = await held_request(ledger, opened)
    browser.worker.unknown = "job-wrong"
    status, text, _ = await resolve_hold(browser, request, outcome="paid", job="job-wrong")
    assert status == 409
    assert "does not know job" in unescape(text)
    assert (await video_of(ledger, request)).state is V.HOLD
    assert (await resolve_hold(browser, request, outcome="paid", job="job-right"))[0] == 303


async def test_a_form_sent_twice_resolves_once(ledger, opened, browser):
    """The second of two submissions finds the HOLD resolved, whatever it says."""
    request = await held_request(ledger, opened)
    form, seen = await browser.form(), hidden(await browser.page(), "seen")[0]
    fields = {"form": form, "seen": seen, "request": request, "why": "w"}
    assert (await browser.post("/admin/resolve", outcome="unpaid", **fields))[0] == 303
    assert (await browser.post("/admin/resolve", outcome="gone", job="job-1", **fields))[0] == 409
    assert (await video_of(ledger, request)).state is V.FAILED_UNPAID


async def test_a_resolution_is_kept_although_the_queue_is_down(ledger, opened, browser):
    """Redis down: the resolution is in the ledger and answered as done; a worker continues from there."""
    request = await held_request(ledger, opened)
    browser.worker.unavailable = True
    assert (await resolve_hold(browser, request, outcome="unpaid"))[0] == 303
    assert (await video_of(ledger, request)).state is V.FAILED_UNPAID


async def test_a_breaker_is_closed_by_its_button(ledger, browser):
    """The button closes its own opening, in the operator's name, and not a later one."""
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "test", "a job too many", 5)
    text = await browser.page()
    assert "Paid work is stopped for everyone" in text
    fields = {"form": hidden(text, "form")[0], "scope": EVERYONE}
    for seen in ("4", "", "x"):
        assert (await browser.post("/admin/breaker", seen=seen, **fields))[0] == 409
    assert await breaker.open_breakers(ledger)
    status, _, answer = await browser.post("/admin/breaker", seen="5", **fields)
    assert (status, answer.headers["Location"]) == (303, "/admin?said=closed")
    assert await breaker.open_breakers(ledger) == []
    assert browser.worker.reopenings == 1
    assert "Paid work is stopped" not in await browser.page()


async def test_a_breaker_is_opened_by_its_form(ledger, browser):
    """An operator stops paid work with a reason, in their name; what cannot be opened is refused in words."""
    form = {"form": hidden(await browser.page(), "form")[0]}
    for fields, error in (
        ({"scope": "everyone"}, "say why"),
        ({"scope": "nobody", "why": "w"}, "is no breaker"),
    ):
        status, text, _ = await browser.post("/admin/breaker/open", **form, **fields)
        assert status == 409
        assert error in text
    assert await breaker.open_breakers(ledger) == []
    wanted = {"scope": "user:7", "why": "a strange bill"}
    status, _, answer = await browser.post("/admin/breaker/open", **form, **wanted)
    assert (status, answer.headers["Location"]) == (303, "/admin?said=opened")
    [one] = await breaker.open_breakers(ledger)
    assert (one.scope, one.why, one.by_operator) == ("user:7", "a strange bill", True)
    assert browser.worker.openings == 1
    assert "a strange bill · by web:" in await browser.page()
    assert (await browser.post("/admin/breaker/open", **form, **wanted))[0] == 409


ADMIN = {"admin_token": SecretStr(TOKEN)}


@pytest.mark.slow
async def test_page_metrics_and_the_providers_own_log_agree_to_the_cent(app_env):
    """After the incident, twice, API and /metrics show what the provider charged and what was prevented."""
    env = await app_env("thirteen", settings=ADMIN, changes={"cooldown": None})
    for _ in range(2):
        _, video = await env.create()
        assert video.state is VideoState.DELIVERED
    charged_micros = sum(env.fake_provider.net().values())
    assert charged_micros == 2 * PRICE.micros
    async with admin_browser(env.app) as browser:
        month = (await browser.api("?span=30d"))["spans"]["30d"]
        status, metrics, _ = await browser.get("/metrics", headers=BEARER)
        assert (await browser.get("/readyz"))[0] == status == 200
    assert (month["paid"]["micros"], month["videos"], month["commands"]) == (charged_micros, 2, 2)
    assert (month["videos_per_command"], month["duplicates_prevented"]) == (1.0, 24)
    [charged] = re.findall(r'(?m)^onetake_cost_dollars_total\{kind="charge"\} (\S+)$', metrics)
    assert round(float(charged) * 1_000_000) == charged_micros


@pytest.mark.slow
async def test_an_order_resolved_on_the_page_continues(app_env):
    """A charged order whose answer was lost, resolved on the page as paid, is delivered by the worker."""
    env = await app_env(shape="openai", settings=ADMIN, fake_provider_options={"listing": False})
    env.fake_provider.script("charge_drop")
    await env.user().send("/create a quiet market at dawn")
    await wait_for_state(env, VideoState.HOLD)
    request, _ = await env.latest()
    [job] = env.fake_provider.jobs
    async with admin_browser(env.app) as browser:
        await browser.log_in()
        assert (await resolve_hold(browser, request.request_id, outcome="paid", job=job))[0] == 303
        [(_, video)] = await env.wait_settled()
        assert video.state is VideoState.DELIVERED
        assert (await browser.api())["spans"]["today"]["paid"]["micros"] == PRICE.micros


@pytest.mark.slow
async def test_the_chat_command_prints_the_page(tmp_path):
    """`python -m bot chat` prints the page's address on loopback and a token that opens it."""
    console = Console(file=io.StringIO(), width=200)
    given = read_settings(_env_file=None, var_dir=tmp_path, chat_port=0, http_port=0, http_host="0.0.0.0")
    task = asyncio.create_task(run_chat(given, console))

    async def printed():
        return task.done() or "/admin" in console.file.getvalue()

    try:
        await wait_until(printed, 30, "the page's address")
        output = console.file.getvalue()
        [url] = re.findall(r"(http://127\.0\.0\.1:\d+)/admin", output)
        [token] = re.findall(r"Admin token: +(\S+)", output)
        opens = {"Authorization": f"Bearer {token}"}
        async with ClientSession() as web, web.get(f"{url}/api/admin/costs", headers=opens) as answer:
            assert answer.status == 200
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
