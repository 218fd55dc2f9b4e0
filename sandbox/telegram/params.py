"""Parameters of Bot API calls: fields and uploads, message texts, captions."""

import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from aiohttp import BodyPartReader, web

from sandbox.telegram.base import ApiError, bad_request
from sandbox.telegram.html import Entity, Formatted, parse_html, trimmed, units, with_found

MAX_UPLOAD = 50 * 1024 * 1024
MAX_FIELD = 1024 * 1024
MAX_TEXT = 4096
MAX_CAPTION = 1024


@dataclass(frozen=True)
class Upload:
    filename: str
    data: bytes


@dataclass(frozen=True)
class Params:
    """The fields of one call; the accessors refuse what Telegram refuses."""

    fields: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, Upload] = field(default_factory=dict)

    def text(self, name: str) -> str:
        return self.fields.get(name, "")

    def integer(self, name: str, default: int = 0) -> int:
        try:
            return int(self.fields.get(name) or default)
        except ValueError:
            return default

    def flag(self, name: str) -> bool:
        return self.fields.get(name, "").lower() in {"true", "yes", "1"}

    def json(self, name: str) -> Any:
        """Parse a JSON field; None when it is missing."""
        if not self.fields.get(name):
            return None
        try:
            value = json.loads(self.fields[name])
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise not_utf8() from error
        except ValueError as error:
            raise bad_request(f"can't parse {name} JSON object") from error
        return value

    def upload(self, source: str) -> Upload | None:
        """Return the upload that `attach://token`, or the field itself, names."""
        return self.uploads.get(source.removeprefix("attach://")) if source else None

    def shown(self) -> dict[str, Any]:
        """Return the fields for the call log, uploads as name and size."""
        files = {
            name: f"<{upload.filename}, {len(upload.data)} bytes>" for name, upload in self.uploads.items()
        }
        return {**self.fields, **files}


async def read_params(request: web.Request) -> Params:
    """Read a call. An upload over 50 MB is read to its end, then refused: the caller gets the answer.

    Raises:
        ApiError: 413 when too large, 400 when a field is not UTF-8.
    """
    params = Params(fields=dict(request.query))
    try:
        if request.content_type == "multipart/form-data":
            await _read_multipart(request, params)
        elif request.content_type == "application/json":
            params.fields.update(_from_json(await request.read()))
        elif request.can_read_body:
            body = (await request.read()).decode("ascii")
            params.fields.update(parse_qsl(body, keep_blank_values=True, errors="strict"))
    except UnicodeDecodeError as error:
        raise not_utf8() from error
    except web.HTTPRequestEntityTooLarge as error:
        raise too_large() from error
    return params


def not_utf8() -> ApiError:
    return bad_request("strings must be encoded in UTF-8")


def too_large() -> ApiError:
    return ApiError(413, "Request Entity Too Large")


async def _read_multipart(request: web.Request, params: Params) -> None:
    total = 0
    async for part in await request.multipart():
        if not isinstance(part, BodyPartReader) or part.name is None:
            continue
        data = bytearray()
        limit = MAX_UPLOAD if part.filename is not None else MAX_FIELD
        while chunk := await part.read_chunk(256 * 1024):
            total += len(chunk)
            if len(data) <= limit:
                data += chunk
        if len(data) > limit:
            total = MAX_UPLOAD + 1
        if part.filename is None:
            params.fields[part.name] = data.decode()
        else:
            params.uploads[part.name] = Upload(part.filename, bytes(data))
    if total > MAX_UPLOAD:
        raise too_large()


def _from_json(body: bytes) -> dict[str, str]:
    try:
        read = json.loads(body)
    except json.JSONDecodeError as error:
        raise bad_request("can't parse JSON object") from error
    if not isinstance(read, dict):
        raise bad_request("object expected")
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in read.items()}


def message_text(params: Params) -> Formatted:
    """Return the text of a message.

    Raises:
        ApiError: 400 when it is empty, over 4096 after parsing, or its HTML is broken.
    """
    formatted = formatted_text(params.text("text"), params.text("parse_mode"), params.json("entities"))
    if not formatted.text:
        raise bad_request("message text is empty")
    if units(formatted.text) > MAX_TEXT:
        raise bad_request("message is too long")
    return formatted


def caption(text: str, parse_mode: str, entities: list[Entity] | None) -> Formatted:
    """Return the caption of a video or photo; it may be empty.

    Raises:
        ApiError: 400 when it is over 1024 after parsing, or its HTML is broken.
    """
    formatted = formatted_text(text, parse_mode, entities)
    if units(formatted.text) > MAX_CAPTION:
        raise bad_request("message caption is too long")
    return formatted


def formatted_text(text: str, parse_mode: str, entities: list[Entity] | None) -> Formatted:
    """Return a text with its entities, trimmed, of any length.

    Raises:
        ApiError: 400 when its HTML is broken or the parse mode is not read here.
    """
    match parse_mode.lower():
        case "html":
            read = parse_html(text)
        case "" | "none":
            read = Formatted(text, _given(entities))
        case _:
            raise bad_request(f'unsupported parse_mode "{parse_mode}": the sandbox reads HTML only')
    return with_found(trimmed(read))


def _given(entities: list[Entity] | None) -> list[Entity]:
    for entity in entities or []:
        if not isinstance(entity, dict) or not {"type", "offset", "length"} <= entity.keys():
            raise bad_request("can't parse MessageEntity: type, offset and length are needed")
    return list(entities or [])
