"""LocalProvider, the preview provider: accepts jobs, charges test credits, hands out videos."""

import asyncio
import contextlib
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from guardrails.money import Money
from providers import base
from providers.base import Asset, Capabilities, Job, Status, VideoRequest
from providers.video_file import disk_error_text, save_video
from sandbox.preview.jobs import PICTURE_NAME, JobFolder, locked, try_lock
from sandbox.preview.processes import COMMAND, Renderers

ChargeKind = Literal["charge", "refund"]
MODEL = "storyboard"
CAPABILITIES = Capabilities(
    models=(MODEL,),
    seconds=(4, 8, 12),
    sizes=("720x1280", "1280x720", "1024x1792", "1792x1024"),
    replay=True,
    listing=True,
    preview=True,
    sound=True,
    silenceable=(MODEL,),
    pictures=True,
    submit_timeout_s=10.0,
    poll_s=0.5,
    grace_s=2.0,
    settle_s=10.0,
    absent_gap_s=2.0,  # a folder: what it does not list does not exist
    overdue_s=900.0,
    priced_on="2026-11-22",
)
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class Charge:
    """One line of the charge log.

    Attributes:
        kind: `charge` once for an accepted job, `refund` at most once for a job that made no video.
        job_id: The provider's job.
        key: The idempotency key that was sent.
        micros: Test credits in micro-dollars; negative for a refund, so that the sum is what was paid.
        at: Seconds since the epoch.
    """

    kind: ChargeKind
    job_id: str
    key: str
    micros: int
    at: float


class ChargeLog:
    """An append-only file with one JSON object per line. Writers hold the provider's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> Sequence[Charge]:
        """Return every line, oldest first. A torn last line is no charge."""
        try:
            text = self.path.read_text(encoding="ascii")
        except FileNotFoundError:
            return ()
        return [Charge(**json.loads(line)) for line in text.splitlines() if line.endswith("}")]

    def total(self) -> Money:
        """Return what was paid: charges less refunds."""
        return Money(sum(line.micros for line in self.lines()))

    def once(self, kind: ChargeKind, job_id: str, key: str, amount: Money) -> None:
        """Write one line, with fsync, unless this job has one of this kind.

        Raises:
            OSError: The disk refused; no part of the line remains.
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


class JobStore:
    """The blocking part of the provider. Raises the protocol's errors, or a plain OSError."""

    def __init__(self, root: Path) -> None:
        self.root, self.charges = root, ChargeLog(root / "charges.jsonl")

    def accept(self, video_request: VideoRequest, price: Money) -> JobFolder:
        """Write order, then charge: after a crash between them, the next lookup writes the charge."""
        job, body = JobFolder(self.root / "jobs" / _job_id(video_request.key)), _body(video_request)
        new = False
        try:
            with self._locked():
                known = job.order
                if known is not None and json.dumps(known["body"]) != json.dumps(body):
                    raise base.Rejected(f"key {video_request.key} was used for another order", "invalid")
                if known is None:
                    if video_request.picture is not None:
                        job.write_picture(video_request.picture.data)
                    job.write_order(video_request.key, body, price, time.time())
                    new = True
                self._charge(job, video_request.key)
        except OSError as error:
            if new and not _undone(job):
                raise base.InDoubt(f"accepted, but not charged: {disk_error_text(error)}") from error
            raise base.NotSent(f"the local provider takes no orders: {disk_error_text(error)}") from error
        return job

    def find(self, video_request: VideoRequest) -> JobFolder | None:
        with self._locked():
            job = JobFolder.of(self.root, _job_id(video_request.key))
            if job is not None:
                self._charge(job, video_request.key)
            return job

    def _charge(self, job: JobFolder, key: str) -> None:
        self.charges.once("charge", job.job_id, key, job.price)

    def known(self, job_id: str) -> JobFolder:
        job = JobFolder.of(self.root, job_id)
        if job is None:
            raise base.Gone(f"the local provider knows no job {job_id!r}", final=True)
        return job

    def settled(self, job: JobFolder) -> Status | None:
        """Return the outcome of a job, refunded if it made no video; None while it is open.

        A verdict counts once the renderer has ended.
        """
        if job.verdict is None:
            return None
        with _idle(job) as idle:
            if job.verdict == "made":
                return Status("succeeded", 100, job.price)
            if not idle:
                return Status("running", job.progress, job.price)
            self._refund(job)
        raise base.JobFailed(f"no preview was made: {job.failure}", "unbilled")

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


def _body(video_request: VideoRequest) -> dict[str, Any]:
    """Return the fields that are sent: all but our own ids."""
    names = ("model", "prompt", "seconds", "size", "seed", "caption")
    # Those of most orders are left out, so that a replay is what an earlier version sent.
    more: dict[str, Any] = {} if video_request.sound else {"sound": False}
    more |= {"style": video_request.style} if video_request.style else {}
    if video_request.picture is not None:
        more |= {"picture": PICTURE_NAME, "picture_sha256": video_request.picture.sha256}
    return {name: getattr(video_request, name) for name in names} | more


def _job_id(key: str) -> str:
    """Return the job id of a key: the same in every process and after every loss."""
    return f"local-{hashlib.sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def _undone(job: JobFolder) -> bool:
    """Remove an order that could not be charged; return whether that worked."""
    try:
        job.forget_order()
        job.drop_picture()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _idle(job: JobFolder) -> Iterator[bool]:
    """Hold the job's lock if no renderer does; yields whether that worked."""
    handle = try_lock(job.lock)
    try:
        yield handle is not None
    finally:
        if handle is not None:
            os.close(handle)


class LocalProvider:
    """Renders previews on this machine.

    Args:
        root: Its folder: `jobs/`, `charges.jsonl` and locks. Several processes may share it.
        price_per_second: In test credits.
        renderers: How many jobs of this folder are rendered at once; others wait.
        command: What starts a renderer; the job's folder is its last argument.
    """

    name = account = "local"

    def __init__(
        self,
        root: Path,
        price_per_second: Money = Money.parse("$0.375"),  # noqa: B008 - frozen
        renderers: int = 1,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.capabilities = CAPABILITIES
        self._jobs, self._price = JobStore(root), price_per_second
        self._renderers = Renderers(root, renderers, command)

    @property
    def charges(self) -> ChargeLog:
        """The provider's own charge log, for tests, evals and the demo."""
        return self._jobs.charges

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        del sound  # it costs as much without
        offers: tuple[tuple[str, object, Sequence[object]], ...] = (
            ("model", model, self.capabilities.models),
            ("seconds", seconds, self.capabilities.seconds),
            ("size", size, self.capabilities.sizes),
        )
        for what, wanted, offered in offers:
            if type(wanted) is not type(offered[0]) or wanted not in offered:
                raise ValueError(
                    f"{what} {wanted!r} is not on offer; on offer: {', '.join(map(str, offered))}"
                )
        return self._price * seconds

    async def check(self) -> None:
        return None  # `submit` finds out whether its folder can be used

    async def submit(self, video_request: VideoRequest) -> Job:
        if not video_request.prompt.strip():
            raise base.Rejected("the prompt is empty", "invalid")
        try:
            price = self.quote(video_request.model, video_request.seconds, video_request.size)
        except ValueError as error:
            raise base.Rejected(str(error), "invalid") from None
        job = await asyncio.to_thread(self._jobs.accept, video_request, price)
        with contextlib.suppress(OSError, base.Transient):  # accepted is accepted: `state` starts it later
            await self._renderers.start(job)
        return Job(job.job_id, job.price)

    async def state(self, job_id: str, links: base.JobLinks | None = None) -> Status:
        del links
        with _answering():
            job = await asyncio.to_thread(self._jobs.known, job_id)
            status = await asyncio.to_thread(self._jobs.settled, job)
            if status is not None:
                return status
            started = await self._renderers.start(job)
            status = await asyncio.to_thread(self._jobs.settled, job)
            percent = await asyncio.to_thread(lambda: job.progress)
        return status or Status(started, percent if started == "running" else 0, job.price)

    async def fetch(self, job_id: str, into: Path, links: base.JobLinks | None = None) -> Asset:
        del links
        with _answering():
            try:
                status = await self.state(job_id)
            except base.JobFailed as error:
                raise base.Gone(str(error), final=True) from None
            if status.phase != "succeeded":
                raise base.Transient(f"the video of {job_id} is not there yet")
            return await save_video(_chunks((await asyncio.to_thread(self._jobs.known, job_id)).video), into)

    async def reconcile(
        self,
        video_request: VideoRequest,
        sent_at: float,
        claimed: base.ClaimedCheck,
        now: float | None = None,
    ) -> base.Reconciled:
        return await self.lookup(video_request, sent_at, claimed, now)

    async def lookup(
        self,
        video_request: VideoRequest,
        sent_at: float,
        claimed: base.ClaimedCheck,
        now: float | None = None,
        *,
        until: float | None = None,
    ) -> base.Reconciled:
        del sent_at, now, until  # a key finds its job whenever it was sent
        try:
            job = await asyncio.to_thread(self._jobs.find, video_request)
        except OSError as error:
            return base.Unsure(f"the local provider cannot be asked: {disk_error_text(error)}")
        if job is None:
            return base.Absent()
        if await claimed([job.job_id]):
            return base.Unsure(f"{job.job_id} belongs to another request")
        return base.Found(Job(job.job_id, job.price))

    async def close(self) -> None:
        await self._renderers.close()


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """Turn an OSError of the folder into a transient error."""
    try:
        yield
    except OSError as error:
        raise base.Transient(f"the local provider does not answer: {disk_error_text(error)}") from error


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
    finally:
        file.close()
