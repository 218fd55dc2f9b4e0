"""DBOS: the call is a step of a durable workflow whose id is act and item; SQLite."""

import asyncio
import os
import time
from typing import Any

from dbos import DBOS, SetWorkflowID

from bench.peers.adapter import ONE_RECORD, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body, NotSentError

_WAIT_S = 3.0
_bodies: dict[str, Body] = {}


@DBOS.step(
    retries_allowed=True,
    interval_seconds=0.1,
    max_attempts=3,
    should_retry=lambda error: isinstance(error, NotSentError),
)
async def _charge(act: str, item: str) -> str:
    return await _bodies["body"].run(act, item)


@DBOS.workflow()
async def _pay(act: str, item: str) -> str:
    return await _charge(act, item)


class Dbos(SdkAdapter):
    """`SetWorkflowID` for each act and item; every process is an executor of its own, as its guide asks.

    So a living process is not taken for a dead one. What a dead one left is resumed by an operator or by
    DBOS Conductor, a server of theirs; a step that was cut off then runs again.
    """

    packages = ("dbos",)
    store = "SQLite"
    outside = {
        "restarted": "without Conductor, what a dead executor left is resumed by an operator",
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
    }

    async def open(self) -> None:
        """Launch the library in this process."""
        config: Any = {
            "name": "peers",
            "system_database_url": f"sqlite:///{self.place.file('dbos.db')}",
            "executor_id": f"{os.getpid()}-{time.monotonic()}",
            "application_version": "1",
            "log_level": "CRITICAL",
        }
        DBOS(config=config)
        DBOS.launch()

    async def close(self) -> None:
        """Stop it."""
        DBOS.destroy()

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Start the workflow, or wait for the one that was started under the same id."""
        _bodies["body"] = body
        with SetWorkflowID(f"{run.act}:{item}"):
            handle = await DBOS.start_workflow_async(_pay, run.act, item)
        try:
            return str(await asyncio.wait_for(handle.get_result(), body.before_s + _WAIT_S))
        except TimeoutError:
            return UNKNOWN
