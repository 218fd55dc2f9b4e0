"""Terminal command `prune`: remove texts, histories and media files that are older than the settings say."""

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rich.console import Console

from app.media_folder import remove_delivered
from app.operator_commands import open_ledger
from app.settings import MIN_RETENTION_DAYS, Settings
from ledger import operator_alerts, pruning, user_reports
from ledger.database import Ledger
from ledger.pruning import ArchiveRows, Batch, Position

_PROGRESS_ROWS: Final = 20_000
_MEGABYTE: Final = 1_000_000


class PruneError(Exception):
    """Nothing was pruned; the message says what is wrong and what is allowed."""


class Archive:
    """A file of JSON lines to which rows are added before they are pruned; each batch is on disk on return.

    Only this user may read it: it holds what users wrote.

    Raises:
        PruneError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            size = os.fstat(self._file).st_size
            # A run that was killed may have left half a line; its rows were not pruned and come again.
            if size and os.pread(self._file, 1, size - 1) != b"\n":
                os.write(self._file, b"\n")
            folder = os.open(path.absolute().parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
        except OSError as error:
            raise PruneError(
                f"--archive {path} cannot be written ({error.strerror}); name another file"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        os.close(self._file)

    def add(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write the rows and wait until they are on disk."""
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
        while text:
            text = text[os.write(self._file, text) :]
        os.fsync(self._file)


async def prune(
    settings: Settings, console: Console, archive: Path | None, days: int | None, *, dry_run: bool
) -> None:
    """Prune what RETENTION_DAYS and MEDIA_DAYS say, in batches; it can be interrupted and repeated.

    Args:
        settings: The ledger, the media folder, and the two ages.
        console: Where progress is printed.
        archive: A file for the rows that are pruned; without one they are dropped.
        days: In place of RETENTION_DAYS.
        dry_run: Print what would be pruned, and change nothing.

    Raises:
        PruneError: `days` is too few, or the archive cannot be written.
    """
    keep = settings.retention_days if days is None else days
    if keep and keep < MIN_RETENTION_DAYS:
        raise PruneError(f"--days {keep} is too few: reports show {MIN_RETENTION_DAYS - 1} days; 0 keeps all")
    async with open_ledger(settings) as ledger:
        with ExitStack() as stack:
            kept = None if archive is None or dry_run else stack.enter_context(Archive(archive)).add
            if keep:
                await _prune_rows(ledger, console, keep, kept, dry_run=dry_run)
        if settings.media_days:
            freed = await remove_delivered(ledger, settings.media, settings.media_days, dry_run=dry_run)
            console.print(
                f"{_verb(dry_run)} {freed.files} media files ({freed.bytes / _MEGABYTE:.1f} MB)"
                f" of videos delivered more than {settings.media_days} days ago."
            )
        await _print_size(ledger, console)


def _verb(dry_run: bool) -> str:
    return "Would remove" if dry_run else "Removed"


async def _prune_rows(
    ledger: Ledger, console: Console, days: int, archive: ArchiveRows | None, *, dry_run: bool
) -> None:
    before = await pruning.cutoff(ledger, days)
    if dry_run:
        found = await pruning.count_prunable(ledger, before)
        texts, rows = found.texts, found.transitions
    else:
        texts = await _run(
            console, "texts", pruning.START, lambda after: pruning.prune_texts(ledger, before, after, archive)
        )
        rows = await _run(
            console, "history", pruning.TRANSITIONS_START,
            lambda after: pruning.prune_transitions(ledger, before, after, archive),
        )  # fmt: skip
        await user_reports.prune(ledger, before)
        await operator_alerts.forget_old(ledger, before)
    console.print(
        f"{_verb(dry_run)} the texts of {texts} requests and {rows} rows of the history,"
        f" ended more than {days} days ago."
    )


async def _run(
    console: Console, what: str, start: Position, step: Callable[[Position], Awaitable[Batch]]
) -> int:
    done, position, said = 0, start, 0
    while True:
        batch = await step(position)
        done += batch.rows
        if batch.next is None:
            return done
        position = batch.next
        if done - said >= _PROGRESS_ROWS:
            said = done
            console.print(f"{what}: {done} …")


async def _print_size(ledger: Ledger, console: Console) -> None:
    size, free = await pruning.database_bytes(ledger)
    console.print(f"The ledger has {size / _MEGABYTE:.1f} MB.")
    if free:
        console.print(
            f"{free / _MEGABYTE:.1f} MB of them are free for new rows. To give them back to the disk, stop"
            f" every process and run: sqlite3 {ledger.url.database} VACUUM",
            soft_wrap=True,
        )
