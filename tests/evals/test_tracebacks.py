"""Tests of redacted tracebacks and of deadlines that load cannot break."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals.evidence import collect_notes
from evals.pool import Job, PlayError, _play
from evals.tracebacks import described, traceback_of
from evals.waiting import Deadline, LagMeter, comes_true, cores, time_limit

SECRET = "sk-a-key-that-must-not-leak-0123456789"
HOME = str(Path(__file__).resolve().parents[2])


def raised():
    with pytest.raises(ValueError, match="request") as found:
        _raise({"token": SECRET})
    return found.value


def _raise(json_like):
    try:
        Path(f"{HOME}/nothing/of/{json_like['token']}").read_text("utf-8")
    except OSError as error:
        raise ValueError(f"request tg:7:-:1001:5 with {SECRET}, see {HOME}/var/x.db") from error


def test_a_traceback_names_places_and_no_secrets():
    """File, line and function of the innermost frames, and the cause; no key, no user, no machine path."""
    text = traceback_of(raised())
    assert "tests/evals/test_tracebacks.py:" in text
    assert " in _raise" in text
    assert "caused by" in text
    assert "FileNotFoundError" in text
    for hidden in (SECRET, HOME, "1001", str(Path.home()), "json_like"):
        assert hidden not in text
    assert described(raised()).startswith("ValueError: request ")
    assert SECRET not in described(raised())


async def _broken():
    raise ValueError(SECRET)


def test_what_is_logged_as_an_error_keeps_its_traceback():
    """An exception that a task's runner logged is in the notes with its place."""
    with collect_notes() as notes:
        try:
            asyncio.run(_broken())
        except ValueError:
            logging.getLogger("docket").exception("task failed")
    assert len(notes.tracebacks) == 1
    assert "in _broken" in notes.tracebacks[0]
    assert SECRET not in notes.tracebacks[0]


def _no_player(cases, resources, broken):
    raise KeyError(f"{HOME}/x")


def test_a_case_that_cannot_be_played_says_where(monkeypatch):
    """What playing raised comes back from the process with its place, without this machine's paths."""
    monkeypatch.setattr("evals.pool._resources", [None])
    with pytest.raises(PlayError) as found:
        _play(Job((), _no_player), None)
    assert "in _no_player" in found.value.trace
    assert str(found.value).startswith("KeyError: ")
    assert HOME not in found.value.trace + str(found.value)


_STOPS_ITS_PARENT = """
import os, signal, sys, time
os.kill(int(sys.argv[1]), signal.SIGSTOP)
time.sleep(0.6)
os.kill(int(sys.argv[1]), signal.SIGCONT)
"""


async def test_a_stopped_machine_breaks_no_deadline():
    """Only what an idle machine would have waited counts: half a second of nothing uses a tenth of it."""
    stop = [sys.executable, "-c", _STOPS_ITS_PARENT, str(os.getpid())]
    deadline, began = Deadline(0.5), time.monotonic()
    stopper = await asyncio.to_thread(subprocess.Popen, stop)
    with LagMeter() as lag:
        async with time_limit(5):
            while stopper.poll() is None:
                await deadline.pause(0.02) if lag.worst_s > 0.3 else await asyncio.sleep(0.02)
    assert stopper.returncode == 0
    assert not deadline.is_over
    assert lag.idle_s < time.monotonic() - began - 0.3


async def test_a_crowded_machine_has_as_many_times_longer(monkeypatch):
    """Where five processes share a core, a pause counts a fifth; on an idle machine all of it."""
    counted = {}
    for load in (0.1, 5.0):
        monkeypatch.setattr("os.getloadavg", lambda: (load * cores(), 0, 0))  # noqa: B023 - called here
        deadline = Deadline(1)
        await deadline.pause(0.02)
        counted[load] = 1 - deadline._left_s
    assert counted == pytest.approx({0.1: 0.02, 5.0: 0.004})


async def test_a_time_limit_ends_what_hangs():
    """What never ends is cancelled all the same; what ends in time is not."""
    with pytest.raises(TimeoutError):
        async with time_limit(0.1):
            await asyncio.sleep(60)
    async with time_limit(60):
        assert await comes_true(lambda: asyncio.sleep(0, True), 1)
    assert not await comes_true(lambda: asyncio.sleep(0, False), 0.05)
