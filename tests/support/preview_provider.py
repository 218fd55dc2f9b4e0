"""What the tests of the local provider share: factories, broken renderers, and its charge log."""

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

from providers.base import JobFailed, VideoRequest
from sandbox.preview import processes
from sandbox.preview.jobs import JobFolder
from sandbox.preview.provider import ChargeLog, LocalProvider
from tests.support.services import ROOT
from tests.support.waiting import wait_until

PREVIEW_REQUEST = VideoRequest(
    request_id="tg:1:-:2:3",
    key="6ba7b811-9dad-51d1-80b4-00c04fd430c8",
    model="storyboard",
    prompt="Un mercado al amanecer, ¿quién vende piñas? 🍍",
    seconds=4,
    size="720x1280",
    seed=7,
    caption="¡Buenos días, pingüino!",
)


def renderer(code: str) -> tuple[str, ...]:
    """A renderer that runs `code` first."""
    return (sys.executable, "-c", code)


SILENT = renderer("import sys; sys.stdin.read()")


class Companies:
    """Makes providers and closes them."""

    def __init__(self, root: Path) -> None:
        self.root, self._made = root, []

    def __call__(self, command=processes.COMMAND, **settings) -> LocalProvider:
        self._made.append(LocalProvider(self.root, command=command, **settings))
        return self._made[-1]

    async def close(self) -> None:
        await asyncio.gather(*(one.close() for one in self._made))


def folder(company: Companies, job_id: str) -> JobFolder:
    return JobFolder(company.root / "jobs" / job_id)


def bill(company: Companies) -> list[tuple[str, int]]:
    return [(line.kind, line.micros) for line in ChargeLog(company.root / "charges.jsonl").lines()]


CHARGED, REFUNDED = ("charge", 1_500_000), ("refund", -1_500_000)


async def phase_is(provider: LocalProvider, job_id: str, phase: str) -> bool:
    return (await provider.state(job_id)).phase == phase


async def fails(provider: LocalProvider, job_id: str) -> JobFailed:
    """Ask until the job has failed and return how."""
    found: list[JobFailed] = []

    async def failed() -> bool:
        try:
            await provider.state(job_id)
        except JobFailed as error:
            found.append(error)
        return bool(found)

    await wait_until(failed, 20, "the job to fail")
    return found[0]


async def process(code: str, *args: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        *args,
        stdin=PIPE,
        stdout=PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


async def killed(one: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        one.kill()
    await one.communicate()
