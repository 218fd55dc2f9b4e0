"""Erasure by the worker: files first, then the words; what fails is tried again and stops no other."""

from pathlib import Path

import pytest

from ledger import erasure, requests
from ledger.models import VideoState, provider_key
from ledger.pruning import PRUNED
from providers.video_file import FILE_SUFFIXES
from tests.support.factories import ordered, put
from worker.erasure import erase_marked
from worker.periodic import erase_what_ended

V = VideoState


@pytest.fixture
async def worker(pipeline_env):
    """The worker's parts, of a process that runs nothing."""
    parts = (await pipeline_env()).worker
    parts.media_dir.mkdir(exist_ok=True)
    return parts


def files_of(worker, request: str) -> list[Path]:
    return [worker.media_dir / f"{provider_key(request)}{suffix}" for suffix in FILE_SUFFIXES]


async def marked(ledger, opened, worker, state: VideoState = V.DELIVERED) -> str:
    """Have a marked request with its files, in this state."""
    request = await ordered(ledger, opened)
    await put(ledger, request, state)
    for path in files_of(worker, request):
        path.write_bytes(b"x")
    await erasure.ask_all(ledger, 7, 1)
    return request


async def is_erased(ledger, request: str) -> bool:
    return (await requests.find(ledger, request)).idea == PRUNED


async def test_files_and_words_go(ledger, opened, worker):
    """Of what has ended all three files; of another request none."""
    gone = await marked(ledger, opened, worker)
    stays = await ordered(ledger, opened, user_id=8)
    for path in files_of(worker, stays):
        path.write_bytes(b"x")
    assert await erase_marked(worker) == 1
    assert [path.exists() for path in files_of(worker, gone)] == [False] * 3
    assert [path.exists() for path in files_of(worker, stays)] == [True] * 3
    assert (await is_erased(ledger, gone), await is_erased(ledger, stays)) == (True, False)
    assert await erase_marked(worker) == 0


async def test_what_is_under_way_keeps_its_files(ledger, opened, worker):
    """A video that was paid and is not delivered is left until it is."""
    request = await marked(ledger, opened, worker, V.SUCCEEDED)
    await erase_what_ended(worker)
    assert [path.exists() for path in files_of(worker, request)] == [True] * 3
    await put(ledger, request, V.DELIVERED)
    await erase_what_ended(worker)
    assert [path.exists() for path in files_of(worker, request)] == [False] * 3
    assert await is_erased(ledger, request)


async def test_a_file_that_cannot_be_removed_stops_no_other(ledger, opened, worker):
    """Its mark and its words stay, so that the next round tries again."""
    stuck = await marked(ledger, opened, worker)
    free = await marked(ledger, opened, worker)
    path = files_of(worker, stuck)[0]
    path.unlink()
    path.mkdir()
    assert await erase_marked(worker) == 1
    assert (await is_erased(ledger, stuck), await is_erased(ledger, free)) == (False, True)
    path.rmdir()
    assert await erase_marked(worker) == 1
    assert await is_erased(ledger, stuck)
