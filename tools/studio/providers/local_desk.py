"""The local provider's desk: takes orders, charges and refunds them, and knows every job. All of it blocks.

Several processes may sit at it: whoever writes an order or a line of the bill holds `orders.lock`.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ledger.money import Money
from providers import base
from providers.base import Status, Take
from providers.download import disk_words
from tools.studio.providers.local_charges import ChargeLog
from tools.studio.providers.local_files import locked, try_lock
from tools.studio.providers.local_jobs import JobFolder

_STOP_S = 5.0


class Desk:
    """The blocking half of the local provider; its errors are the protocol's, or a plain OSError."""

    def __init__(self, root: Path) -> None:
        self.root, self.charges = root, ChargeLog(root / "charges.jsonl")

    def accept(self, take: Take, price: Money) -> JobFolder:
        """Write order and charge, in this order: a crash between them is mended by whoever asks next."""
        job, body, new = JobFolder(self.root / "jobs" / _job_id(take.key)), _body(take), False
        try:
            with self._locked():
                known = job.order
                if known is not None and json.dumps(known["body"]) != json.dumps(body):
                    raise base.Rejected(f"key {take.key} was used for another order", "invalid")
                if known is None:
                    job.write_order(take.key, body, price, time.time())
                    new = True
                self._charge(job, take.key)
        except OSError as error:
            if new and not _undone(job):
                raise base.InDoubt(f"accepted, but not charged: {disk_words(error)}") from error
            raise base.NotSent(f"the local provider takes no orders: {disk_words(error)}") from error
        return job

    def find(self, take: Take) -> JobFolder | None:
        with self._locked():
            job = JobFolder.of(self.root, _job_id(take.key))
            if job is not None:
                self._charge(job, take.key)
            return job

    def _charge(self, job: JobFolder, key: str) -> None:
        self.charges.once("charge", job.job_id, key, job.price)

    def known(self, job_id: str) -> JobFolder:
        job = JobFolder.of(self.root, job_id)
        if job is None:
            raise base.Gone(f"the local provider knows no job {job_id!r}")
        return job

    def settled(self, job: JobFolder) -> Status | None:
        """What became of a job, refunded where it made no video; None while it is open.

        A verdict counts once the renderer has ended: until then a film may still outweigh a cancel.
        """
        if job.verdict is None:
            return None
        with _idle(job) as idle:
            if job.verdict == "made":
                return Status("succeeded", 100, job.price)
            if not idle:
                return Status("running", job.progress, job.price)
            self._refund(job)
        why = job.failure or "it was cancelled"
        raise base.JobFailed(f"no preview was made: {why}", "unbilled")

    def stopped(self, job: JobFolder) -> bool:
        until = time.monotonic() + _STOP_S
        while time.monotonic() < until:
            with _idle(job) as idle:
                if idle and job.verdict == "cancelled":
                    self._refund(job)
                if idle:
                    return job.verdict == "cancelled"
            time.sleep(0.02)
        return False

    def _refund(self, job: JobFolder) -> None:
        order = job.order
        if order is not None:
            with self._locked():
                self.charges.once("refund", job.job_id, order["key"], job.price)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        (self.root / "jobs").mkdir(parents=True, exist_ok=True)
        with locked(self.root / "orders.lock"):
            yield


def _body(take: Take) -> dict[str, Any]:
    """What is sent: everything but our own names for it."""
    names = ("model", "prompt", "seconds", "size", "seed", "caption")
    return {name: getattr(take, name) for name in names}


def _job_id(key: str) -> str:
    """The same key gives the same job, in every process and after every loss."""
    return f"local-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _undone(job: JobFolder) -> bool:
    """Take back an order that could not be charged; True if it is gone."""
    try:
        job.forget_order()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _idle(job: JobFolder) -> Iterator[bool]:
    """Hold the job's lock if no renderer does, and say whether that worked."""
    handle = try_lock(job.lock)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)
