"""A job as a folder of small JSON files, and file locks that the system releases when a process dies."""

import contextlib
import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from guardrails.money import Money


def write_json(path: Path, value: dict[str, Any], *, durable: bool = True) -> None:
    """Replace `path` by `value` in one step; `durable` also survives a power cut.

    Raises:
        OSError: The disk refused; the old file stays and no part file remains.
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
    """Hold the exclusive lock of `path` inside the block; waits for other processes."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def try_lock(path: Path) -> int | None:
    """Acquire the lock of `path` if it is free.

    Returns:
        The file descriptor that holds it, to be closed by the caller; None if it is held elsewhere. A child
        that inherits the descriptor holds the same lock; the system releases it when the last holder ends.
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


PICTURE_NAME = "picture.jpg"
JobVerdict = Literal["made", "failed"]
_JOB_ID = re.compile(r"local-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class JobFolder:
    """The folder of one job. A process that changes more than the progress must hold `lock`."""

    path: Path

    @classmethod
    def of(cls, root: Path, job_id: str) -> "JobFolder | None":
        """Return the folder of an accepted job; None if the id is unknown or invalid."""
        job = cls(root / "jobs" / job_id)
        return job if _JOB_ID.fullmatch(job_id) and job.order is not None else None

    @property
    def job_id(self) -> str:
        return self.path.name

    @property
    def lock(self) -> Path:
        """Held by the renderer as long as it runs."""
        return self.path / "renderer.lock"

    @property
    def video(self) -> Path:
        return self.path / "video.mp4"

    @property
    def picture(self) -> Path | None:
        """The picture to animate: a JPEG or PNG in this folder, named by the order's optional `picture`."""
        name = (self.order or {"body": {}})["body"].get("picture")
        return self.path / Path(name).name if name else None

    @property
    def order(self) -> dict[str, Any] | None:
        """`{key, body, micros, at}`; `body` holds the sent fields of the request, and perhaps `picture`."""
        return read_json(self.path / "order.json")

    def write_order(self, key: str, body: dict[str, Any], price: Money, at: float) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "order.json", {"key": key, "body": body, "micros": price.micros, "at": at})

    def forget_order(self) -> None:
        (self.path / "order.json").unlink(missing_ok=True)

    @property
    def price(self) -> Money:
        order = self.order
        return Money(int(order["micros"])) if order else Money(0)

    @property
    def verdict(self) -> JobVerdict | None:
        """The outcome, or None while it is open. An existing video outweighs a failure."""
        if self.video.is_file():
            return "made"
        return None if self.failure is None else "failed"

    @property
    def failure(self) -> str | None:
        """Why there will be no video, for operators."""
        found = read_json(self.path / "failed.json")
        return None if found is None else str(found.get("why"))

    def fail(self, why: str) -> None:
        write_json(self.path / "failed.json", {"why": why})
        self.drop_picture()

    def write_picture(self, data: bytes) -> None:
        """Write the person's picture, under the name that the order gives it."""
        self.path.mkdir(parents=True, exist_ok=True)
        path = self.path / PICTURE_NAME
        path.touch(mode=0o600)
        path.write_bytes(data)

    def drop_picture(self) -> None:
        """Remove the person's picture: nothing is rendered any more."""
        with contextlib.suppress(OSError):
            (self.path / PICTURE_NAME).unlink(missing_ok=True)

    @property
    def starts(self) -> int:
        """How many renderers were started and did not exit cleanly; a running one counts."""
        found = read_json(self.path / "starts.json")
        return 0 if found is None else int(found.get("starts", 0))

    def count_start(self, change: int) -> None:
        write_json(self.path / "starts.json", {"starts": max(0, self.starts + change)})

    @property
    def progress(self) -> int:
        """Percent, 0 to 99."""
        found = read_json(self.path / "progress.json")
        return 0 if found is None else int(found.get("percent", 0))

    def report(self, percent: int, pid: int) -> None:
        """Write the progress of the renderer `pid`, without fsync."""
        write_json(self.path / "progress.json", {"percent": percent, "pid": pid}, durable=False)

    @property
    def renderer_pid(self) -> int | None:
        """The process that reported last; it may have ended."""
        found = read_json(self.path / "progress.json")
        return None if found is None else int(found["pid"])
