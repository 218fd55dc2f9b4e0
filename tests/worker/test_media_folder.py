"""Nothing is paid that cannot be stored, and a full disk of ours is never the provider's fault."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from evals.environment import PRICE
from ledger import breaker, notifications
from ledger.models import VideoState
from providers.base import StorageFault
from providers.video_file import DISK_FULL_TEXT
from tests.support.services import ROOT
from worker.media_probe import MediaProbe, probe_folder, refuses_files

V = VideoState
PATIENT = {"overdue_s": 3000.0}


def mounted(folder: Path, size: str) -> bool:
    """Mount a small file system in memory; False where this process may not."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path):
    """A media folder with a disk of its own, which a test may fill and enlarge."""
    folder = tmp_path / "media"
    if not mounted(folder, "1m"):
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def fill(folder: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        (folder / "other").write_bytes(bytes(2_000_000))


def told(env, request: str) -> int:
    return [*env.queue.asked, *env.done].count(("notify", request))


async def test_an_order_waits_until_a_small_disk_is_enlarged(pipeline_env, small_disk):
    """With too little room nothing is sent; the user is told once; with room the video is made, once."""
    env = await pipeline_env()
    request = await env.ordered()
    before = told(env, request)
    for _ in range(3):
        await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.QUEUED, "disk")
    assert "MEDIA_DIR: " in video.failure_detail
    assert env.fake_provider.requests() == []
    assert told(env, request) == before + 1
    assert [one.request_id for one in await notifications.blocked_by_disk(env.ledger)] == [request]
    resize(small_disk, "800m")
    assert await env.finish_video(request) is V.SUCCEEDED
    assert (await env.video(request)).failure is None
    assert await notifications.blocked_by_disk(env.ledger) == []
    assert len(env.fake_provider.charges()) == 1


@pytest.fixture
def disk_fault(monkeypatch):
    """What the media folder's probe finds; empty: it takes files."""
    found = SimpleNamespace(words="the disk is full")

    async def fault(_: MediaProbe) -> str:
        return found.words

    monkeypatch.setattr(MediaProbe, "fault", fault)
    return found


async def test_an_order_that_waits_for_something_else_no_longer_waits_for_the_disk(pipeline_env, disk_fault):
    """Once the folder takes files again, neither user nor operator reads that it does not."""
    env = await pipeline_env(quick=PATIENT)
    request = await env.ordered()
    await env.run_due("submit")
    assert (await env.video(request)).failure == "disk"
    disk_fault.words = ""
    assert await breaker.open_scope(env.ledger, "everyone", "admin:1", "a test")
    await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.failure, video.failure_detail) == (V.QUEUED, None, None)
    assert await notifications.blocked_by_disk(env.ledger) == []
    assert env.fake_provider.posts() == []


async def test_a_replay_waits_for_the_disk(pipeline_env, disk_fault):
    """It may be the POST that makes the job: not for a video that could not be stored."""
    env = await pipeline_env(shape="inworld", quick=PATIENT)
    disk_fault.words = ""
    request = await env.ordered()
    env.fake_provider.script("charge_drop")
    await env.submit(request)
    disk_fault.words = "the disk is full"
    await env.run_due("reconcile")
    assert (await env.video(request)).state is V.IN_DOUBT
    assert len(env.fake_provider.posts()) == 1
    disk_fault.words = ""
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_a_disk_that_fills_up_after_the_payment_loses_no_video(pipeline_env, small_disk):
    """The download is tried again until there is room: no bad file is counted, and nothing is called gone."""
    env = await pipeline_env(quick=PATIENT, polls=0)
    resize(small_disk, "800m")
    request = await env.accepted()
    resize(small_disk, "1m")
    fill(small_disk)
    for _ in range(5):
        await env.poll(request)
        await env.poll(request)
    video = await env.video(request)
    assert (video.state, video.failure, video.bad_assets, video.denials) == (V.ACCEPTED, "disk", 0, 0)
    assert DISK_FULL_TEXT in video.failure_detail
    assert [path.name for path in small_disk.iterdir()] == ["other"]
    (small_disk / "other").unlink()
    assert await env.finish_video(request) is V.SUCCEEDED
    video = await env.video(request)
    assert (video.failure, video.asset_width, video.asset_height) == (None, 64, 112)
    assert len(env.fake_provider.charges()) == 1


async def test_an_overdue_video_that_could_not_be_stored_is_held_as_ours(pipeline_env, monkeypatch):
    """It ends by its age under our own name, and is delivered as soon as the disk takes it."""
    env = await pipeline_env(quick=PATIENT, polls=0, shape="openai")
    request = await env.accepted()
    provider = next(iter(env.worker.providers.values()))

    async def fetch(job_id, into):
        raise StorageFault("v.mp4 was not written: the folder cannot be written to")

    with monkeypatch.context() as patch:
        patch.setattr(provider, "fetch", fetch)
        for _ in range(4):
            await env.poll(request)
        env.ledger.shift += 3001
        await env.poll(request)
    video = await env.video(request)
    assert (video.state, video.failure, video.bad_assets) == (V.HOLD, "disk", 0)
    env.ledger.shift += 61
    await env.run_due("late_check")
    assert await env.finish_video(request) is V.SUCCEEDED
    assert await env.paid_micros() == PRICE.micros


async def test_an_order_that_could_not_be_stored_in_time_ends_unpaid(pipeline_env, monkeypatch):
    """It expires like every order that waits, with its own reason, and nothing was charged."""
    env = await pipeline_env()
    request = await env.ordered()

    async def fault(self):
        return "the folder cannot be written to"

    monkeypatch.setattr(MediaProbe, "fault", fault)
    await env.submit(request)
    env.ledger.shift += 1801
    await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.EXPIRED, "disk")
    assert env.fake_provider.requests() == []
    assert await env.paid_micros() == 0


def test_a_probe_leaves_nothing_and_names_what_is_wrong(tmp_path: Path):
    """A folder is made if it is missing; a file in its place, and too little room, are named."""
    folder = tmp_path / "new" / "media"
    assert probe_folder(folder, 0) == ""
    assert list(folder.iterdir()) == []
    assert "bytes are free there" in probe_folder(folder, 10**18)
    (tmp_path / "file").write_text("in the way")
    assert refuses_files(tmp_path / "file") == "the disk refused: File exists"
    assert refuses_files(folder) == ""


def test_a_probe_sees_a_limit_on_file_sizes(tmp_path: Path):
    """A process that may write no file of the probe's size finds that out before it pays: EFBIG."""
    code = (
        "import resource, sys; from pathlib import Path; from worker.media_probe import probe_folder\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "print(probe_folder(Path(sys.argv[1]), 0))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == DISK_FULL_TEXT
    assert list(tmp_path.iterdir()) == []


async def test_a_good_answer_is_kept_for_some_seconds_and_a_bad_one_never(tmp_path: Path):
    """A burst of orders asks once; a folder that is mended is used at once."""
    folder = tmp_path / "media"
    folder.write_text("in the way")
    probe = MediaProbe(folder, 0)
    assert await probe.fault() != ""
    folder.unlink()
    assert await probe.fault() == ""
    folder.rmdir()
    folder.write_text("in the way")
    assert await probe.fault() == ""
