"""The chat page: HTML, history, and the event stream; what a person does is in `page_actions`."""

import json
from pathlib import Path
from typing import Any

import jinja2
from aiohttp import web

from sandbox.telegram.api import WORLD
from sandbox.telegram.bubbles import bubble_of
from sandbox.telegram.chats import ChatUser, Group
from sandbox.telegram.ephemeral import shown_to
from sandbox.telegram.page_actions import NAMES, add_actions, person_of
from sandbox.telegram.page_texts import LANGUAGES, PAGE_TEXTS, page_language
from sandbox.telegram.profile import commands_for, profile_text
from sandbox.telegram.state import Record, World
from sandbox.telegram.storage import ChatEvent, Feed
from sandbox.telegram.user import Person

HEARTBEAT = 15.0
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
HERE = Path(__file__).parent
FIRST_PERSON = 1001
ANSWERED = {"results", "payment"}
"""Events that the page gets as the answer to its own call, not by the stream."""


async def stream_events(
    request: web.Request, feed: Feed, viewer: ChatUser, chat_id: int
) -> web.StreamResponse:
    """Stream all changes in a chat that `viewer` sees, until one side disconnects."""
    response = web.StreamResponse(headers=STREAM_HEADERS)
    await response.prepare(request)
    seen = feed.last
    await response.write(b"retry: 1000\nevent: ready\ndata: {}\n\n")
    while not feed.closed:
        if await feed.beyond(seen, HEARTBEAT):
            if feed.missed(seen):
                break  # too far behind: the page connects again and reads the history
            events = feed.since(seen)
            seen = events[-1].number
            shown = [event for event in events if _concerns(event, viewer, chat_id)]
            await response.write(b"".join(_line(event, viewer) for event in shown))
        else:
            await response.write(b": still here\n\n")
    return response


def _concerns(event: ChatEvent, viewer: ChatUser, chat_id: int) -> bool:
    if event.chat_id != chat_id or event.kind in ANSWERED:
        return False
    return event.kind != "message" or shown_to(event.body["message"], viewer.id)


def _line(event: ChatEvent, viewer: ChatUser) -> bytes:
    return f"event: {event.kind}\ndata: {json.dumps(_shown(event, viewer))}\n\n".encode()


def _shown(event: ChatEvent, viewer: ChatUser) -> dict[str, Any]:
    if event.kind != "message":
        return event.body
    return bubble_of(Record(**event.body), viewer).model_dump()


def add_page(app: web.Application) -> None:
    """Mount the page under /chat; / redirects there."""
    app.router.add_get("/", _to_chat)
    app.router.add_get("/chat", show_page)
    app.router.add_get("/chat/api/history", history)
    app.router.add_get("/chat/api/events", chat_events)
    app.router.add_get("/chat/media/{file_id}", media)
    app.router.add_static("/chat/static", HERE / "static")
    add_actions(app)


async def show_page(request: web.Request) -> web.Response:
    """Serve the page of one person, or with `beside=1002` the pages of two."""
    world, person = _who(request)
    language = page_language(person.user.language_code)
    other = request.query.get("beside", "")
    if other:
        pages = [_address(request, user) for user in (str(person.id), str(_number(other)))]
        return _html("beside.html", language=language, words=PAGE_TEXTS[language], pages=pages)
    chat = _chat(request, person)
    group = chat if isinstance(chat, Group) else None
    people = dict(sorted({**NAMES, person.id: person.user.first_name}.items()))
    return _html(
        "page.html",
        bot=world.bot,
        me=person.user,
        people=people,
        group=group,
        topic=_topic(request, group),
        chats=_chats(world, PAGE_TEXTS[language]),
        pacing=world.flood.pacing,
        about=profile_text(world, "description", language),
        short=profile_text(world, "short_description", language),
        languages=LANGUAGES,
        language=language,
        words=PAGE_TEXTS[language],
    )


async def history(request: web.Request) -> web.Response:
    world, person = _who(request)
    chat = _chat(request, person)
    bubbles = person.history(chat=chat.id if isinstance(chat, Group) else None)
    language = page_language(person.user.language_code)
    body = {
        "bubbles": [bubble.model_dump() for bubble in bubbles],
        "commands": commands_for(world, chat, person.id, language),
    }
    return web.json_response(body, headers={"Cache-Control": "no-store"})


async def chat_events(request: web.Request) -> web.StreamResponse:
    world, person = _who(request)
    return await stream_events(request, world.feed, person.user, _chat(request, person).id)


async def media(request: web.Request) -> web.StreamResponse:
    """Serve a file of a chat, with ranges: browsers load videos in pieces."""
    files = request.app[WORLD].files
    file = files.find(request.match_info["file_id"])
    if file is None or not files.on_disk(file).is_file():
        raise web.HTTPNotFound(text="There is no such file.\n")
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    if file.kind == "document":
        headers["Content-Disposition"] = "attachment"
    return web.FileResponse(files.on_disk(file), headers=headers)


async def _to_chat(_request: web.Request) -> web.Response:
    raise web.HTTPFound("/chat")


def _chats(world: World, words: dict[str, str]) -> list[tuple[str, str]]:
    """Return the chats that a person can open: the value of the choice, and its name."""
    found = [("", words["private"])]
    for group in world.chats.groups.values():
        if group.migrated_to:
            continue
        found.append((str(group.id), group.title))
        for topic in group.topics:
            name = group.names.get(topic) or (words["general"] if topic == "1" else f"#{topic}")
            found.append((f"{group.id}/{topic}", f"{group.title} › {name}"))
    return found


def _html(template: str, **values: Any) -> web.Response:
    loader = jinja2.FileSystemLoader(HERE / "templates")
    found = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    text = found.get_template(template).render(**values)
    return web.Response(text=text, content_type="text/html", headers={"Cache-Control": "no-store"})


def _address(request: web.Request, user: str) -> str:
    query = {key: value for key, value in request.query.items() if key not in {"beside", "user"}}
    return str(request.rel_url.with_query({**query, "user": user}))


def _who(request: web.Request) -> tuple[World, Person]:
    """Return the person of the page: `?user=1001`, created with the browser's language."""
    number = _number(request.query.get("user", str(FIRST_PERSON)))
    language = request.query.get("lang", request.headers.get("Accept-Language", "en"))
    world = request.app[WORLD]
    return world, person_of(world, number, page_language(language))


def _number(user: str) -> int:
    if not (user.isascii() and user.isdigit() and 0 < int(user) < 2**52):
        raise web.HTTPBadRequest(text="user is a positive number, as in ?user=1001\n")
    return int(user)


def _topic(request: web.Request, group: Group | None) -> int:
    named = request.query.get("topic", "")
    return int(named) if group is not None and named in group.topics else 0


def _chat(request: web.Request, person: Person) -> ChatUser | Group:
    """Return the chat of the page: `?chat=-100…`, or the person's with the bot."""
    named = request.query.get("chat", "")
    if not named:
        return person.user
    groups = request.app[WORLD].chats.groups
    group = groups.get(int(named)) if named.lstrip("-").isdigit() else None
    if group is None:
        raise web.HTTPNotFound(text="There is no such group.\n")
    return group
