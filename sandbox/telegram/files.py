"""Uploaded files: storage, file ids, and recognition of MP4, JPEG and PNG."""

import asyncio
import base64
import hashlib
import mimetypes
import struct
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sandbox.telegram.base import SandboxError, bad_request
from sandbox.telegram.storage import Archive, Counters

MAX_DOWNLOAD = 20 * 1024 * 1024
# Telegram's file ids have a common prefix for each kind of file; bots must not rely on it, people do.
PREFIXES = {
    "video": "BAACAgIAAx", "photo": "AgACAgIAAx", "document": "BQACAgIAAx", "animation": "CgACAgIAAx",
    "voice": "AwACAgIAAx", "sticker": "CAACAgIAAx",
}  # fmt: skip
NAMELESS = {"photo", "thumbnail", "sticker"}
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
MP4_BRAND_AT = slice(4, 8)
SOUND_HANDLER = b"soun"


@dataclass(frozen=True)
class StoredFile:
    """One file.

    Attributes:
        path: Relative to the media folder, and what getFile calls `file_path`.
        kind: Telegram's word for it: video, photo, animation, document, voice, sticker, thumbnail.
        about: Further fields of a message (width, height, duration …).
        family: The ids of all sizes of one photo, smallest first.
    """

    file_id: str
    unique_id: str
    path: str
    kind: str
    size: int
    mime: str
    name: str
    about: dict[str, Any]
    family: list[str] = field(default_factory=list)

    def json(self) -> dict[str, Any]:
        """Return the file as part of a Message."""
        base = {
            "file_id": self.file_id,
            "file_unique_id": self.unique_id,
            "file_size": self.size,
            **self.about,
        }
        if self.kind in NAMELESS:
            return base
        if self.kind == "voice":
            return {**base, "mime_type": self.mime}
        return {**base, "file_name": self.name, "mime_type": self.mime}


class FileStore:
    """Stores uploads under `folder`, by file id."""

    def __init__(self, folder: Path, archive: Archive, counters: Counters) -> None:
        self.folder = folder
        self._archive = archive
        self._counters = counters
        self._files = {key: StoredFile(**row) for key, row in archive.load("file").items()}

    async def save(self, kind: str, data: bytes, name: str, about: dict[str, Any]) -> StoredFile:
        """Store `data` under a new id; the same bytes sent twice are two files, as in Telegram."""
        number = self._counters.next("file")
        path = f"{kind}s/file_{number}{Path(name).suffix[:8]}"
        await asyncio.to_thread(_write, self.folder / path, data)
        digest = hashlib.sha256(f"{number}".encode() + data[:4096]).digest()
        file = StoredFile(
            file_id=PREFIXES.get(kind, "AAMCAgADGQ") + base64.urlsafe_b64encode(digest).decode().rstrip("="),
            unique_id="AQAD" + base64.urlsafe_b64encode(digest[:9]).decode(),
            path=path,
            kind=kind,
            size=len(data),
            mime=mimetypes.guess_type(name)[0] or "application/octet-stream",
            name=name,
            about=about,
        )
        return self._put(file)

    def join(self, sizes: list[StoredFile]) -> list[StoredFile]:
        """Note that these files are the sizes of one photo, smallest first."""
        family = [file.file_id for file in sizes]
        return [self._put(replace(file, family=family)) for file in sizes]

    def sizes(self, file: StoredFile) -> list[StoredFile]:
        """Return all sizes of a photo, smallest first; of another file, itself."""
        return [self._files[file_id] for file_id in file.family] or [file]

    def _put(self, file: StoredFile) -> StoredFile:
        self._files[file.file_id] = file
        self._archive.put("file", file.file_id, asdict(file))
        return file

    def find(self, file_id: str) -> StoredFile | None:
        return self._files.get(file_id)

    def by_path(self, path: str) -> StoredFile | None:
        return next((file for file in self._files.values() if file.path == path), None)

    def for_download(self, file_id: str) -> StoredFile:
        """Return the file for getFile.

        Raises:
            ApiError: 400 when it is unknown or over 20 MB.
        """
        file = self.find(file_id)
        if file is None:
            raise bad_request("invalid file_id")
        if file.size > MAX_DOWNLOAD:
            raise bad_request("file is too big")
        return file

    def on_disk(self, file: StoredFile) -> Path:
        return self.folder / file.path


def _write(path: Path, data: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise SandboxError(
            f"cannot keep an upload in {path}: {error}; free space or choose another folder"
        ) from error


def is_mp4(data: bytes) -> bool:
    return data[MP4_BRAND_AT] == b"ftyp"


def has_sound(data: bytes) -> bool:
    """Return whether an MP4 has a sound track; Telegram shows one without as an animation."""
    return SOUND_HANDLER in data


def is_jpeg(data: bytes) -> bool:
    return data.startswith(b"\xff\xd8\xff")


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a JPEG or PNG in pixels; None for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])
        return width, height
    return _jpeg_size(data) if is_jpeg(data) else None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker in JPEG_FRAMES:
            height, width = struct.unpack(">HH", data[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None
