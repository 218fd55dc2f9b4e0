"""Job folders and locks."""

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


JobVerdict = Literal["made", "failed", "cancelled"]
_JOB_ID = re.compile(r"local-[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class JobFolder:
    """Everything that is known about one job. Whoever changes more than the progress holds `lock`."""

    path: Path

    @classmethod
    def of(cls, root: Path, job_id: str) -> "JobFolder | None":
        """The folder of an accepted job, or None where the id is unknown (or not an id at all)."""
        job = cls(root / "jobs" / job_id)
        return job if _JOB_ID.fullmatch(job_id) and job.order is not None else None

    @property
    def job_id(self) -> str:
        return self.path.name

    @property
    def lock(self) -> Path:
        """Held by the renderer as long as it lives."""
        return self.path / "renderer.lock"

    @property
    def video(self) -> Path:
        return self.path / "video.mp4"

    @property
    def order(self) -> dict[str, Any] | None:
        """`{key, body, micros, at}`; `body` holds the fields of the take that are sent."""
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
        """What became of it, or None while it is open. A video that is there outweighs a late cancel."""
        if self.video.is_file():
            return "made"
        if self.failure is not None:
            return "failed"
        return "cancelled" if self.cancelled else None

    @property
    def failure(self) -> str | None:
        """Why there will be no video, in words for operators."""
        found = read_json(self.path / "failed.json")
        return None if found is None else str(found.get("why"))

    def fail(self, why: str) -> None:
        write_json(self.path / "failed.json", {"why": why})

    @property
    def cancelled(self) -> bool:
        return (self.path / "cancelled.json").exists()

    def cancel(self) -> None:
        write_json(self.path / "cancelled.json", {})

    @property
    def starts(self) -> int:
        """How many renderers were started and did not end in an orderly way (the one at work counts)."""
        found = read_json(self.path / "starts.json")
        return 0 if found is None else int(found.get("starts", 0))

    def count_start(self, change: int) -> None:
        write_json(self.path / "starts.json", {"starts": max(0, self.starts + change)})

    @property
    def progress(self) -> int:
        """Whole per cent, 0 to 99."""
        found = read_json(self.path / "progress.json")
        return 0 if found is None else int(found.get("percent", 0))

    def report(self, percent: int, pid: int) -> None:
        """Say how far the renderer `pid` is; not worth an fsync."""
        write_json(self.path / "progress.json", {"percent": percent, "pid": pid}, durable=False)

    @property
    def renderer_pid(self) -> int | None:
        """The renderer that reported last; it may have ended."""
        found = read_json(self.path / "progress.json")
        return None if found is None else int(found["pid"])
