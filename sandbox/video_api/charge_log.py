"""The charge log and request log of a fake provider, kept in files that outlive its process.

Also the video that it serves, and how to run it as a process of its own.
"""

import contextlib
import functools
import json
import re
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import av
from PIL import Image

_REPO_ROOT = Path(__file__).resolve().parents[2]


@functools.cache
def clip(width: int = 64, height: int = 112, seconds: int = 1) -> bytes:
    """Render one small real MP4 with a silent track, once per process."""
    with tempfile.TemporaryDirectory() as folder:  # faststart needs a real file
        path = Path(folder, "clip.mp4")
        _render(path, width, height, seconds)
        return path.read_bytes()


def _render(path: Path, width: int, height: int, seconds: int) -> None:
    with av.open(path, "w", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", rate=12, options={"preset": "ultrafast"})
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        sound = container.add_stream("aac", rate=44100)
        for number in range(12 * seconds):
            picture = Image.new("RGB", (width, height), (number * 20 % 256, 90, 160))
            frame = av.VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]  # PyAV has no types here
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for number in range(43 * seconds):
            silence = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            silence.sample_rate, silence.pts = 44100, number * 1024
            for plane in silence.planes:
                plane.update(bytes(plane.buffer_size))
            container.mux(sound.encode(silence))
        container.mux(sound.encode())


@dataclass
class ProviderLog:
    """What the provider logged, read from its files: from any process, at any time."""

    directory: Path

    order_path: ClassVar[str] = r"/v1/videos"
    """Paths whose POST may cost money, as a pattern."""

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.directory / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def requests(self) -> list[dict[str, Any]]:
        """Return every whole request: at, method, path, query, port, headers (lower case), digest, body."""
        return self._lines("requests.jsonl")

    def posts(self) -> list[dict[str, Any]]:
        """Return the requests that may cost money."""
        paid = re.compile(self.order_path)
        return [one for one in self.requests() if one["method"] == "POST" and paid.fullmatch(one["path"])]

    def charges(self) -> list[dict[str, Any]]:
        """Return every charge: at, key, digest, seed, job, micros. A later refund does not remove it."""
        return [line for line in self._lines("charges.jsonl") if line["event"] == "charge"]

    def refunds(self) -> list[dict[str, Any]]:
        """Return every refund: at, job, micros (negative)."""
        return [line for line in self._lines("charges.jsonl") if line["event"] == "refund"]

    def net(self) -> dict[str, int]:
        """Return micro-dollars by job after refunds, without the jobs that are back at zero."""
        sums: dict[str, int] = {}
        for line in self._lines("charges.jsonl"):
            sums[line["job"]] = sums.get(line["job"], 0) + line["micros"]
        return {job: micros for job, micros in sums.items() if micros}

    def write(self, name: str, line: dict[str, Any]) -> None:
        """Append one line to a log."""
        with (self.directory / name).open("a") as file:
            file.write(json.dumps(line) + "\n")


class FakeProviderProcess(ProviderLog):
    """A fake provider in a process of its own, which survives whatever a test does to the worker."""

    def __init__(self, directory: Path, process: "subprocess.Popen[str]", base_url: str) -> None:
        super().__init__(directory)
        self.process, self.base_url = process, base_url

    def script(self, *outcomes: str, **options: Any) -> None:
        """Set the outcomes of the next POSTs, and options of `FakeProvider`; `fates` are appended."""
        body = json.dumps({"outcomes": outcomes, **options}).encode()
        address = self.base_url.removesuffix("/v1") + "/_script"
        request = urllib.request.Request(address, body)  # noqa: S310 - our own server on loopback
        with urllib.request.urlopen(request, timeout=5):  # noqa: S310 - the same
            pass


@contextlib.contextmanager
def running_fake_provider(directory: Path, **options: Any) -> Iterator[FakeProviderProcess]:
    """Run `python -m sandbox.video_api.openai` and end exactly that process."""
    words = [f"--set={name}={json.dumps(value)}" for name, value in options.items()]
    command = [sys.executable, "-m", "sandbox.video_api.openai", "--dir", str(directory.resolve()), *words]
    with subprocess.Popen(  # noqa: S603 - this very interpreter and module
        command, cwd=_REPO_ROOT, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield FakeProviderProcess(directory, process, process.stdout.readline().strip())
        finally:
            process.kill()
