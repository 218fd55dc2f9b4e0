"""The chat page: HTML, its JSON API, and the event stream."""

import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jinja2
from aiohttp import web
from pydantic import BaseModel, Field, ValidationError

from sandbox.telegram.api import WORLD
from sandbox.telegram.base import SandboxError
from sandbox.telegram.bubbles import bubble_of
from sandbox.telegram.chats import ChatUser
from sandbox.telegram.profile import commands_for
from sandbox.telegram.state import Record, World
from sandbox.telegram.storage import ChatEvent, Feed
from sandbox.telegram.user import Person

HEARTBEAT = 15.0
STREAM_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
LANGUAGES = {"en": "English", "es": "Español", "pt": "Português"}
PAGE_TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "note": "Local sandbox: not Telegram, no internet",
        "log": "Messages",
        "placeholder": "Message",
        "send": "Send",
        "commands": "Commands",
        "start": "Start",
        "empty": "Nothing here yet. Press Start, or type /create and your idea.",
        "language": "Language",
        "person": "You are",
        "typing": "is typing …",
        "uploading": "is sending a video …",
        "recording": "is making a video …",
        "edited": "edited",
        "you": "You",
        "offline": "Connection lost. Connecting again …",
        "failed": "Your message was not sent. Please send it again.",
        "close": "OK",
        "download": "Download",
    },
    "es": {
        "note": "Entorno de prueba local: no es Telegram, sin internet",
        "log": "Mensajes",
        "placeholder": "Mensaje",
        "send": "Enviar",
        "commands": "Comandos",
        "start": "Empezar",
        "empty": "Aún no hay nada. Pulsa Empezar o escribe /create y tu idea.",
        "language": "Idioma",
        "person": "Tú eres",
        "typing": "está escribiendo …",
        "uploading": "está enviando un video …",
        "recording": "está creando un video …",
        "edited": "editado",
        "you": "Tú",
        "offline": "Sin conexión. Conectando de nuevo …",
        "failed": "No se envió. Inténtalo de nuevo.",
        "close": "Aceptar",
        "download": "Descargar",
    },
    "pt": {
        "note": "Ambiente de teste local: não é o Telegram, sem internet",
        "log": "Mensagens",
        "placeholder": "Mensagem",
        "send": "Enviar",
        "commands": "Comandos",
        "start": "Começar",
        "empty": "Ainda não há nada. Toque em Começar ou escreva /create e a sua ideia.",
        "language": "Idioma",
        "person": "Você é",
        "typing": "está digitando …",
        "uploading": "está enviando um vídeo …",
        "recording": "está criando um vídeo …",
        "edited": "editada",
        "you": "Você",
        "offline": "Sem conexão. Conectando de novo …",
        "failed": "Não foi enviada. Tente de novo.",
        "close": "OK",
        "download": "Baixar",
    },
}
HERE = Path(__file__).parent
FIRST_PERSON = 1001
NAMES = {1001: "Ana", 1002: "Ben", 1003: "Caio"}
UserId = Annotated[int, Field(gt=0, lt=2**52)]
FormT = TypeVar("FormT", bound=BaseModel)


async def stream_events(request: web.Request, feed: Feed, viewer: ChatUser) -> web.StreamResponse:
    """Stream all changes in the chat of `viewer`, until one side disconnects."""
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
            await response.write(
                b"".join(_line(event, viewer) for event in events if event.chat_id == viewer.id)
            )
        else:
            await response.write(b": still here\n\n")
    return response


def _line(event: ChatEvent, viewer: ChatUser) -> bytes:
    return f"event: {event.kind}\ndata: {json.dumps(_shown(event, viewer))}\n\n".encode()


def _shown(event: ChatEvent, viewer: ChatUser) -> dict[str, Any]:
    if event.kind != "message":
        return event.body
    return bubble_of(Record(**event.body), viewer).model_dump()


def page_language(language_code: str) -> str:
    """Return the page's language for a Telegram language code (`pt-br` is `pt`); English for others."""
    short = language_code.lower().replace("_", "-").partition("-")[0]
    return short if short in LANGUAGES else "en"


class SendForm(BaseModel):
    user: UserId
    text: str


class TapForm(BaseModel):
    user: UserId
    message_id: int
    data: str


class LanguageForm(BaseModel):
    user: UserId
    language_code: str = Field(pattern="^[a-z]{2}(-[A-Za-z]{2,8})?$")


def add_page(app: web.Application) -> None:
    """Mount the page under /chat; / redirects there."""
    app.router.add_get("/", _to_chat)
    app.router.add_get("/chat", show_page)
    app.router.add_get("/chat/api/history", history)
    app.router.add_get("/chat/api/events", chat_events)
    app.router.add_post("/chat/api/send", send)
    app.router.add_post("/chat/api/tap", tap)
    app.router.add_post("/chat/api/person", change_person)
    app.router.add_get("/chat/media/{file_id}", media)
    app.router.add_static("/chat/static", HERE / "static")


async def show_page(request: web.Request) -> web.Response:
    world, person = _who(request)
    language = page_language(person.user.language_code)
    shown = {person.id: person.user.first_name}
    people = dict(sorted({**NAMES, **shown}.items()))
    html = _template().render(
        bot=world.bot,
        me=person.user,
        people=people,
        languages=LANGUAGES,
        language=language,
        words=PAGE_TEXTS[language],
    )
    return web.Response(text=html, content_type="text/html", headers={"Cache-Control": "no-store"})


async def history(request: web.Request) -> web.Response:
    world, person = _who(request)
    body = {
        "bubbles": [bubble.model_dump() for bubble in person.history()],
        "commands": commands_for(world, person.user, person.id, page_language(person.user.language_code)),
    }
    return web.json_response(body, headers={"Cache-Control": "no-store"})


async def chat_events(request: web.Request) -> web.StreamResponse:
    world, person = _who(request)
    return await stream_events(request, world.feed, person.user)


async def send(request: web.Request) -> web.Response:
    form = await _read(request, SendForm)
    bubbles = await _person(request.app[WORLD], form.user).send_long(form.text)
    return web.json_response({"sent": [bubble.id for bubble in bubbles]})


async def tap(request: web.Request) -> web.Response:
    form = await _read(request, TapForm)
    try:
        query_id = await _person(request.app[WORLD], form.user).tap(form.message_id, form.data)
    except SandboxError as error:
        raise web.HTTPConflict(text=f"{error}\n") from error
    return web.json_response({"query_id": query_id})


async def change_person(request: web.Request) -> web.Response:
    form = await _read(request, LanguageForm)
    _person(request.app[WORLD], form.user).speak(form.language_code)
    return web.json_response({"language_code": form.language_code})


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


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(HERE / "templates")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined).get_template(
        "page.html"
    )


def _who(request: web.Request) -> tuple[World, Person]:
    """Return the person of the page: `?user=1001`, created with the browser's language."""
    user = request.query.get("user", str(FIRST_PERSON))
    if not (user.isascii() and user.isdigit() and 0 < int(user) < 2**52):
        raise web.HTTPBadRequest(text="user is a positive number, as in ?user=1001\n")
    language = request.query.get("lang", request.headers.get("Accept-Language", "en"))
    world = request.app[WORLD]
    return world, _person(world, int(user), page_language(language))


def _person(world: World, user_id: int, language: str = "en") -> Person:
    return Person(world, world.person(user_id, NAMES.get(user_id, ""), language, ""))


async def _read(request: web.Request, form: type[FormT]) -> FormT:
    """Read a JSON form; other content types are refused, because browsers send those across origins."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Send application/json.\n")
    try:
        return form.model_validate_json(await request.read())
    except ValidationError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error
