"""The folder of finished videos: its size, and the removal of files that were delivered long ago."""

import asyncio
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger import pruning
from ledger.database import Ledger
from ledger.models import provider_key
from providers.video_file import FILE_SUFFIXES
from telemetry import metrics


@dataclass(frozen=True, slots=True)
class FolderSize:
    """Files and bytes."""

    files: int = 0
    bytes: int = 0


def _entries(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and status of each file; a folder that is not there, or a file that goes, is left out."""
    with suppress(FileNotFoundError), os.scandir(folder) as found:
        for entry in found:
            with suppress(FileNotFoundError):
                if entry.is_file(follow_symlinks=False):
                    yield entry.name, entry.stat(follow_symlinks=False)


def folder_size(folder: Path) -> FolderSize:
    """Count the files of a folder; it takes about a second for 10⁵ of them."""
    sizes = [status.st_size for _, status in _entries(folder)]
    return FolderSize(len(sizes), sum(sizes))


async def remove_delivered(ledger: Ledger, folder: Path, days: int, *, dry_run: bool = False) -> FolderSize:
    """Remove the files of videos that were delivered more than `days` ago; return what that freed.

    Only files that are themselves older are considered, so a run costs as much as there is to remove. Videos
    in any other state keep theirs.
    """
    oldest = time.time() - days * 86_400
    old = {
        name: status.st_size
        for name, status in await asyncio.to_thread(lambda: list(_entries(folder)))
        if status.st_mtime < oldest and name.endswith(FILE_SUFFIXES)
    }
    before, until, freed = await pruning.cutoff(ledger, days), None, FolderSize()
    while old and (rows := await pruning.delivered_before(ledger, before, until)):
        for _, request_id in rows:
            for suffix in FILE_SUFFIXES:
                name = f"{provider_key(request_id)}{suffix}"
                if (size := old.pop(name, None)) is None:
                    continue
                if not dry_run:
                    (folder / name).unlink(missing_ok=True)
                freed = FolderSize(freed.files + 1, freed.bytes + size)
        until = rows[-1]
    return freed


_LEDGER_EVERY_S: Final = 60.0
_MEDIA_EVERY_S: Final = 600.0
_FIRST_WAIT_S: Final = 1.0


class SizeGauges:
    """Gauges of the sizes of ledger and media. Neither is measured at every scrape.

    The folder is counted in a thread; a scrape waits for it a second at most, and shows the last count.
    """

    def __init__(self, ledger: Ledger, media: Path) -> None:
        self._ledger, self._media = ledger, media
        self._ledger_at = self._media_at = -_MEDIA_EVERY_S
        self._counting: asyncio.Task[None] | None = None

    async def update(self) -> None:
        """Measure what was not measured for a while.

        Raises:
            SQLAlchemyError, OSError: The ledger is unavailable.
        """
        now = time.monotonic()
        if self._counting is None and now - self._media_at >= _MEDIA_EVERY_S:
            self._media_at = now
            self._counting = asyncio.create_task(self._count_media())
            await asyncio.wait({self._counting}, timeout=_FIRST_WAIT_S)
        if now - self._ledger_at >= _LEDGER_EVERY_S:
            size, _ = await pruning.database_bytes(self._ledger)
            metrics.LEDGER_BYTES.set(size)
            self._ledger_at = now

    async def _count_media(self) -> None:
        try:
            with suppress(OSError):  # the last count stays
                size = await asyncio.to_thread(folder_size, self._media)
                metrics.MEDIA_BYTES.set(size.bytes)
                metrics.MEDIA_FILES.set(size.files)
        finally:
            self._counting = None


async def disk_gauges(media: Path, var: Path, needed_bytes: int) -> None:
    """Set the gauges of the disks of this process. A folder that cannot be asked counts as full."""
    for name, folder in (("media", media), ("var", var)):
        metrics.DISK_FREE.set(await asyncio.to_thread(_free_bytes, folder), folder=name)
    metrics.DISK_NEEDED.set(needed_bytes)


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent  # it is made with its first file
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0
