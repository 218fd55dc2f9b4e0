"""The film on disk: H.264 and AAC in an MP4 whose index comes first, so that it plays while it loads."""

import contextlib
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace, VideoReformatter
from av.video.stream import VideoStream
from PIL import Image

from sandbox.renderer.film import FPS, Film

RATE = 48_000
_AHEAD = 6  # frames drawn but not yet encoded
# A slow camera over flat colours: what is left out here took a fifth of the encoder's time and saved no byte.
_X264 = {
    "preset": "superfast", "crf": "24", "g": "48",
    "x264-params": "subme=0:aq-mode=0:rc-lookahead=0:mbtree=0:scenecut=0",
}  # fmt: skip
_CHORDS: tuple[tuple[float, ...], ...] = (
    (130.81, 196.0, 246.94, 329.63), (146.83, 220.0, 277.18, 329.63), (110.0, 164.81, 220.0, 246.94),
    (123.47, 185.0, 233.08, 311.13),
)  # fmt: skip


def write_reel(
    film: Film, path: Path, seed: int, on_frame: Callable[[int], None], *, sound: bool = True
) -> None:
    """Encode all frames with a quiet chord, which the seed chooses, into a file that the caller renames.

    Without sound the track is silent: Telegram takes a film that has none for an animation.

    `on_frame` gets the number of each encoded frame, and may raise to stop. OSError if the disk refuses.
    """
    width, height = film.size
    with av.open(os.fspath(path), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        video = out.add_stream("libx264", rate=FPS, options=_X264)
        video.width, video.height, video.pix_fmt = width, height, "yuv420p"
        video.codec_context.thread_count = 2  # a fixed number: the file must not depend on the machine
        video.codec_context.colorspace = Colorspace.ITU709
        track = out.add_stream("aac", rate=RATE, layout="stereo")
        track.bit_rate = 96_000
        _sing(out, track, film.frames // FPS, seed, 0.05 if sound else 0)
        _encode_video(out, video, film, on_frame)


def _encode_video(
    out: OutputContainer, stream: VideoStream, film: Film, on_frame: Callable[[int], None]
) -> None:
    """Draw on this thread and encode on another: PyAV leaves the interpreter free while it works."""
    painter = VideoReformatter()

    def encode(number: int, picture: Image.Image) -> None:
        frame = VideoFrame.from_image(picture)  # type: ignore[no-untyped-call]  # PyAV leaves it so
        # One thread: a frame is so small that more of them mostly wait for each other.
        ready = painter.reformat(frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, threads=1)
        ready.pts, ready.time_base = number, Fraction(1, FPS)
        out.mux(stream.encode(ready))

    waiting = deque[Future[None]]()
    with ThreadPoolExecutor(1) as encoder:
        for number in range(film.frames):
            waiting.append(encoder.submit(encode, number, film.frame(number)))
            if len(waiting) > _AHEAD:
                waiting.popleft().result()
            on_frame(number)
        while waiting:
            waiting.popleft().result()
    out.mux(stream.encode(None))


def _sing(out: OutputContainer, stream: AudioStream, seconds: int, seed: int, volume: float) -> None:
    """A soft, slowly breathing chord, computed by FFmpeg's own `aevalsrc`: Python would need seconds."""
    swell = f"{volume}*min(1,t/1.2)*min(1,({seconds}-t)/1.4)"
    sides = []
    for detune in (0.9985, 1.0015):
        voices = [
            f"{0.9 / (i + 1):.3f}*sin(2*PI*{tone * detune:.3f}*t)*(0.7+0.3*sin({0.6 + 0.25 * i:.2f}*t+{i}))"
            for i, tone in enumerate(_CHORDS[seed % len(_CHORDS)])
        ]
        sides.append(f"{swell}*({'+'.join(voices)})")
    graph = av.filter.Graph()
    source = graph.add("aevalsrc", args=f"exprs='{'|'.join(sides)}':s=16000:d={seconds}")
    graph.link_nodes(source, graph.add("abuffersink")).configure()
    with contextlib.suppress(av.EOFError):
        while isinstance(frame := graph.pull(), av.AudioFrame):
            out.mux(stream.encode(frame))
    out.mux(stream.encode(None))
