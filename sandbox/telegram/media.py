"""Media of calls and of people's messages: uploads and file ids, sizes of photos, covers, thumbnails."""

import asyncio
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from sandbox.telegram.base import bad_request
from sandbox.telegram.files import FileStore, StoredFile, has_sound, is_jpeg, is_mp4, picture_size
from sandbox.telegram.html import Formatted
from sandbox.telegram.params import Params, Upload

MAX_PHOTO = 10 * 1024 * 1024
MAX_THUMBNAIL = 200 * 1024
MAX_PHOTO_SIDES = 10_000
MAX_PHOTO_RATIO = 20
PHOTO_SIDES = (90, 320, 800, 1280)
"""The longer side of the smaller copies of a photo in pixels; a copy is made where the photo is larger."""
LARGEST_SIDE = 2560
KINDS = ("video", "animation", "document", "photo", "voice", "sticker")
"""The fields of a Message that hold media."""
MEDIA_FIELDS = (*KINDS, "has_media_spoiler", "show_caption_above_media")


@dataclass(frozen=True)
class Media:
    """The media of a call.

    Attributes:
        source: A file id or `attach://token`.
        about: The declared width, height and duration.
        cover: A picture to show in place of the first frame, like `source`.
        start: From which second a video plays.
        spoiler: Whether it is covered until it is tapped.
        above: Whether the caption stands above it.
    """

    kind: str
    source: str
    thumbnail: str = ""
    about: dict[str, int] = field(default_factory=dict)
    cover: str = ""
    start: int = 0
    spoiler: bool = False
    above: bool = False


async def media_fields(files: FileStore, params: Params, media: Media) -> dict[str, Any]:
    """Return the fields of a Message that hold this media.

    Raises:
        ApiError: 400 when there is no file, or an unknown or broken one.
    """
    if not media.source:
        raise bad_request(f"there is no {media.kind} in the request")
    upload = params.upload(media.source)
    file = _known(files, media.source) if upload is None else await _keep(files, params, media, upload)
    shown = _fields(files, file)
    if file.kind == "video":
        shown["video"] |= await _cover(files, params, media)
    spoiler = {"has_media_spoiler": True} if media.spoiler else {}
    return {**shown, **spoiler, **({"show_caption_above_media": True} if media.above else {})}


def caption_fields(formatted: Formatted) -> dict[str, Any]:
    if not formatted.text:
        return {}
    marked = {"caption_entities": formatted.entities} if formatted.entities else {}
    return {"caption": formatted.text, **marked}


def media_of(message: dict[str, Any]) -> dict[str, Any]:
    return {name: message[name] for name in MEDIA_FIELDS if name in message}


async def sent_file(
    files: FileStore, kind: str, data: bytes, name: str, about: dict[str, Any]
) -> dict[str, Any]:
    """Store what a person sends, and return the fields of a Message that hold it.

    Raises:
        ApiError: 400 when a photo is not a picture.
    """
    upload = Upload(name, data)
    if kind == "photo":
        return _fields(files, await _keep_photo(files, upload))
    return _fields(files, await files.save(kind, data, name, about))


def _known(files: FileStore, source: str) -> StoredFile:
    if source.startswith("attach://"):
        raise bad_request("there is no file in the request for " + source)
    if source.startswith(("http://", "https://")):
        raise bad_request("failed to get HTTP URL content")
    file = files.find(source)
    if file is None:
        raise bad_request("wrong file identifier/HTTP URL specified")
    return file


def _fields(files: FileStore, file: StoredFile) -> dict[str, Any]:
    if file.kind == "photo":
        return {"photo": [size.json() for size in files.sizes(file)]}
    # An animation is also sent as a document, for bots that do not know animations.
    return {file.kind: file.json(), **({"document": file.json()} if file.kind == "animation" else {})}


async def _keep(files: FileStore, params: Params, media: Media, upload: Upload) -> StoredFile:
    if not upload.data:
        raise bad_request("file must be non-empty")
    if media.kind == "photo":
        return await _keep_photo(files, upload)
    thumbnail = await _keep_thumbnail(files, params.upload(media.thumbnail))
    if media.kind == "document" or not is_mp4(upload.data):
        return await files.save("document", upload.data, upload.filename, thumbnail)
    # Telegram goes by bytes: an MP4 with sound is a video, one without an animation.
    kind = "video" if has_sound(upload.data) else "animation"
    sizes = {name: media.about.get(name, 0) for name in ("width", "height", "duration")}
    return await files.save(kind, upload.data, upload.filename, {**sizes, **thumbnail})


async def _cover(files: FileStore, params: Params, media: Media) -> dict[str, Any]:
    start = {"start_timestamp": media.start} if media.start else {}
    if not media.cover:
        return start
    upload = params.upload(media.cover)
    file = _known(files, media.cover) if upload is None else await _keep_photo(files, upload)
    if file.kind != "photo":
        raise bad_request("type of file mismatch")
    return {"cover": [size.json() for size in files.sizes(file)], **start}


async def _keep_photo(files: FileStore, upload: Upload) -> StoredFile:
    """Store a photo and its smaller copies; return the largest."""
    size = picture_size(upload.data)
    if len(upload.data) > MAX_PHOTO:
        raise bad_request("PHOTO_SAVE_FILE_INVALID")
    if size is None:
        raise bad_request("IMAGE_PROCESS_FAILED")
    if sum(size) > MAX_PHOTO_SIDES or max(size) > MAX_PHOTO_RATIO * max(min(size), 1):
        raise bad_request("PHOTO_INVALID_DIMENSIONS")
    copies = await asyncio.to_thread(_copies, upload, size)
    kept = [
        await files.save("photo", copy.data, copy.filename, dict(zip(("width", "height"), side, strict=True)))
        for copy, side in copies
    ]
    return files.join(kept)[-1]


def _copies(upload: Upload, size: tuple[int, int]) -> list[tuple[Upload, tuple[int, int]]]:
    """Return the photo in Telegram's sizes, smallest first; the last is the photo itself if it fits."""
    sides = [side for side in PHOTO_SIDES if max(size) > side]
    whole = [] if max(size) > LARGEST_SIDE else [(upload, size)]
    wanted = sides if whole else [*sides, LARGEST_SIDE]
    if not wanted:
        return whole
    try:
        with Image.open(io.BytesIO(upload.data)) as opened:
            picture = opened.convert("RGB")
    except (OSError, ValueError) as error:
        raise bad_request("IMAGE_PROCESS_FAILED") from error
    return [*(_reduced(picture, upload, side) for side in wanted), *whole]


def _reduced(picture: Image.Image, upload: Upload, side: int) -> tuple[Upload, tuple[int, int]]:
    smaller = picture.copy()
    smaller.thumbnail((side, side))
    written = io.BytesIO()
    smaller.save(written, "JPEG", quality=85)
    return Upload(f"{Path(upload.filename).stem}.jpg", written.getvalue()), smaller.size


async def _keep_thumbnail(files: FileStore, upload: Upload | None) -> dict[str, Any]:
    """Store a thumbnail; one that is not a JPEG or over 200 kB is ignored, as Telegram does."""
    if upload is None or not is_jpeg(upload.data) or len(upload.data) > MAX_THUMBNAIL:
        return {}
    width, height = picture_size(upload.data) or (0, 0)
    if not 0 < max(width, height) <= 320:
        return {}
    kept = await files.save("thumbnail", upload.data, upload.filename, {"width": width, "height": height})
    return {"thumbnail": kept.json()}
