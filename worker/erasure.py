"""Erases what people want gone: files first, then the texts in the ledger, as soon as a request has ended."""

import asyncio
from pathlib import Path

from ledger import erasure, requests
from ledger.models import provider_key
from providers.images import answer_path
from providers.video_file import FILE_SUFFIXES
from telemetry.logs import get_logger
from worker.context import WorkerContext
from worker.pictures import remove_picture

log = get_logger(__name__)


async def erase(ctx: WorkerContext, request_id: str) -> bool:
    """Erase a marked request that has ended; return whether it is erased now. Safe to repeat and to kill.

    Raises:
        OSError: A file cannot be removed. The mark stays, and `erase_marked` tries again.
    """
    await asyncio.to_thread(_remove_files, ctx.media_dir, provider_key(request_id))
    request = await requests.find(ctx.ledger, request_id)
    if request is not None and request.picture is not None:
        await remove_picture(ctx.media_dir, request.user_id, request_id, request.picture)
    done = await erasure.finish(ctx.ledger, request_id)
    if done:
        log.info("request erased", request=request_id)
    return done


def _remove_files(folder: Path, name: str) -> None:
    for suffix in FILE_SUFFIXES:
        (folder / f"{name}{suffix}").unlink(missing_ok=True)
    answer_path(folder, name).unlink(missing_ok=True)


async def erase_marked(ctx: WorkerContext, user_id: int | None = None) -> int:
    """Erase every marked request that has ended, of one person or of all; return how many.

    One that fails keeps no other from its end, and is tried again with the next call.
    """
    count = 0
    while found := await erasure.marked(ctx.ledger, ctx.bot_id, user_id):
        done = sum([await _erase_safely(ctx, request_id) for request_id in found])
        count += done
        if done < len(found):
            break
    return count


async def _erase_safely(ctx: WorkerContext, request_id: str) -> bool:
    try:
        return await erase(ctx, request_id)
    except OSError as error:
        log.warning("request not erased yet", request=request_id, error=type(error).__name__)
        return False
