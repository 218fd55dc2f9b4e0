"""Terminal commands of operators: costs, duplicates, and the whole history of one request."""

import getpass
import io
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from aiohttp import web
from pydantic import SecretStr
from rich.console import Console
from typer.testing import CliRunner

from app import operator_commands, trace_command
from app.operator_commands import OperatorCommandError, correct, costs, resolve
from app.settings import read_settings
from bot import app
from ledger import erasure, transitions
from ledger.database import LedgerError
from ledger.history import RequestNotFound, read_history, record_refused_call
from ledger.models import VideoState
from ledger.schema import requests
from ledger.schema import transitions as transition_rows
from providers.base import Gone, Status
from telemetry.redaction import short_id
from tests.support.factories import (
    ORDER_PRICE,
    accepted,
    booked,
    new_job,
    one_of_each,
    ordered,
    put,
    video_of,
)
from web.server import serve

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def settings(ledger_url):
    return read_settings(_env_file=None, database_url=SecretStr(ledger_url))


def printed(console):
    return console.file.getvalue()


async def test_costs_are_broken_down(settings, console, ledger, opened):
    """With a span the totals are followed by user, model and request; JSON is one document and nothing
    else.
    """
    plain, *_ = await one_of_each(ledger, opened)
    await operator_commands.costs(settings, console, span="today")
    for word in ("last 60 minutes", "total", "By user", "local/preview", f"#{short_id(plain)} ACCEPTED"):
        assert word in printed(console)
    narrow = Console(file=io.StringIO(), width=40)
    await operator_commands.costs(settings, narrow, as_json=True)
    assert json.loads(printed(narrow))["spans"]["today"]["videos"] == 2


async def test_videos_are_listed(settings, console, ledger, opened):
    """The latest orders with the amount paid for each; of one user if asked, and no more than asked."""
    plain, odd, back, held, released = await one_of_each(ledger, opened)
    await operator_commands.videos(settings, console, None, 20, as_json=False)
    for request in (plain, odd, back, held, released):
        assert short_id(request) in printed(console)
    narrow = Console(file=io.StringIO(), width=40)
    await operator_commands.videos(settings, narrow, 8, 1, as_json=True)
    [one] = json.loads(printed(narrow))
    assert one["user"] == 8


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
async def test_tables_cut_nothing(settings, ledger, opened, width, terminal):
    """However narrow the terminal, and in a pipe: every id is there as a whole."""
    job = "video_" + "0123456789abcdef" * 6
    request = await accepted(ledger, opened, job)
    await record_refused_call(ledger, request, "generate_video", "replay", "redis", [])
    narrow = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    await operator_commands.videos(settings, narrow, None, 20, as_json=False)
    await operator_commands.costs(settings, narrow, span="today")
    await operator_commands.duplicates(settings, narrow, 1, as_json=False)
    await trace_command.trace(settings, narrow, request)
    found = printed(narrow)
    assert "…" not in found
    assert found.count(job) >= 2
    assert request in found
    assert found.count(f"#{short_id(request)}") == 4


async def test_an_order_is_corrected(settings, console, ledger, opened):
    """It asks with the figures first; a no changes nothing, a yes books in the name of who is logged in."""
    request = await accepted(ledger, opened, new_job())
    await put(ledger, request, VideoState.DELIVERED)
    asked = []

    def answers(value):
        return lambda sentence: asked.append(sentence) or value

    given = (settings, console, f"#{short_id(request)}", ["refund"], "$1", "their credit note")
    with pytest.raises(OperatorCommandError, match="nothing was changed"):
        await correct(*given, answers(False))
    assert asked == [
        f"#{short_id(request)}: $3.00 → $2.00 charged, stays DELIVERED, job {await job_of(ledger, request)}."
    ]
    await correct(*given, answers(True))
    assert (await booked(ledger, request))["credit"] == [1_000_000]
    await trace_command.trace(settings, console, request)
    assert f"operator:{getpass.getuser()}: their credit note" in printed(console)
    with pytest.raises(LedgerError, match="say why"):
        await correct(settings, console, request, ["refund"], "", " ", answers(True))
    with pytest.raises(OperatorCommandError, match="too much"):
        await correct(settings, console, request, ["refund", "a", "b"], "", "w", answers(True))


async def job_of(ledger, request):
    return (await video_of(ledger, request)).job_id


async def test_duplicates_are_listed(settings, console, ledger, opened):
    """Calls that would have paid again, counted by request, tool and layer; no other refusals."""
    plain, odd, *_ = await one_of_each(ledger, opened)
    await record_refused_call(ledger, plain, "generate_video", "replay", "ledger", [])
    await operator_commands.duplicates(settings, console, 1, as_json=False)
    assert "3 calls, 1 requests" in printed(console)
    assert short_id(odd) not in printed(console)
    narrow = Console(file=io.StringIO(), width=40)
    await operator_commands.duplicates(settings, narrow, 2, as_json=True)
    found = json.loads(printed(narrow))
    assert sorted((one["layer"], one["calls"]) for one in found) == [("ledger", 1), ("redis", 2)]


@pytest.mark.any_ledger
async def test_history_is_complete(ledger, opened):
    """Every transition, refused call and entry of a request is in its history, in order."""
    request = await accepted(ledger, opened, new_job())
    await record_refused_call(ledger, request, "generate_video", "replay", "redis", ["prompt"])
    await transitions.transition(
        ledger, request, VideoState.ACCEPTED, VideoState.FAILED_UNPAID, "test", "unbilled"
    )
    await accepted(ledger, opened, new_job())
    found = await read_history(ledger, f"#{short_id(request).upper()}")
    assert found == await read_history(ledger, request)
    assert found.request_id == request
    kinds = [event.subject for event in found.events]
    async with ledger.read() as conn:
        rows = await conn.execute(transition_rows.select().where(transition_rows.c.request_id == request))
        assert len(rows.all()) == len(kinds) - kinds.count("entry")
    assert [event.what for event in found.events if event.subject == "entry"] == ["hold", "charge", "credit"]
    assert [event.at for event in found.events] == sorted(event.at for event in found.events)


async def test_unknown_request_is_an_error(settings, console, ledger, opened):
    """An unknown name is one sentence that says what is allowed."""
    for name in ("zzzzzz", "", "tg:1:-:9:9"):
        with pytest.raises(RequestNotFound, match="six letters"):
            await trace_command.trace(settings, console, name)


async def traced(ledger, opened):
    request = await accepted(ledger, opened, new_job())
    async with ledger.write() as conn:
        await conn.execute(requests.update().values(traceparent=f"00-{TRACE}-b7ad6b7169203331-01"))
    return request


async def test_trace_over_an_erased_request(settings, console, ledger, opened):
    """The words are gone; every transition and every cent is still printed."""
    request = await traced(ledger, opened)
    await put(ledger, request, VideoState.DELIVERED)
    async with ledger.write() as conn:
        await conn.execute(requests.update().values(idea="a secret garden"))
    await erasure.ask(ledger, request, 7)
    assert await erasure.finish(ledger, request)
    await trace_command.trace(settings, console, short_id(request))
    text = printed(console)
    assert "secret garden" not in text
    for word in (request, "SUBMITTING → ACCEPTED", f"charge {ORDER_PRICE}"):
        assert word in text


async def test_trace_needs_only_the_ledger(settings, console, ledger, opened):
    """Without JAEGER_URL the tree has every transition and entry, and one sentence says how to see the
    spans.
    """
    request = await traced(ledger, opened)
    await trace_command.trace(settings, console, short_id(request))
    for word in (
        request,
        "SUBMITTING → ACCEPTED",
        f"hold {ORDER_PRICE}",
        f"charge {ORDER_PRICE}",
        f"paid {ORDER_PRICE}",
    ):
        assert word in printed(console)
    assert "No spans: set JAEGER_URL" in printed(console)


def a_span(span_id, name, parent=None, error=None, start=0):
    tags = [{"key": "gen_ai.request.model", "type": "string", "value": "a-model"}] if parent else []
    if error is not None:
        tags.append({"key": "error", "type": "bool", "value": error})
    refs = [{"refType": "CHILD_OF", "traceID": TRACE, "spanID": parent}] if parent else []
    return {
        "spanID": span_id, "operationName": name, "references": refs, "startTime": 1_000_000 + start,
        "duration": 5000, "tags": tags, "processID": "p1",
    }  # fmt: skip


SPANS = [
    a_span("c", "execute_tool generate_video", "b", error=True, start=40),
    a_span("a", "telegram /create"),
    a_span("b", "process create", "a", start=10),
    a_span("d", "video", "gone", start=90),
]


@asynccontextmanager
async def jaeger(status=200, body=None):
    """Jaeger's query API, as far as we use it."""
    asked = []

    async def answer(request):
        asked.append(request.match_info["trace"])
        return web.json_response({"data": [{"spans": SPANS}]} if body is None else body, status=status)

    stub = web.Application()
    stub.router.add_get("/api/traces/{trace}", answer)
    async with serve(stub, "127.0.0.1", 0) as url:
        yield url, asked


async def test_spans_are_a_tree(settings, console, ledger, opened):
    """Spans are below their parents, in order of time; an error is marked, an orphan is a root."""
    request = await traced(ledger, opened)
    async with jaeger() as (url, asked):
        await trace_command.trace(settings.model_copy(update={"jaeger_url": f"{url}/"}), console, request)
    assert asked == [TRACE]
    lines = [
        line for line in printed(console).splitlines() if re.search("telegram|process|execute|video  ", line)
    ]
    tree = [line for line in lines if "ms" in line and "entry" not in line][-4:]
    depth = [re.search(r"\w", line).start() for line in tree]
    assert depth == [0, 4, 8, 0]
    assert ["✗" in line for line in tree] == [False, False, True, False]
    assert "model=a-model" in tree[2]


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (404, {"errors": []}, "has no trace"),
        (503, {}, "does not answer"),
        (200, {"hello": 1}, "is not Jaeger's query API"),
        (200, {"data": [{"spans": [{"spanID": 1}]}]}, "is not Jaeger's query API"),
        (200, [1], "is not Jaeger's query API"),
    ],
)
async def test_unusable_jaeger_is_one_sentence(settings, console, ledger, opened, status, body, why):
    """Whatever Jaeger answers, the ledger's tree is printed and a sentence says what is missing."""
    request = await traced(ledger, opened)
    async with jaeger(status, body) as (url, _):
        await trace_command.trace(settings.model_copy(update={"jaeger_url": url}), console, request)
    assert f"charge {ORDER_PRICE}" in printed(console)
    assert f"No spans: {'Jaeger ' if status != 200 else ''}" in printed(console)
    assert why in printed(console)


async def test_unavailable_jaeger_is_one_sentence(settings, console, ledger, opened):
    """Nothing listens at JAEGER_URL: the same."""
    request = await traced(ledger, opened)
    unreachable = settings.model_copy(update={"jaeger_url": "http://127.0.0.1:1"})
    await trace_command.trace(unreachable, console, request)
    assert "does not answer" in printed(console)


@pytest.mark.parametrize(
    "words", [("costs", "--day", "--json"), ("videos",), ("duplicates",), ("costs", "--hour")]
)
def test_commands_run_on_an_empty_ledger(tmp_path, monkeypatch, words):
    """With nothing configured each command creates its empty ledger, prints, and ends with 0."""
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, list(words))
    assert found.exit_code == 0, found.output


@dataclass
class KnowingProvider:
    """The provider of `ordered`, which knows some jobs."""

    name = account = "local"
    known: tuple[str, ...]
    closed: bool = False

    async def state(self, job_id: str) -> Status:
        if job_id not in self.known:
            raise Gone("no such job")
        return Status("queued")

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def provider(monkeypatch):
    made = KnowingProvider(("job-1",))
    monkeypatch.setattr("app.application.choose_provider", lambda _: made)
    return made


async def test_a_job_that_the_provider_does_not_know_is_refused(settings, console, ledger, opened, provider):
    """`resolve … paid JOB` asks the configured provider first; the right id is accepted afterwards."""
    request = await ordered(ledger, opened)
    await put(ledger, request, VideoState.HOLD, submits=1)
    with pytest.raises(LedgerError, match="does not know job 'job-2'"):
        await resolve(settings, console, request, "paid", "job-2", "")
    assert (await video_of(ledger, request)).state is VideoState.HOLD
    assert provider.closed
    provider.name = "fal"
    with pytest.raises(LedgerError, match="ordered from local, which is not configured here"):
        await resolve(settings, console, request, "paid", "job-1", "")
    provider.name = "local"
    await resolve(settings, console, request, "paid", "job-1", "")
    assert (await video_of(ledger, request)).job_id == "job-1"


@pytest.mark.slow
async def test_hold_is_resolved_by_hand(settings, console, ledger, opened, provider):
    """`resolve` resolves a HOLD as paid or unpaid, by its six letters or its whole id."""
    paid, unpaid = [await ordered(ledger, opened, user) for user in (7, 8)]
    for request in (paid, unpaid):
        await put(ledger, request, VideoState.HOLD, submits=1)
    await resolve(settings, console, f"#{short_id(paid)}", "paid", "job-1", "seen in their list")
    await resolve(settings, console, unpaid, "unpaid", "", "")
    assert (await video_of(ledger, paid)).state is VideoState.ACCEPTED
    assert (await video_of(ledger, unpaid)).state is VideoState.FAILED_UNPAID
    assert (await booked(ledger, paid))["charge"] == [3_000_000]
    assert "charge" not in await booked(ledger, unpaid)
    with pytest.raises(LedgerError, match="only a HOLD"):
        await resolve(settings, console, paid, "unpaid", "", "")
    await costs(settings, console)
    assert "$3.00" in console.file.getvalue()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("abc", "maybe", ""), "paid JOB_ID"),
        (("abc", "paid", ""), "job id"),
        (("abc", "unpaid", "job-1"), "takes none"),
        (("abc", "unpaid", ""), "on HOLD: none"),
    ],
)
async def test_resolve_checks_its_arguments(settings, console, words, why):
    """A wrong outcome, a missing or superfluous job and an unknown request are one sentence each."""
    with pytest.raises(LedgerError, match=why):
        await resolve(settings, console, *words, "")


async def test_job_of_another_request_is_refused(settings, console, ledger, opened, provider):
    """A job id that belongs to another request resolves nothing, in one sentence."""
    first, second = [await ordered(ledger, opened, user) for user in (7, 8)]
    for request in (first, second):
        await put(ledger, request, VideoState.HOLD, submits=1)
    assert await transitions.adopt_job(ledger, first, "job-1", "test", None)
    with pytest.raises(LedgerError, match="job-1"):
        await resolve(settings, console, second, "paid", "job-1", "")
