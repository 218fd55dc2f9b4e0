"""The local preview: a company of its own, in a folder, that renders storyboards for rehearsal dollars.

It has a durable memory, a bill, documented replay by key, a job list and a cancel. The studio treats it
like any other provider.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from ledger.money import Money
from providers import base
from providers.base import Asset, Job, Status, Take
from providers.download import disk_words, keep
from tools.studio.providers.capabilities import Capabilities
from tools.studio.providers.local_charges import ChargeLog
from tools.studio.providers.local_desk import Desk
from tools.studio.providers.local_renderers import COMMAND, Renderers

MODEL = "storyboard"
CAPABILITIES = Capabilities(
    models=(MODEL,),
    seconds=(4, 8, 12),
    sizes=("720x1280", "1280x720", "1024x1792", "1792x1024"),
    replay=True,
    listing=True,
    cancel=True,
    preview=True,
    submit_timeout_s=10.0,
    poll_s=0.5,
    grace_s=2.0,
    settle_s=10.0,
    absent_gap_s=2.0,  # it is a folder: what it does not show is not there
    overdue_s=900.0,
    priced_on="2026-11-22",
)
_CHUNK = 1 << 18


class LocalProvider:
    """Renders previews on this machine.

    Args:
        root: Its folder: `jobs/`, `charges.jsonl` and locks. Several processes may share it.
        price_per_second: Rehearsal dollars.
        renderers: How many jobs of this folder are rendered at once; the others wait.
        command: What starts a renderer; the job's folder is its last argument.
    """

    name = "local"

    def __init__(
        self,
        root: Path,
        price_per_second: Money = Money.parse("$0.375"),  # noqa: B008 - frozen
        renderers: int = 1,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.capabilities = CAPABILITIES
        self._desk, self._price = Desk(root), price_per_second
        self._renderers = Renderers(root, renderers, command)

    @property
    def charges(self) -> ChargeLog:
        """The provider's own bill, for tests, evals and the demo."""
        return self._desk.charges

    def quote(self, model: str, seconds: int, size: str) -> Money:
        offers: tuple[tuple[str, object, Sequence[object]], ...] = (
            ("model", model, self.capabilities.models),
            ("seconds", seconds, self.capabilities.seconds),
            ("size", size, self.capabilities.sizes),
        )
        for what, asked, offered in offers:
            if type(asked) is not type(offered[0]) or asked not in offered:
                raise ValueError(
                    f"{what} {asked!r} is not on offer; on offer: {', '.join(map(str, offered))}"
                )
        return self._price * seconds

    async def submit(self, take: Take) -> Job:
        if not take.prompt.strip():
            raise base.Rejected("the prompt is empty", "invalid")
        try:
            price = self.quote(take.model, take.seconds, take.size)
        except ValueError as error:
            raise base.Rejected(str(error), "invalid") from None
        job = await asyncio.to_thread(self._desk.accept, take, price)
        with contextlib.suppress(OSError, base.Transient):  # accepted is accepted: `state` starts it later
            await self._renderers.start(job)
        return Job(job.job_id, job.price)

    async def state(self, job_id: str) -> Status:
        with _answering():
            job = await asyncio.to_thread(self._desk.known, job_id)
            status = await asyncio.to_thread(self._desk.settled, job)
            if status is not None:
                return status
            started = await self._renderers.start(job)
            status = await asyncio.to_thread(self._desk.settled, job)
            percent = await asyncio.to_thread(lambda: job.progress)
        return status or Status(started, percent if started == "running" else 0, job.price)

    async def fetch(self, job_id: str, into: Path) -> Asset:
        with _answering():
            try:
                status = await self.state(job_id)
            except base.JobFailed as error:
                raise base.Gone(str(error)) from None
            if status.phase != "succeeded":
                raise base.Transient(f"the video of {job_id} is not there yet")
            return await keep(_chunks((await asyncio.to_thread(self._desk.known, job_id)).video), into)

    async def reconcile(
        self, take: Take, sent_at: float, claimed: base.ClaimedCheck, now: float | None = None
    ) -> base.Reconciled:
        return await self.lookup(take, sent_at, claimed, now)

    async def lookup(
        self,
        take: Take,
        sent_at: float,
        claimed: base.ClaimedCheck,
        now: float | None = None,
        *,
        until: float | None = None,
    ) -> base.Reconciled:
        del sent_at, now, until  # a key finds its job whenever it was sent
        try:
            job = await asyncio.to_thread(self._desk.find, take)
        except OSError as error:
            return base.Unsure(f"the local provider cannot be asked: {disk_words(error)}")
        if job is None:
            return base.Absent()
        if claimed(job.job_id):
            return base.Unsure(f"{job.job_id} belongs to another request")
        return base.Found(Job(job.job_id, job.price))

    async def cancel(self, job_id: str) -> bool:
        with _answering():
            job = await asyncio.to_thread(self._desk.known, job_id)
            if await asyncio.to_thread(lambda: job.verdict) is not None:
                return False
            await asyncio.to_thread(job.cancel)
            await self._renderers.stop(job)
            return await asyncio.to_thread(self._desk.stopped, job)

    async def close(self) -> None:
        await self._renderers.close()


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    """A folder that cannot be used now is a question to ask again later."""
    try:
        yield
    except OSError as error:
        raise base.Transient(f"the local provider does not answer: {disk_words(error)}") from error


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
    finally:
        file.close()
