"""The local provider's own bill: what it took and gave back, written by nobody else.

It plays the part of another company's invoice, so it is the oracle of tests, evals and the demo. Our
ledger never writes here.
"""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ledger.money import Money

Kind = Literal["charge", "refund"]


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the bill.

    Attributes:
        kind: `charge` once for an accepted job, `refund` at most once for a job that made no video.
        job_id: The provider's job.
        key: The idempotency key that was sent.
        micros: Rehearsal micro-dollars; negative for a refund, so that the sum is what was paid.
        at: Seconds since the epoch.
    """

    kind: Kind
    job_id: str
    key: str
    micros: int
    at: float


class ChargeLog:
    """An append-only file with one JSON object a line. Callers hold the provider's lock while they write."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Sequence[Charge]:
        """Every line, oldest first; none if nothing was ever accepted. A torn last line is no charge."""
        try:
            text = self.path.read_text(encoding="ascii")
        except FileNotFoundError:
            return ()
        return [Charge(**json.loads(line)) for line in text.splitlines() if line.endswith("}")]

    def total(self) -> Money:
        """What was paid in the end: charges less refunds."""
        return Money(sum(line.micros for line in self.lines()))

    def once(self, kind: Kind, job_id: str, key: str, amount: Money) -> None:
        """Write one line unless this job has one of this kind, and bring it to the disk.

        Raises:
            OSError: The disk refused; no part of the line stays.
        """
        if any(line.kind == kind and line.job_id == job_id for line in self.lines()):
            return
        micros = amount.micros if kind == "charge" else -amount.micros
        self._append(Charge(kind, job_id, key, micros, time.time()))

    def _append(self, charge: Charge) -> None:
        line = f"{json.dumps(asdict(charge))}\n".encode("ascii")
        handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":  # a crash tore the last line
                line = b"\n" + line
            try:
                if os.write(handle, line) != len(line):
                    raise OSError(28, "No space left on device")  # noqa: TRY301 - undone just below
                os.fsync(handle)
            except OSError:
                os.ftruncate(handle, size)
                raise
        finally:
            os.close(handle)
