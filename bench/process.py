"""One measured process: `python -m bench.process run` or `… worker`, as `python -m bot` starts it.

The provider is the instant one, and SQL is counted in a shared file (`BENCH_COUNTS`): transactions, then
statements, as two unsigned integers of eight bytes.
"""

import asyncio
import gc
import mmap
import os
import sys
from functools import partial
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine

from app import processes
from app.application import open_app
from app.pacing import LOCAL_SEND_LIMITS
from app.settings import read_settings
from bench import instant_provider
from telemetry.logs import setup_logs

COUNTS = "BENCH_COUNTS"


def count_sql(path: Path) -> None:
    """Count every transaction and statement of every engine of this process in the file `path`."""
    with path.open("r+b") as file:
        counts = memoryview(mmap.mmap(file.fileno(), 16)).cast("Q")

    def begun(*_: object) -> None:
        counts[0] += 1

    def executed(*args: object) -> None:
        # SQLite's BEGIN is sent as a statement; PostgreSQL's is part of its protocol.
        counts[1] += not str(args[2]).startswith("BEGIN")

    event.listen(Engine, "begin", begun)
    event.listen(Engine, "before_cursor_execute", executed)


def main() -> None:
    """Run the part that the command line names."""
    instant_provider.install()
    if path := os.environ.get(COUNTS):
        count_sql(Path(path))
    settings = read_settings(_env_file=None)
    setup_logs(settings.log_level, settings.log_format)
    gc.freeze()
    # Telegram's limits are asked as always, and delay nothing: a local Bot API has none.
    processes.open_app = partial(open_app, send_limits=LOCAL_SEND_LIMITS)
    asyncio.run((processes.run_bot if sys.argv[1] == "run" else processes.run_worker_alone)(settings))


if __name__ == "__main__":
    main()
