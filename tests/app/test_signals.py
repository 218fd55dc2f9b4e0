"""Signals: a process that is told to stop closes what it opened, whenever it is told; its Valkey ends too."""

import asyncio
import os
import signal
import subprocess
import sys

import pytest

from app.embedded_redis import embedded_valkey
from app.signals import Stopped, run_until_signal
from tests.support.services import ROOT
from tests.support.waiting import wait_until

_HOLDER = """
import sys, time
from pathlib import Path
from app.embedded_redis import embedded_valkey
with embedded_valkey(Path(sys.argv[1])):
    print("open", flush=True)
    time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    """Whether this process runs; one that ended and was not waited for yet (`Z`) does not."""
    found = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout
    return found.strip()[:1] not in ("", "Z")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
async def test_the_embedded_server_ends_with_its_process(tmp_path, number):
    """However the process ends, no server is left on its folder, and the next one can start there."""
    folder = tmp_path / "valkey"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _HOLDER, str(folder), env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert await process.stdout.readline() == b"open\n"
    server = int((folder / "valkey.pid").read_text())
    assert is_alive(server)
    process.send_signal(number)
    await process.wait()

    async def server_ended() -> bool:
        return not is_alive(server)

    await wait_until(server_ended)
    with embedded_valkey(folder) as url:
        assert url


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
async def test_a_signal_during_the_start_closes_what_is_open(number):
    """A command that has not begun to serve is cancelled; its contexts end."""
    seen = []

    async def command() -> None:
        try:
            seen.append("open")
            os.kill(os.getpid(), number)
            await asyncio.Event().wait()
        finally:
            seen.append("closed")

    with pytest.raises(Stopped) as error:
        await run_until_signal(command())
    assert error.value.exit_code == 128 + number
    assert seen == ["open", "closed"]


async def test_a_cancellation_of_another_kind_stays_one():
    """Only a signal is told as one."""

    async def command() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await run_until_signal(command())
