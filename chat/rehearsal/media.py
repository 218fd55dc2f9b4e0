"""Videos and photos of a call: an upload is kept, a file id is found, anything else refused."""

from dataclasses import dataclass
from typing import Any

from chat.rehearsal.entities import Formatted
from chat.rehearsal.errors import bad_request
from chat.rehearsal.files import FileStore, StoredFile
from chat.rehearsal.forms import Params, Upload
from chat.rehearsal.sniffing import has_sound, is_jpeg, is_mp4, picture_size

MAX_PHOTO = 10 * 1024 * 1024
MAX_THUMBNAIL = 200 * 1024
SIDE_KINDS = ("video", "animation", "document", "photo")


@dataclass(frozen=True)
class Media:
    """What a call wants to show: `source` is a file id or `attach://token`, `about` the sent figures."""

    kind: str
    source: str
    thumbnail: str
    about: dict[str, int]


async def media_fields(files: FileStore, params: Params, media: Media) -> dict[str, Any]:
    """The part of a Message that shows this media.

    Raises:
        ApiError: 400 when there is no file, or an unknown or broken one.
    """
    if not media.source:
        raise bad_request(f"there is no {media.kind} in the request")
    upload = params.upload(media.source)
    if upload is None:
        return _fields(_known(files, media.source))
    if not upload.data:
        raise bad_request("file must be non-empty")
    if media.kind == "photo":
        return _fields(await _keep_photo(files, upload))
    return _fields(await _keep_video(files, params, media, upload))


def caption_fields(formatted: Formatted) -> dict[str, Any]:
    if not formatted.text:
        return {}
    marked = {"caption_entities": formatted.entities} if formatted.entities else {}
    return {"caption": formatted.text, **marked}


async def keep_picture(files: FileStore, data: bytes, name: str) -> StoredFile:
    """Keep a photo that a person sends.

    Raises:
        ApiError: 400 when it is no picture.
    """
    return await _keep_photo(files, Upload(name, data))


def _known(files: FileStore, source: str) -> StoredFile:
    if source.startswith("attach://"):
        raise bad_request("there is no file in the request for " + source)
    if source.startswith(("http://", "https://")):
        raise bad_request("failed to get HTTP URL content")
    file = files.find(source)
    if file is None:
        raise bad_request("wrong file identifier/HTTP URL specified")
    return file


def _fields(file: StoredFile) -> dict[str, Any]:
    if file.kind == "photo":
        return {"photo": [file.json()]}
    # An animation is a document as well, so that bots that do not know it still get something.
    return {file.kind: file.json(), **({"document": file.json()} if file.kind == "animation" else {})}


async def _keep_photo(files: FileStore, upload: Upload) -> StoredFile:
    size = picture_size(upload.data)
    if len(upload.data) > MAX_PHOTO:
        raise bad_request("PHOTO_SAVE_FILE_INVALID")
    if size is None:
        raise bad_request("IMAGE_PROCESS_FAILED")
    return await files.save("photo", upload.data, upload.filename, {"width": size[0], "height": size[1]})


async def _keep_video(files: FileStore, params: Params, media: Media, upload: Upload) -> StoredFile:
    """An MP4 with sound is a video, one without is an animation, anything else a document."""
    thumbnail = await _keep_thumbnail(files, params.upload(media.thumbnail))
    if not is_mp4(upload.data):
        return await files.save("document", upload.data, upload.filename, thumbnail)
    kind = "video" if has_sound(upload.data) else "animation"
    figures = {name: media.about.get(name, 0) for name in ("width", "height", "duration")}
    return await files.save(kind, upload.data, upload.filename, {**figures, **thumbnail})


async def _keep_thumbnail(files: FileStore, upload: Upload | None) -> dict[str, Any]:
    """A thumbnail that is no JPEG or over 200 kB is left out in silence, as Telegram does."""
    if upload is None or not is_jpeg(upload.data) or len(upload.data) > MAX_THUMBNAIL:
        return {}
    width, height = picture_size(upload.data) or (0, 0)
    if not 0 < max(width, height) <= 320:
        return {}
    kept = await files.save("thumbnail", upload.data, upload.filename, {"width": width, "height": height})
    return {"thumbnail": kept.json()}
