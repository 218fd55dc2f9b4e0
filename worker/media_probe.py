"""Whether the media folder takes a file: asked at start, by `doctor`, and before an order is paid."""

import asyncio
import contextlib
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Final

from providers.video_file import DISK_FULL_TEXT, MAX_DOWNLOAD_BYTES, MAX_SEND_BYTES, disk_error_text

MIN_FREE_BYTES: Final = MAX_DOWNLOAD_BYTES + 2 * MAX_SEND_BYTES
"""Room for the largest film that is downloaded, for its smaller copy, and for one more of usual size."""

_PROBE_BYTES: Final = bytes(64 * 1024)
_TIMEOUT_S: Final = 10.0
_VALID_S: Final = 5.0


def probe_folder(folder: Path, min_free_bytes: int = MIN_FREE_BYTES) -> str:
    """Write, sync and remove a file; return what is wrong in plain words, empty if nothing is. Blocking."""
    probe = folder / f".probe-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with probe.open("xb") as file:
            file.write(_PROBE_BYTES)
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return disk_error_text(error)
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)
    if free < min_free_bytes:
        return f"{free:,} bytes are free there, and {min_free_bytes:,} are needed"
    return ""


def refuses_files(folder: Path) -> str:
    """Return what is wrong with a folder that time alone does not mend; empty for a full one. Blocking."""
    fault = probe_folder(folder, 0)
    return "" if fault == DISK_FULL_TEXT else fault


class MediaProbe:
    """Asks `probe_folder` for one process; a good answer counts for some seconds, a bad one never.

    Args:
        folder: The media folder.
        min_free_bytes: Less free space than this is a fault.
    """

    def __init__(self, folder: Path, min_free_bytes: int = MIN_FREE_BYTES) -> None:
        self._folder, self.min_free_bytes = folder, min_free_bytes
        self._good_until = 0.0
        self._lock = asyncio.Lock()

    async def fault(self) -> str:
        """Return what is wrong with the folder in plain words; empty if it takes files."""
        async with self._lock:
            if time.monotonic() < self._good_until:
                return ""
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    found = await asyncio.to_thread(probe_folder, self._folder, self.min_free_bytes)
            except TimeoutError:
                return f"a file was not written within {_TIMEOUT_S:g} s"
            if not found:
                self._good_until = time.monotonic() + _VALID_S
            return found
