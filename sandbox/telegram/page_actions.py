"""The chat page's JSON API: what a person does on it."""

from typing import Annotated, TypeVar

from aiohttp import web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, Field, ValidationError

from sandbox.telegram.api import WORLD
from sandbox.telegram.base import SandboxError
from sandbox.telegram.flood import Pacing
from sandbox.telegram.params import MAX_UPLOAD
from sandbox.telegram.state import World
from sandbox.telegram.user import Person

NAMES = {1001: "Ana", 1002: "Ben", 1003: "Caio"}
FIRST_GROUP = -1_001_000_000_001
INLINE_TIMEOUT_S = 5.0
UserId = Annotated[int, Field(gt=0, lt=2**52)]
GroupId = Annotated[int, Field(lt=0)]
FormT = TypeVar("FormT", bound=BaseModel)


class Form(BaseModel):
    """Who acts, and where: a group, or without one the chat with the bot."""

    user: UserId
    chat: GroupId | None = None
    topic: int = Field(0, ge=0)


class SendForm(Form):
    text: str
    reply_to: int | None = None


class TapForm(Form):
    message_id: int
    data: str


class PayForm(Form):
    message_id: int = 0
    url: str = ""


class FollowForm(Form):
    url: str


class QueryForm(Form):
    query: str = Field(max_length=256)


class ChooseForm(Form):
    query_id: str
    result_id: str


class NewChatForm(Form):
    name: str = Field(min_length=1, max_length=128)
    forum: bool = False


class PacingForm(Form):
    pacing: Pacing


class LanguageForm(Form):
    language_code: str = Field(pattern="^[a-z]{2}(-[A-Za-z]{2,8})?$")


def add_actions(app: web.Application) -> None:
    """Mount the actions under /chat/api."""
    for name, action in ACTIONS.items():
        app.router.add_post(f"/chat/api/{name}", _refusing(action))


async def send(request: web.Request) -> web.Response:
    form = await _read(request, SendForm)
    bubbles = await _actor(request, form).send_long(
        form.text, chat=form.chat, reply_to=form.reply_to, topic=form.topic
    )
    return web.json_response({"sent": [bubble.id for bubble in bubbles]})


async def attach(request: web.Request) -> web.Response:
    """Send a photo or, where it is no picture, a file: the body as it is, the rest in the address.

    The content type is one that a page of another origin cannot send without being asked first.
    """
    if request.content_type != "application/octet-stream":
        raise web.HTTPUnsupportedMediaType(text="Send application/octet-stream.\n")
    form = _form(Form, dict(request.query))
    person, more = _actor(request, form), request.query
    data = await _body(request)
    caption, name = more.get("caption", ""), more.get("name", "file.bin")
    if more.get("kind") == "photo":
        sent = await person.photo(
            caption,
            chat=form.chat,
            album=more.get("album", ""),
            data=data,
            reply_to=int(more["reply_to"]) if more.get("reply_to") else None,
            topic=form.topic,
        )
    else:
        sent = await person.document(data, name, caption, chat=form.chat, topic=form.topic)
    return web.json_response({"sent": [sent.id]})


async def tap(request: web.Request) -> web.Response:
    form = await _read(request, TapForm)
    query_id = await _actor(request, form).tap(form.message_id, form.data, chat=form.chat)
    return web.json_response({"query_id": query_id})


async def pay(request: web.Request) -> web.Response:
    """Pay an invoice, and answer when the payment has happened or failed."""
    form = await _read(request, PayForm)
    person = _actor(request, form)
    if form.url:
        query_id = await person.pay_link(form.url)
    else:
        query_id = await person.pay(form.message_id, chat=form.chat)
    return web.json_response(await person.wait_for_payment(query_id))


async def follow(request: web.Request) -> web.Response:
    form = await _read(request, FollowForm)
    sent = await _actor(request, form).follow(form.url)
    return web.json_response({"sent": [sent.id]})


async def inline_query(request: web.Request) -> web.Response:
    form = await _read(request, QueryForm)
    person = _actor(request, form)
    query_id = await person.inline_query(form.query, chat=form.chat)
    shown = await person.wait_for_results(query_id, INLINE_TIMEOUT_S)
    button = request.app[WORLD].inline.answers[query_id].button
    return web.json_response({"query_id": query_id, "results": shown, "button": button})


async def choose(request: web.Request) -> web.Response:
    form = await _read(request, ChooseForm)
    sent = await _actor(request, form).choose(form.query_id, form.result_id, chat=form.chat)
    return web.json_response({"sent": [sent.id]})


async def create_group(request: web.Request) -> web.Response:
    form = await _read(request, NewChatForm)
    person, groups = _actor(request, form), request.app[WORLD].chats.groups
    number = min([FIRST_GROUP, *(known for known in groups)]) - 1
    await person.create_group(number, form.name)
    topic = await person.create_topic(number, form.name) if form.forum else 0
    return web.json_response({"chat": number, "topic": topic})


async def create_topic(request: web.Request) -> web.Response:
    form = await _read(request, NewChatForm)
    if form.chat is None:
        raise web.HTTPBadRequest(text="A topic belongs to a group.\n")
    topic = await _actor(request, form).create_topic(form.chat, form.name)
    return web.json_response({"chat": form.chat, "topic": topic})


async def pace(request: web.Request) -> web.Response:
    form = await _read(request, PacingForm)
    request.app[WORLD].flood.pace(form.pacing)
    return web.json_response({"pacing": form.pacing})


async def change_person(request: web.Request) -> web.Response:
    form = await _read(request, LanguageForm)
    _actor(request, form).speak(form.language_code)
    return web.json_response({"language_code": form.language_code})


def person_of(world: World, user_id: int, language: str = "en") -> Person:
    return Person(world, world.person(user_id, NAMES.get(user_id, ""), language, ""))


def _refusing(action: Handler) -> Handler:
    """Return the action, which answers 409 with the reason where the sandbox cannot do what it should."""

    async def perform(request: web.Request) -> web.StreamResponse:
        try:
            return await action(request)
        except SandboxError as error:
            raise web.HTTPConflict(text=f"{error}\n") from error

    return perform


def _actor(request: web.Request, form: Form) -> Person:
    world = request.app[WORLD]
    if form.chat is not None and form.chat not in world.chats.groups:
        raise web.HTTPNotFound(text="There is no such group.\n")
    return person_of(world, form.user)


async def _body(request: web.Request) -> bytes:
    """Read an upload of at most 50 MB, which is more than a form may hold."""
    data = bytearray()
    async for chunk in request.content.iter_chunked(256 * 1024):
        data += chunk
        if len(data) > MAX_UPLOAD:
            raise web.HTTPRequestEntityTooLarge(MAX_UPLOAD, len(data))
    return bytes(data)


async def _read(request: web.Request, form: type[FormT]) -> FormT:
    """Read a JSON form; other content types are refused, because browsers send those across origins."""
    if request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(text="Send application/json.\n")
    try:
        return form.model_validate_json(await request.read())
    except ValidationError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error


def _form(form: type[FormT], fields: dict[str, str]) -> FormT:
    try:
        return form.model_validate({key: value for key, value in fields.items() if value})
    except ValidationError as error:
        raise web.HTTPBadRequest(text=f"{error}\n") from error


ACTIONS = {
    "send": send, "attach": attach, "tap": tap, "pay": pay, "follow": follow, "inline": inline_query,
    "choose": choose, "group": create_group, "topic": create_topic, "pacing": pace, "person": change_person,
}  # fmt: skip
