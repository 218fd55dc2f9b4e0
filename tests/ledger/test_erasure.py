"""Erasure: texts, file and link of one request go, its money stays; open money keeps it as it is."""

import json
from dataclasses import asdict

import pytest
from sqlalchemy import select

from ledger import erasure, history, people, pruning, reports, requests, shares, transitions
from ledger.database import Ledger
from ledger.models import RequestState, VideoState
from ledger.pruning import PRUNED
from ledger.schema import entries, metadata
from tests.support.factories import (
    Opener,
    accepted,
    booked,
    new_job,
    one_of_each,
    ordered,
    put,
    update_fields,
    video_of,
)

V = VideoState
pytestmark = pytest.mark.any_ledger
SECRET = "zebra"


async def delivered(ledger: Ledger, opened: Opener) -> str:
    request = await accepted(ledger, opened, new_job())
    await transitions.transition(
        ledger, request, V.ACCEPTED, V.SUCCEEDED, "watch", f"a {SECRET} is here",
        asset_path=f"{SECRET}.mp4", asset_seconds=8,
    )  # fmt: skip
    await transitions.transition(ledger, request, V.SUCCEEDED, V.DELIVERED, "tell", "Telegram has it")
    await put(
        ledger, request, V.DELIVERED, prompt=f"a {SECRET}", file_id=f"{SECRET}-file", failure_detail=SECRET,
        status_url=f"https://example.org/{SECRET}", result_url=f"https://example.org/{SECRET}.mp4",
    )  # fmt: skip
    await update_fields(
        ledger, request, idea=f"a {SECRET}", caption=f"The {SECRET}", reason_quote=f"my {SECRET}"
    )
    return request


async def everything(ledger: Ledger) -> str:
    """Return all rows of all tables as one text."""
    found = []
    async with ledger.read() as conn:
        for table in metadata.sorted_tables:
            found += [dict(row._mapping) for row in await conn.execute(select(table))]
    return json.dumps(found, default=str)


async def erase(ledger: Ledger, request: str, user_id: int = 7) -> None:
    assert await erasure.ask(ledger, request, user_id) == "asked"
    assert await erasure.finish(ledger, request)


async def figures(ledger: Ledger) -> list[object]:
    async with ledger.read() as conn:
        booked_rows = [tuple(row) for row in await conn.execute(select(entries).order_by(entries.c.entry_id))]
    return [
        booked_rows,
        asdict(await reports.cost_summary(ledger)),
        [(line.name, line.costs) for line in (await reports.read_report(ledger, "30d")).users],
        [(line.short_id, line.state, line.costs) for line in (await reports.read_report(ledger)).requests],
    ]


async def test_no_word_is_left_and_no_figure_changes(ledger: Ledger, opened: Opener):
    """In no table stands what was written; reports and entries are as before."""
    request = await delivered(ledger, opened)
    await one_of_each(ledger, opened)
    before = await figures(ledger)
    assert SECRET in await everything(ledger)
    await erase(ledger, request)
    assert SECRET not in await everything(ledger)
    assert await figures(ledger) == before
    found, video = await requests.find_with_video(ledger, request)
    assert (found.idea, found.caption, found.erasure, video.prompt) == (PRUNED, None, "done", PRUNED)
    assert (video.file_id, video.result_url, video.asset_path) == (None, None, None)
    assert len(await booked(ledger, request)) > 0


async def test_operators_still_read_what_happened(ledger: Ledger, opened: Opener):
    """The history, the lists and the outcome of an erased request are there, without its words."""
    request = await delivered(ledger, opened)
    await erase(ledger, request)
    told = await history.read_history(ledger, request)
    assert [event.what for event in told.events if event.subject == "video"][-1].endswith("DELIVERED")
    assert {event.why for event in told.events if event.subject == "video"} == {PRUNED}
    assert [one.idea for one in await history.latest_orders(ledger)] == [PRUNED]
    assert (await history.request_outcome(ledger, request)).outcome == "delivered"
    before = await pruning.cutoff(ledger, -1)
    assert (await pruning.count_prunable(ledger, before)).texts == 0


async def test_a_reason_of_an_operator_stays(ledger: Ledger, opened: Opener):
    """What a named person decided about money keeps its reason."""
    request = await delivered(ledger, opened)
    async with ledger.write() as conn:
        await requests.record_transition(
            conn, request, "video", "a", "b", "admin:9", "the invoice says so", 1
        )
    await erase(ledger, request)
    events = (await history.read_history(ledger, request)).events
    assert "the invoice says so" in {event.why for event in events}


@pytest.mark.parametrize(
    "state", [V.AWAITING_APPROVAL, V.QUEUED, V.SUBMITTING, V.ACCEPTED, V.IN_DOUBT, V.HOLD, V.SUCCEEDED]
)
async def test_open_money_is_not_erased(ledger: Ledger, opened: Opener, state: VideoState):
    """What has not ended is left as it is; a mark of /forget waits until it has."""
    request = await ordered(ledger, opened)
    await put(ledger, request, state)
    assert await erasure.ask(ledger, request, 7) == "open"
    assert (await requests.find(ledger, request)).erasure is None
    assert await erasure.ask_all(ledger, 7, 1) == 1
    assert await erasure.marked(ledger) == []
    assert not await erasure.finish(ledger, request)
    assert (await video_of(ledger, request)).prompt != PRUNED
    await put(ledger, request, V.DELIVERED)
    assert await erasure.marked(ledger, 1, 7) == [request]
    assert await erasure.finish(ledger, request)
    assert await erasure.marked(ledger) == []
    assert await erasure.count_waiting(ledger, 7, 1) == 0


async def test_a_charge_that_may_turn_up_late_keeps_it(ledger: Ledger, opened: Opener):
    """A sent order that failed unpaid is asked about for a day; it can be erased after that."""
    request = await ordered(ledger, opened)
    await put(ledger, request, V.FAILED_UNPAID, due_at=5, submits=1)
    assert await erasure.ask(ledger, request, 7) == "open"
    await put(ledger, request, V.FAILED_UNPAID, due_at=None)
    assert await erasure.ask(ledger, request, 7) == "asked"


async def test_a_request_without_a_video_is_erased_too(ledger: Ledger, opened: Opener):
    """A refusal quotes the person; an open request has not ended."""
    request = await opened(idea=f"a {SECRET}")
    assert await erasure.ask(ledger, request, 7) == "open"
    await requests.close_request(
        ledger, request, RequestState.REFUSED, "direct", "content:other", quote=SECRET
    )
    await erase(ledger, request)
    assert SECRET not in await everything(ledger)


async def test_only_their_own(ledger: Ledger, opened: Opener):
    """Another person's request is as unknown as one that does not exist; /forget marks one person's."""
    mine, theirs = await delivered(ledger, opened), await opened(user_id=8)
    assert await erasure.ask(ledger, mine, 8) == await erasure.ask(ledger, "tg:1:-:8:0", 8) == "unknown"
    assert await erasure.ask_all(ledger, 7, 2) == 0, "another bot's"
    assert await erasure.ask_all(ledger, 7, 1) == 1
    assert (await requests.find(ledger, theirs)).erasure is None
    assert list(await erasure.chats_of(ledger, 7, 1)) == [7]


async def test_once_is_enough(ledger: Ledger, opened: Opener):
    """A second wish finds it done; a kill between mark and end leaves the mark."""
    request = await delivered(ledger, opened)
    assert await erasure.ask(ledger, request, 7) == "asked"
    assert await erasure.ask(ledger, request, 7) == "asked"
    assert await erasure.marked(ledger) == [request]
    assert await erasure.finish(ledger, request)
    assert await erasure.ask(ledger, request, 7) == "done"
    assert not await erasure.finish(ledger, request)


async def test_what_can_be_cancelled_is_found(ledger: Ledger, opened: Opener):
    """Open requests, offers and orders that wait; nothing that was sent."""
    await accepted(ledger, opened, new_job())
    await ordered(ledger, opened, user_id=8)
    free = {await opened(), await ordered(ledger, opened), await ordered(ledger, opened, approval_nonce="n")}
    assert set(await erasure.cancellable(ledger, 7, 1)) == free


async def test_shared_are_own_delivered_videos(ledger: Ledger, opened: Opener):
    """Newest first, by their first letters; none of another person, bot or state, none that is erased."""
    first, second = await delivered(ledger, opened), await delivered(ledger, opened)
    await accepted(ledger, opened, new_job())
    names = {one.request_id: one.short_id for one in await shares.own_videos(ledger, 7, 1)}
    assert names.keys() == {first, second}
    [found] = await shares.own_videos(ledger, 7, 1, names[first])
    assert (found.request_id, found.file_id) == (first, f"{SECRET}-file")
    assert await shares.own_videos(ledger, 8, 1) == await shares.own_videos(ledger, 7, 2) == []
    assert await shares.own_videos(ledger, 7, 1, "%") == await shares.own_videos(ledger, 7, 1, "_") == []
    await erase(ledger, first)
    assert [one.request_id for one in await shares.own_videos(ledger, 7, 1)] == [second]


async def test_settings_are_forgotten(ledger: Ledger):
    """`people.forget` takes the one row that holds them."""
    await people.save(ledger, 7, language="pt")
    assert await people.forget(ledger, 7)
    assert (await people.find(ledger, 7)).language is None
