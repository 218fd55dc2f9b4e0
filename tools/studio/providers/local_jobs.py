"""The folder of one job of the local provider: its order, how far it is, and what became of it.

Light on purpose: the renderer's process imports it, too.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ledger.money import Money
from tools.studio.providers.local_files import read_json, write_json

Verdict = Literal["made", "failed", "cancelled"]
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
    def verdict(self) -> Verdict | None:
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
