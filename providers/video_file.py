"""Video files: written atomically, checked, probed, and given a thumbnail and a cover."""

import asyncio
import contextlib
import errno
import os
import threading
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Final

import av
from PIL import Image, ImageFilter, ImageStat

from providers.base import Asset, BadAsset, StorageFault, TooBig
from providers.reencode import shrink

THUMBNAIL_PIXELS = 320
THUMBNAIL_BYTES = 200_000  # Telegram refuses larger ones
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DISK_FULL_TEXT = "the disk is full"
_NOT_WRITABLE_ERRNOS = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
DISK_ERRNOS = DISK_FULL_ERRNOS | _NOT_WRITABLE_ERRNOS | {errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE}
MAX_DOWNLOAD_BYTES = 500_000_000
"""A video of a minute takes less, unless something is wrong with it."""
MAX_SEND_BYTES = 50_000_000
"""What Telegram's own Bot API takes from a bot."""
_MAGIC_BYTES = 12


async def save_video(
    chunks: AsyncIterator[bytes],
    into: Path,
    cap_bytes: int = MAX_DOWNLOAD_BYTES,
    send_bytes: int = MAX_SEND_BYTES,
) -> Asset:
    """Stream a video to `into` and return it probed, with a thumbnail next to it if one could be made.

    Each call writes a part file of its own, so several callers may save the same asset at once. One rename
    puts it at `into`, after fsync and after the first frame was decoded. A video that is larger than
    `send_bytes` is encoded again at a lower bit rate before that: what was paid can be delivered.

    Args:
        chunks: The bytes in order. Errors of this iterator are raised unchanged.
        into: The final path; its folder is created if it is missing.
        cap_bytes: A larger video is not downloaded.
        send_bytes: A larger video is made smaller.

    Raises:
        BadAsset: Not a complete MP4 video.
        TooBig: It is larger than `cap_bytes`, or could not be made smaller.
        StorageFault: Our own disk refused it. No part file is left, whatever is raised.
    """
    part = into.with_name(f"{into.name}.part-{uuid.uuid4().hex}")
    stop = threading.Event()
    try:
        await _write_part(chunks, part, cap_bytes)
        return await asyncio.to_thread(_finalize, part, into, send_bytes, stop)
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def probe(path: Path) -> Asset:
    """Open the file, decode its first frame and measure it. Blocking: call it in a thread.

    Raises:
        BadAsset: It is missing, truncated, not an MP4, or holds no picture that can be decoded.
    """
    with _readable(path):
        size = path.stat().st_size
        with path.open("rb") as file:
            _check_magic(file.read(_MAGIC_BYTES))
            _check_boxes(file, size)
        with av.open(os.fspath(path)) as container:
            if not container.streams.video:
                raise BadAsset("the file holds no video track")
            stream = container.streams.video[0]
            frame = next(container.decode(stream), None)
            if frame is None:
                raise BadAsset("the video track holds no picture")
            length = stream.duration * stream.time_base if stream.duration and stream.time_base else 0
            seconds = float(length or (container.duration or 0) / av.time_base)
    if seconds <= 0:
        raise BadAsset("the video has no length")
    still = path.with_suffix(".jpg")
    return Asset(path, still if still.is_file() else None, seconds, frame.width, frame.height, size)


COVER_SUFFIX: Final = ".cover.jpg"
"""Of the picture that people see before they play the video: a sharp frame in its full size."""

FILE_SUFFIXES: Final = (".mp4", ".jpg", COVER_SUFFIX)
"""Of all files of one video: itself, its thumbnail, its cover."""

_LOOKED_AT: Final = 6
"""Frames of a video, spread over it, of which the sharpest becomes its cover."""


def stills(path: Path) -> tuple[Path, Path]:
    """Write the thumbnail (`.jpg`) and the cover (`COVER_SUFFIX`) of a video next to it.

    The thumbnail is within Telegram's limits: at most 320 pixels on its longer side and 200 kB. Blocking:
    call it in a thread.

    Raises:
        BadAsset: The video does not open.
        StorageFault: A picture could not be written.
    """
    with _readable(path):
        picture = _sharpest_frame(path)
    cover = _write_jpeg(picture, path.with_suffix(COVER_SUFFIX), (92,), None)
    with _readable(path):
        picture.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.LANCZOS)
    return _write_jpeg(picture, path.with_suffix(".jpg"), (88, 70, 40), THUMBNAIL_BYTES), cover


def _write_jpeg(picture: Image.Image, target: Path, qualities: Sequence[int], most: int | None) -> Path:
    """Write a JPEG in the best of these qualities that has at most so many bytes."""
    part = target.with_name(f"{target.name}.part-{uuid.uuid4().hex}")
    try:
        with _writable(target):
            for quality in qualities:
                picture.save(part, "JPEG", quality=quality, optimize=True)
                if most is None or part.stat().st_size <= most:
                    break
            part.replace(target)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
    return target


def sync_folder(folder: Path) -> None:
    """Sync `folder`, so that a rename inside it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_error_text(error: OSError) -> str:
    """Return in plain words what a disk refused, without paths."""
    if error.errno in DISK_FULL_ERRNOS:
        return DISK_FULL_TEXT
    if error.errno in _NOT_WRITABLE_ERRNOS:
        return "the folder cannot be written to"
    return f"the disk refused: {error.strerror or type(error).__name__}"


async def _write_part(chunks: AsyncIterator[bytes], part: Path, cap_bytes: int) -> None:
    with _writable(part):
        part.parent.mkdir(parents=True, exist_ok=True)
        file = part.open("xb")
    received = 0
    try:
        async for chunk in chunks:
            received += len(chunk)
            if received > cap_bytes:
                raise TooBig(f"the video is larger than the {cap_bytes:,} bytes allowed")
            with _writable(part):
                await asyncio.to_thread(file.write, chunk)
        with _writable(part):
            await asyncio.to_thread(_flush, file)
    finally:
        with contextlib.suppress(OSError):  # a full disk raises again when the buffer is flushed
            file.close()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _finalize(part: Path, into: Path, send_bytes: int, stop: threading.Event) -> Asset:
    asset = probe(part)
    if asset.bytes > send_bytes:
        _make_smaller(part, asset.seconds, send_bytes, stop)
        asset = probe(part)
    with _writable(into):
        part.replace(into)
        sync_folder(into.parent)
    still = None
    with contextlib.suppress(BadAsset, StorageFault):  # without a picture it is still what was paid for
        still, _ = stills(into)
    return replace(asset, path=into, thumbnail=still)


def _make_smaller(part: Path, seconds: float, send_bytes: int, stop: threading.Event) -> None:
    """Replace the film at `part` by a smaller one."""
    smaller = part.with_name(f"{part.name}-smaller")
    try:
        with _writable(part):
            try:
                shrink(part, smaller, seconds, send_bytes, stop)
            except av.FFmpegError as error:
                if _is_of_the_disk(error):
                    raise
                raise BadAsset(f"the video cannot be made smaller: {_first_words(error)}") from error
            with smaller.open("rb+") as file:
                os.fsync(file.fileno())
            smaller.replace(part)
    finally:
        with contextlib.suppress(OSError):
            smaller.unlink(missing_ok=True)


def _sharpest_frame(path: Path) -> Image.Image:
    """Return the frame with the most detail of a few: videos begin with black, and blur while they move."""
    found: list[Image.Image] = []
    with av.open(os.fspath(path)) as container:
        stream = container.streams.video[0]
        length = (container.duration or 0) / av.time_base
        for frame in container.decode(stream):
            if (frame.time or 0) >= length * len(found) / _LOOKED_AT:
                image: Image.Image = frame.to_image()  # type: ignore[no-untyped-call]  # PyAV leaves it so
                found.append(image.convert("RGB"))
            if len(found) == _LOOKED_AT:
                break
    if not found:
        raise BadAsset("the video track holds no picture")
    return max(found, key=_detail)


def _detail(picture: Image.Image) -> float:
    """Return how much the edges of a picture vary, which blur and darkness lessen."""
    small = picture.convert("L")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS))
    return float(ImageStat.Stat(small.filter(ImageFilter.FIND_EDGES)).var[0])


def _check_magic(head: bytes) -> None:
    if head[4:8] == b"ftyp":
        return
    start = head.lstrip().lower()
    if not head:
        found = "is empty"
    elif start.startswith(b"<"):
        found = "is HTML or XML"
    elif start.startswith((b"{", b"[")):
        found = "is JSON"
    else:
        found = "does not begin with an ftyp box"
    raise BadAsset(f"what was fetched {found}, not an MP4 video")


def _check_boxes(file: BinaryIO, size: int) -> None:
    """Check the top-level boxes: with its index at the front, a truncated file opens like a complete one."""
    offset, kinds = 0, set()
    while offset + 8 <= size:
        file.seek(offset)
        header = file.read(16)
        length, kind = int.from_bytes(header[:4]), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16])
        length = length or size - offset
        if length < 8 or offset + length > size:
            raise BadAsset(f"the video is cut: {size:,} bytes arrived, its parts need more")
        kinds.add(kind)
        offset += length
    if missing := {b"moov", b"mdat"} - kinds:
        raise BadAsset(f"the video is cut: its {min(missing).decode()} part is missing")


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise BadAsset(f"there is no file {path.name}") from None
    except (av.FFmpegError, OSError, ValueError) as error:
        if isinstance(error, OSError) and _is_of_the_disk(error):
            raise StorageFault(f"{path.name} was not read: {disk_error_text(error)}") from error
        raise BadAsset(f"the file does not open as a video: {_first_words(error)}") from error


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        name = path.name.split(".part-")[0]
        raise StorageFault(f"{name} was not written: {disk_error_text(error)}") from error


def _is_of_the_disk(error: OSError | av.FFmpegError) -> bool:
    """Return whether the disk refused, and not the film: FFmpeg's own errors are partly of the same types."""
    return error.errno in DISK_ERRNOS


def _first_words(error: Exception) -> str:
    """Return the reason without the path that FFmpeg and the system add to it."""
    return getattr(error, "strerror", None) or type(error).__name__
