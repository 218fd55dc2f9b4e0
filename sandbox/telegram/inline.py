"""Inline mode: queries from any chat, the bot's results, and the messages that people choose."""

import re
import secrets
from dataclasses import dataclass, field
from typing import Any

from sandbox.telegram.base import ApiError, Clock, bad_request
from sandbox.telegram.files import FileStore
from sandbox.telegram.keyboards import inline_keyboard
from sandbox.telegram.media import Media, caption_fields, media_fields
from sandbox.telegram.params import Params, caption, formatted_text
from sandbox.telegram.storage import Archive, Feed

MAX_RESULTS = 50
MAX_RESULT_ID = 64
MAX_BUTTON = 64
MAX_OFFSET = 64
DEFAULT_CACHE_S = 300
QUERY_LIFETIME = 30.0
CACHED_FILES = {"video": "video_file_id", "photo": "photo_file_id", "document": "document_file_id"}
START_PARAMETER = re.compile(r"[A-Za-z0-9_-]{1,64}")
TOO_OLD = "query is too old and response timeout expired or query ID is invalid"


@dataclass(frozen=True)
class Answer:
    """The bot's answer to an inline query.

    Attributes:
        contents: By result id, the fields of the message that choosing it sends.
        shown: The results as the app lists them.
        ends: Unix time until which the same query gets this answer again, without the bot.
    """

    contents: dict[str, dict[str, Any]]
    shown: list[dict[str, Any]]
    button: dict[str, Any] | None
    next_offset: str
    ends: float


@dataclass
class InlineStore:
    """Open inline queries, cached answers, and where inline messages are."""

    archive: Archive
    clock: Clock
    feed: Feed
    queries: dict[str, dict[str, Any]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    cached: dict[tuple[int, str, str], Answer] = field(default_factory=dict)
    places: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.places |= self.archive.load("inline")

    def open(self, user_id: int, query: str, offset: str) -> str:
        """Return a new query id; where an answer is cached it is answered at once."""
        query_id = str((user_id << 32) + secrets.randbits(32))
        ends = self.clock.now() + self.clock.time_limit(QUERY_LIFETIME)
        self.queries[query_id] = {"user_id": user_id, "query": query, "offset": offset, "ends": ends}
        for who in (user_id, 0):
            kept = self.cached.get((who, query, offset))
            if kept and kept.ends > self.clock.now():
                self._publish(query_id, kept)
        return query_id

    def answer(self, query_id: str, answer: Answer, *, personal: bool) -> None:
        """Answer a query.

        Raises:
            ApiError: 400 when it is unknown, already answered or too old.
        """
        query = self.queries.get(query_id)
        if query is None or query_id in self.answers or query["ends"] < self.clock.now():
            raise bad_request(TOO_OLD)
        self.cached[(query["user_id"] if personal else 0, query["query"], query["offset"])] = answer
        self._publish(query_id, answer)

    def _publish(self, query_id: str, answer: Answer) -> None:
        self.answers[query_id] = answer
        body = {
            "query_id": query_id,
            "results": answer.shown,
            "button": answer.button,
            "next_offset": answer.next_offset,
        }
        self.feed.publish(self.queries[query_id]["user_id"], "results", body)

    def put(self, chat_id: int, message_id: int) -> str:
        """Return a new inline message id for a message."""
        inline_id = "BAAAA" + secrets.token_urlsafe(18)
        self.places[inline_id] = [chat_id, message_id]
        self.archive.put("inline", inline_id, [chat_id, message_id])
        return inline_id

    def id_of(self, chat_id: int, message_id: int) -> str | None:
        return next((key for key, place in self.places.items() if place == [chat_id, message_id]), None)


async def read_answer(files: FileStore, params: Params, now: float) -> Answer:
    """Return the answer that a call of answerInlineQuery gives.

    Raises:
        ApiError: 400 when a result is unreadable, or there are over 50.
    """
    results = params.json("results") or []
    if not isinstance(results, list):
        raise bad_request("expected an Array of inline query results")
    if len(results) > MAX_RESULTS:
        raise bad_request("too many inline query results specified")
    if len(params.text("next_offset").encode()) > MAX_OFFSET:
        raise bad_request("NEXT_OFFSET_INVALID")
    contents = {}
    for result in results:
        number = _required(result, "id") if isinstance(result, dict) else ""
        if not 1 <= len(number.encode()) <= MAX_RESULT_ID:
            raise bad_request("RESULT_ID_INVALID")
        if number in contents:
            raise bad_request("RESULT_ID_DUPLICATE")
        contents[number] = await _content(files, result)
    cache_s = params.integer("cache_time", DEFAULT_CACHE_S) if params.text("cache_time") != "0" else 0
    return Answer(
        contents,
        [_shown(result, contents[result["id"]]) for result in results],
        _button(params.json("button")),
        params.text("next_offset"),
        now + cache_s,
    )


async def _content(files: FileStore, result: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the message that choosing this result sends."""
    kind = _required(result, "type").lower()
    keyboard = inline_keyboard(result.get("reply_markup"))
    markup = {"reply_markup": keyboard} if keyboard else {}
    written = result.get("input_message_content")
    if written is not None:
        return {**_text(written), **markup}
    if kind == "article":
        raise _unreadable('Can\'t find field "message_text"')
    if kind not in CACHED_FILES:
        raise _unreadable(f'type "{kind}" is unknown to the sandbox')
    if kind != "photo":
        _required(result, "title")
    media = Media(kind, _required(result, CACHED_FILES[kind]))
    words = caption(
        result.get("caption") or "", result.get("parse_mode") or "", result.get("caption_entities")
    )
    shown = await media_fields(files, Params(), media)
    if kind not in shown:
        raise bad_request("type of file mismatch")
    return {**shown, **caption_fields(words), **markup}


def _text(written: Any) -> dict[str, Any]:
    if not isinstance(written, dict) or not isinstance(written.get("message_text"), str):
        raise _unreadable("Can't parse input_message_content: the sandbox knows texts only")
    words = formatted_text(written["message_text"], written.get("parse_mode") or "", written.get("entities"))
    if not words.text:
        raise bad_request("MESSAGE_EMPTY")
    return {"text": words.text, **({"entities": words.entities} if words.entities else {})}


def _shown(result: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """Return a result as the app lists it."""
    video = content.get("video") or {}
    return {
        "id": result["id"],
        "type": result["type"],
        "title": result.get("title") or "",
        "description": result.get("description") or "",
        "poster": video.get("thumbnail", {}).get("file_id"),
        "duration": video.get("duration", 0),
    }


def _button(button: Any) -> dict[str, Any] | None:
    if button is None:
        return None
    if not isinstance(button, dict) or not isinstance(button.get("text"), str):
        raise bad_request(
            "can't parse inline query results button: InlineQueryResultsButton must be an Object"
        )
    parameter = button.get("start_parameter")
    if (parameter is None) == ("web_app" not in button):
        raise bad_request(
            "can't parse inline query results button:"
            " InlineQueryResultsButton must have exactly one optional field"
        )
    if not 1 <= len(button["text"]) <= MAX_BUTTON:
        raise bad_request("BUTTON_TEXT_INVALID")
    if parameter is not None and not START_PARAMETER.fullmatch(str(parameter)):
        raise bad_request("START_PARAM_INVALID")
    return {"text": button["text"], "start_parameter": parameter or ""}


def _required(result: dict[str, Any], name: str) -> str:
    if not isinstance(result.get(name), str):
        raise _unreadable(f'Can\'t find field "{name}"')
    return str(result[name])


def _unreadable(reason: str) -> ApiError:
    return bad_request(f"can't parse inline query result: {reason}")
