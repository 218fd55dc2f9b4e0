"""Terminal commands `backup` and `restore`: the ledger and the finished videos, to a folder and back."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

from redis.exceptions import RedisError
from rich.console import Console

from app.backup_files import BackupError, BackupReader, BackupWriter
from app.embedded_redis import embedded_valkey, private_folder
from app.settings import Settings
from guardrails.redis_client import RedisClient, connect
from ledger import backup as rows
from ledger.database import Ledger
from ledger.migrate import newest_revision
from telemetry.redaction import short_id
from telemetry.version import VERSION
from worker.witness import KEPT_S, Send, Witness, WitnessUnavailable

_WAITING: Final = ("AWAITING_APPROVAL", "QUEUED")
"""States of orders that may still be sent. A request that is OPEN may still become one."""

_MEGABYTE: Final = 1_000_000
_SHOWN: Final = 20


async def backup(settings: Settings, console: Console, folder: Path, *, media: bool) -> None:
    """Write a backup of the ledger as of one instant, and of the finished videos, while the bot runs.

    Raises:
        BackupError: The folder is not empty or cannot be written; or the backup is whole, and the ledger's
            sums do not agree.
        LedgerError: There is no ledger, or a newer version has made it.
    """
    ledger = Ledger(settings.ledger_url)
    try:
        writer = await asyncio.to_thread(BackupWriter, folder)
        remembered = await _mark(settings, writer.id)  # before the rows: each send after them is remembered
        copy = await rows.copy_out(ledger, writer.open_table)
    finally:
        await ledger.close()
    # After the rows: each file that they name was there before.
    saved = await asyncio.to_thread(writer.add_media, settings.media) if media else []
    await asyncio.to_thread(writer.finish, copy, saved)
    size = sum(one.bytes for one in saved)
    console.print(
        f"Backed up {sum(one.rows for one in copy.tables)} rows of {len(copy.tables)} tables (schema"
        f" {copy.revision}) and {len(saved)} media files ({size / _MEGABYTE:.1f} MB) in {folder}.",
        f"Entries: {rows.describe(copy.money)}.",
        sep="\n", soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip
    if copy.left_out:
        console.print(f"Not OneTake's, so left out: {', '.join(copy.left_out)}.", markup=False)
    if not remembered:
        console.print(
            "Redis does not remember this backup: a restore will ask about every order that waits now."
        )
    if not copy.agrees:
        raise BackupError(
            f"{folder} is whole, but the ledger's own sums do not agree: entries, orders and totals differ"
        )


async def _mark(settings: Settings, backup_id: str) -> bool:
    """Let Redis remember the backup. If it still does at a restore, it remembers every send since too."""
    if settings.redis_url is None:
        return False  # the embedded server belongs to the process that runs
    redis: Any = connect(settings.redis_url.get_secret_value())
    try:
        await redis.set(_mark_key(settings.key_prefix, backup_id), VERSION, ex=KEPT_S)
    except (RedisError, OSError):
        return False
    finally:
        await redis.aclose()
    return True


def _mark_key(prefix: str, backup_id: str) -> str:
    return f"{{{prefix}}}:sent:v1:backup:{backup_id}"


async def restore(settings: Settings, console: Console, folder: Path, *, nothing_sent: bool) -> None:
    """Put a backup into an empty ledger; repeat it if it was interrupted.

    The ledger comes last, in one transaction: without it no process has anything to send.

    Args:
        settings: Where to.
        console: Where it says what it did.
        folder: The backup.
        nothing_sent: Nothing ran since the backup was made, so orders that waited are sent as usual.

    Raises:
        BackupError: The folder is no backup, is damaged, or Redis does not answer.
        LedgerError: The ledger is not empty, or the backup's schema is newer than this version's.
    """
    reader = BackupReader(folder)
    manifest = reader.manifest
    rows.check_revision(manifest.revision, f"the backup {folder}", manifest.version)
    ledger = Ledger(settings.ledger_url)
    try:
        await rows.check_empty(ledger, manifest.revision)
        await asyncio.to_thread(reader.check)
        async with _open_redis(settings) as redis:
            waiting = await asyncio.to_thread(_under_way, reader)
            known = await _remembers(redis, settings.key_prefix, manifest.id)
            await _remove_counters(redis, settings.key_prefix)
            if not (known or nothing_sent):
                await _testify(Witness(redis, settings.key_prefix), waiting, manifest.taken_at_ms)
        new, there = await asyncio.to_thread(reader.put_media, settings.media)
        await rows.copy_in(ledger, manifest.copy_of_ledger, reader.read_table)
    finally:
        await ledger.close()
    console.print(
        f"Restored {sum(one.rows for one in manifest.tables)} rows of {len(manifest.tables)} tables as of"
        f" {manifest.taken_at}, and {new} media files ({there} were there).",
        f"Entries: {rows.describe(manifest.money)}; as in the backup.",
        *_what_next(manifest.revision, list(waiting), known=known, nothing_sent=nothing_sent),
        sep="\n", soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip


def _what_next(revision: str, waiting: list[str], *, known: bool, nothing_sent: bool) -> list[str]:
    lines = []
    if waiting:
        names = " ".join(f"#{short_id(one)}" for one in waiting[:_SHOWN])
        lines.append(f"Under way at the backup: {len(waiting)} ({names}{' …' if waiting[_SHOWN:] else ''}).")
        lines.append(_what_becomes(known=known, nothing_sent=nothing_sent))
    if revision != newest_revision():
        lines.append(
            f"The schema is {revision}, that of the backup; the next start upgrades it to"
            f" {newest_revision()}."
        )
    lines.append(
        "What was paid after the backup is in no row: compare the provider's own list with `videos`"
        " (docs/deploy.md)."
    )
    return lines


def _what_becomes(*, known: bool, nothing_sent: bool) -> str:
    if known:
        return (
            "Redis remembers this backup, so each send since: what was sent is asked about, not sent again."
        )
    if nothing_sent:
        return "Nothing was sent since, as you said: what waits is sent."
    return "Nothing remembers whether they were sent since: each is asked about before anything is sent."


@asynccontextmanager
async def _open_redis(settings: Settings) -> AsyncIterator[RedisClient]:
    """Open the Redis with which the restored ledger will run; the embedded one is free only without a bot.

    Raises:
        BackupError: It does not answer.
        EmbeddedError: A process uses the embedded one.
    """
    with ExitStack() as stack:
        if settings.redis_url is not None:
            url = settings.redis_url.get_secret_value()
        else:
            stack.enter_context(private_folder(settings.var_dir))
            url = stack.enter_context(embedded_valkey(settings.var_dir / "valkey"))
        redis: Any = connect(url)
        try:
            await redis.ping()
            yield redis
        except (RedisError, OSError, WitnessUnavailable) as error:
            raise BackupError(
                f"REDIS_URL does not answer ({type(error).__name__}): a restored ledger needs what Redis"
                " remembers of sends, so nothing was restored"
            ) from error
        finally:
            await redis.aclose()


async def _remembers(redis: Any, prefix: str, backup_id: str) -> bool:
    return bool(await redis.exists(_mark_key(prefix, backup_id)))


async def _testify(witness: Witness, waiting: Mapping[str, int], at: int) -> None:
    """Have each order asked about that may have been sent since, as if it had been sent at the backup.

    What Redis does remember of a send stays.
    """
    for request_id, submits in waiting.items():
        await witness.testify(request_id, Send(submits + 1, at, at))


def _under_way(reader: BackupReader) -> dict[str, int]:
    """Return the requests whose order may have been sent since the backup, with the sends that it knew."""
    found = {
        str(one["request_id"]): 0
        for one in reader.rows("requests", ("request_id", "state"))
        if one["state"] == "OPEN"
    }
    for one in reader.rows("videos", ("request_id", "state", "submits")):
        if one["state"] in _WAITING:
            found[str(one["request_id"])] = int(str(one["submits"]))
    return found


async def _remove_counters(redis: Any, prefix: str) -> None:
    """Remove counters and wake-ups, which are rebuilt from the ledger. Sends and logouts stay known."""
    ours = re.compile(rf"(\{{{prefix}\}}|{prefix}-\d+|\{{{prefix}-\d+\}}):(?!sent:|logout:)")
    for pattern in (f"{{{prefix}*", f"{prefix}-*"):
        async for key in redis.scan_iter(pattern, count=1000):
            name = key.decode() if isinstance(key, bytes) else key
            if ours.match(name):
                await redis.unlink(key)
