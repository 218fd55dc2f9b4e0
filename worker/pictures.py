"""Files of people's pictures: in a folder of each person within MEDIA_DIR, for a day.

A file is written before its request is, so no request waits for a file that never comes. It is named after
the request and its own hash, is for the owner of the process alone, and is in no backup (docs/operations.md).
"""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final
from uuid import uuid4, uuid5

from ledger.due_work import ClaimedVideo
from ledger.models import provider_key
from providers.base import Picture, Provider, VideoRequest
from providers.pictures import digest
from telemetry.logs import get_logger
from telemetry.redaction import NAMESPACE
from worker.context import WorkerContext

log = get_logger(__name__)

KEPT_S: Final = 86_400
"""How long a picture is kept, whatever became of its request."""

_FOLDER: Final = "pictures"
_TRIES: Final = 3


class PictureGone(Exception):
    """The picture of an order cannot be sent along; the text says why, for operators."""


def folder_of(media: Path, user_id: int) -> Path:
    """Return the folder of one person's pictures. Its name does not show whose it is."""
    return media / _FOLDER / uuid5(NAMESPACE, f"pictures:{user_id}").hex


def picture_path(media: Path, user_id: int, request_id: str, sha256: str) -> Path:
    """Return the path of a request's picture: the same in every process."""
    return folder_of(media, user_id) / f"{provider_key(request_id)}.{sha256[:16]}.jpg"


async def save_picture(media: Path, user_id: int, request_id: str, picture: Picture) -> None:
    """Write a request's picture; it is on disk when this returns. Repeating it changes nothing.

    Raises:
        OSError: The folder does not take it.
    """
    await asyncio.to_thread(_save, picture_path(media, user_id, request_id, picture.sha256), picture.data)


def _save(path: Path, data: bytes) -> None:
    for left in reversed(range(_TRIES)):
        part = path.with_name(f".{uuid4().hex}.part")
        try:
            path.parent.parent.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:  # noqa: PTH123
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except FileNotFoundError:  # another process has just removed the empty folder
            if not left:
                raise
        except OSError:
            part.unlink(missing_ok=True)
            raise
        else:
            return


async def load_picture(media: Path, user_id: int, request_id: str, sha256: str) -> Picture | None:
    """Return a request's picture; None if its file is gone, or is not what was ordered.

    Raises:
        OSError: The folder cannot be read now.
    """
    try:
        data = await asyncio.to_thread(picture_path(media, user_id, request_id, sha256).read_bytes)
    except FileNotFoundError:
        return None
    return Picture(data, sha256) if digest(data) == sha256 else None


async def copy_picture(media: Path, user_id: int, from_id: str, to_id: str, sha256: str) -> bool:
    """Store the picture of one request for another one of the same person; return whether it is still there.

    Raises:
        OSError: The folder does not take it.
    """
    picture = await load_picture(media, user_id, from_id, sha256)
    if picture is None:
        return False
    await save_picture(media, user_id, to_id, picture)
    return True


async def remove_picture(media: Path, user_id: int, request_id: str, sha256: str) -> None:
    """Remove the picture of one request."""
    await asyncio.to_thread(picture_path(media, user_id, request_id, sha256).unlink, missing_ok=True)


async def forget_pictures(media: Path, user_id: int) -> int:
    """Remove every picture of one person at once; return how many there were.

    Orders that still wait for one end unpaid with a word. What a provider got before is not ours to remove.

    Raises:
        OSError: The folder cannot be changed now.
    """
    return await asyncio.to_thread(_forget, folder_of(media, user_id))


def _forget(folder: Path) -> int:
    count = sum(1 for path in _files(folder) if path.suffix == ".jpg")
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    return count


async def remove_old_pictures(ctx: WorkerContext) -> None:
    """Remove the pictures that are older than `KEPT_S`; every worker does so, again and again."""
    removed = await asyncio.to_thread(_remove_old, ctx.media_dir / _FOLDER, time.time() - KEPT_S)
    if removed:
        log.info("old pictures removed", count=removed)


def _remove_old(root: Path, before: float) -> int:
    removed = 0
    for folder in _files(root):
        for path in _files(folder):
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        with suppress(OSError):  # it is not empty
            folder.rmdir()
    return removed


def _files(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from list(folder.iterdir())


async def with_picture(
    ctx: WorkerContext, provider: Provider, order: ClaimedVideo, video_request: VideoRequest
) -> VideoRequest:
    """Return what is sent for an order, its picture included; a replay gets the same bytes.

    Raises:
        PictureGone: It has a picture that cannot be sent along, so nothing may be sent.
        OSError: The folder cannot be read now.
    """
    video = order.video
    if order.picture is None and video.picture is None:
        return video_request
    if video.picture is None or video.picture != order.picture:
        raise PictureGone("the order was placed without the picture of its request")
    if video.asks_for_rights:
        raise PictureGone("its person has not said that they may use it")
    if not provider.capabilities.pictures:
        raise PictureGone(f"{provider.name} takes no pictures any more")
    picture = await load_picture(ctx.media_dir, video.user_id, video.request_id, video.picture)
    if picture is None:
        raise PictureGone("its file is gone, or is not the one that was ordered")
    return replace(video_request, picture=picture)
