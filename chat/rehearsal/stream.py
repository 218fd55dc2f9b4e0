"""Events to the page as they happen (server-sent events); the page reads the history when it (re)connects."""

import json
from typing import Any

from aiohttp import web

from chat.rehearsal.bubbles import bubble_of
from chat.rehearsal.feed import Event, Feed
from chat.rehearsal.messages import Record

HEARTBEAT = 15.0
HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def stream_events(request: web.Request, feed: Feed, viewer: int) -> web.StreamResponse:
    """Everything that changes in the chat of `viewer`, from now until one side leaves."""
    response = web.StreamResponse(headers=HEADERS)
    await response.prepare(request)
    seen = feed.last
    await response.write(b"retry: 1000\nevent: ready\ndata: {}\n\n")
    while not feed.closed:
        if await feed.beyond(seen, HEARTBEAT):
            if feed.missed(seen):
                break  # too far behind: the page connects again and reads the history
            events = feed.since(seen)
            seen = events[-1].number
            await response.write(
                b"".join(_line(event, viewer) for event in events if event.chat_id == viewer)
            )
        else:
            await response.write(b": still here\n\n")
    return response


def _line(event: Event, viewer: int) -> bytes:
    return f"event: {event.kind}\ndata: {json.dumps(_shown(event, viewer))}\n\n".encode()


def _shown(event: Event, viewer: int) -> dict[str, Any]:
    if event.kind != "message":
        return event.body
    return bubble_of(Record(event.body["message"], event.body["revision"]), viewer).model_dump()
