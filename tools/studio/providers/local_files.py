"""Small files that survive a crash, and locks that end with the process that holds them."""

import contextlib
import fcntl
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write_json(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """Replace `path` by `value` in one step; `durable` also survives a power cut.

    Raises:
        OSError: The disk refused; the old file stands and no part file stays.
    """
    part = path.with_name(f"{path.name}.part-{uuid.uuid4().hex}")
    try:
        with part.open("w", encoding="ascii") as file:
            json.dump(value, file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in `path`, or None where there is none (or only a torn one)."""
    try:
        value = json.loads(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of `path` and hold it; other processes that ask wait too."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def try_lock(path: Path) -> int | None:
    """Take the lock of `path` if nobody holds it.

    Returns:
        The file descriptor that holds it, to be closed by the caller. A child that inherits the descriptor
        holds the same lock, and the system gives it back when the last of them ends, however it ends.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return handle
