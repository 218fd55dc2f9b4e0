"""Makes a film small enough for Telegram: the same picture size and length at a lower bit rate."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import av
from av.audio.stream import AudioStream
from av.video.stream import VideoStream

from providers.base import TooBig, Transient

_AUDIO_BIT_RATE: Final = 128_000
_LEAST_VIDEO_BIT_RATE: Final = 100_000
_SHARE: Final = 0.9
"""Of the bytes allowed, for the first try: the container and an encoder that overshoots take the rest."""
_TRIES: Final = 3


def shrink(source: Path, target: Path, seconds: float, most_bytes: int, stop: threading.Event) -> None:
    """Write `source` to `target` as H.264 and AAC in at most `most_bytes`. Blocking: call it in a thread.

    Args:
        source: A film that opens.
        target: Where the smaller film is written.
        seconds: Its length.
        most_bytes: What Telegram takes.
        stop: Ends the work when it is set, because no one waits for it any more.

    Raises:
        TooBig: It cannot be made so small.
        Transient: `stop` was set.
        av.FFmpegError, OSError: The film does not decode, or the disk refuses the file.
    """
    bit_rate = int(most_bytes * 8 * _SHARE / seconds) - _AUDIO_BIT_RATE
    for _ in range(_TRIES):
        if bit_rate < _LEAST_VIDEO_BIT_RATE:
            break
        _encode(source, target, bit_rate, stop)
        if target.stat().st_size <= most_bytes:
            return
        bit_rate //= 2
    raise TooBig(f"the video cannot be made smaller than the {most_bytes:,} bytes that Telegram takes")


def _encode(source: Path, target: Path, bit_rate: int, stop: threading.Event) -> None:
    with (
        av.open(os.fspath(source)) as film,
        av.open(os.fspath(target), "w", format="mp4", options={"movflags": "+faststart"}) as out,
    ):
        picture = film.streams.video[0]
        sound = film.streams.audio[0] if film.streams.audio else None
        video = _add_video(out, picture, bit_rate)
        audio = None
        if sound is not None:
            audio = out.add_stream("aac", rate=sound.rate)
            audio.bit_rate = _AUDIO_BIT_RATE
        for frame in _frames(film, picture, sound, stop):
            if isinstance(frame, av.VideoFrame):
                frame.pict_type = av.video.frame.PictureType.NONE  # the encoder chooses its own key frames
                out.mux(video.encode(frame))
            elif audio is not None:
                out.mux(audio.encode(frame))
        for stream in (video, audio):
            if stream is not None:
                out.mux(stream.encode(None))


def _add_video(out: av.container.OutputContainer, picture: VideoStream, bit_rate: int) -> VideoStream:
    limits = {"preset": "veryfast", "maxrate": str(bit_rate), "bufsize": str(bit_rate)}
    video = out.add_stream("libx264", rate=picture.average_rate or 24, options=limits)
    video.width, video.height = picture.width - picture.width % 2, picture.height - picture.height % 2
    video.pix_fmt, video.bit_rate = "yuv420p", bit_rate
    if picture.time_base:
        video.codec_context.time_base = picture.time_base  # so that frames keep their times
    return video


def _frames(
    film: av.container.InputContainer,
    picture: VideoStream,
    sound: AudioStream | None,
    stop: threading.Event,
) -> Iterator[av.VideoFrame | av.AudioFrame]:
    for packet in film.demux(*(stream for stream in (picture, sound) if stream is not None)):
        if stop.is_set():
            raise Transient("the video was not made smaller: no one waits for it any more")
        for frame in packet.decode():
            if isinstance(frame, av.VideoFrame | av.AudioFrame):
                yield frame
