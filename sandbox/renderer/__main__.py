"""`python -m sandbox.renderer <job folder>`: render one accepted job of the local provider, then end.

Its parent passes the job's lock on and keeps the standard input open: when that closes, the parent died, and
the renderer exits cleanly, so that another can start.
"""

import contextlib
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from providers.base import BadAsset
from providers.video_file import disk_error_text, probe, stills, sync_folder
from sandbox.preview.jobs import JobFolder
from sandbox.renderer.drawing import FontMissing
from sandbox.renderer.encoder import write_reel
from sandbox.renderer.film import FPS, Film

LIMIT_S = 300  # the system ends a renderer that runs longer


def main() -> None:
    job = JobFolder(Path(sys.argv[1]))
    signal.alarm(LIMIT_S)
    os.nice(10)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: _leave(job))
    threading.Thread(target=_watch_starter, args=(job,), daemon=True).start()
    try:
        _render(job)
    except Exception as error:  # noqa: BLE001 - every failure becomes a sentence in failed.json
        _tidy(job)  # first: on a full disk this makes room for that sentence
        with contextlib.suppress(OSError):
            (job.path / "renderer.log").write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        job.fail(_words(error))


def _render(job: JobFolder) -> None:
    order = job.order
    if order is None:
        raise BadAsset("the order is missing from its folder")
    _tidy(job)
    body = order["body"]
    width, height = (int(side) for side in body["size"].split("x"))
    words = (body["prompt"], body["caption"], body["seconds"])
    film = Film(*words, (width, height), body["seed"], job.picture, style=body.get("style", ""))

    def on_frame(number: int) -> None:
        if number * 98 // film.frames > (number - 1) * 98 // film.frames:
            job.report(number * 98 // film.frames, os.getpid())

    part = job.path / f"video.part-{os.getpid()}.mp4"
    write_reel(film, part, body["seed"], on_frame, sound=body.get("sound", True))
    _publish(job, part, body["seconds"])


def _publish(job: JobFolder, part: Path, seconds: int) -> None:
    made = probe(part)
    if abs(made.seconds - seconds) > 1 / FPS:
        raise BadAsset(f"the film is {made.seconds:.2f} seconds long in place of {seconds}")
    poster, cover = stills(part)
    poster.replace(job.video.with_suffix(".jpg"))
    cover.unlink()  # who fetches the film makes its own
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(job.video)
    sync_folder(job.path)
    job.drop_picture()


def _words(error: Exception) -> str:
    if isinstance(error, FontMissing | BadAsset):
        return str(error)
    if isinstance(error, OSError):
        return f"the preview was not written: {disk_error_text(error)}"
    return f"the renderer failed ({type(error).__name__})"


def _watch_starter(job: JobFolder) -> None:
    while os.read(0, 4096):
        pass
    _leave(job)


def _leave(job: JobFolder) -> None:
    """Exit without a verdict, and without counting as a failed start."""
    with contextlib.suppress(OSError):
        job.count_start(-1)
    _tidy(job)
    os._exit(0)


def _tidy(job: JobFolder) -> None:
    for part in job.path.glob("video.part-*"):
        with contextlib.suppress(OSError):
            part.unlink()


if __name__ == "__main__":
    main()
