"""A downloaded video is kept whole or not at all."""

import asyncio
import errno
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import av
import pytest
from PIL import Image

from providers import video_file
from providers.base import BadAsset, StorageFault, TooBig
from providers.download import web_address


def small_film(
    path: Path, size: tuple[int, int] = (96, 64), frames: int = 24, pictures: Sequence[Image.Image] = ()
) -> bytes:
    """Write a film of noise, or of these pictures, each shown for a second."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        stream = out.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        noise = Image.effect_noise(size, 60).convert("RGB")
        for picture in [one for one in pictures for _ in range(24)] or [noise] * frames:
            out.mux(stream.encode(av.VideoFrame.from_image(picture)))
        out.mux(stream.encode(None))
    return path.read_bytes()


@pytest.fixture(scope="session")
def film(tmp_path_factory) -> bytes:
    return small_film(tmp_path_factory.mktemp("film") / "small.mp4")


async def sent(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for at in range(0, len(data), step):
        yield data[at : at + step]


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


async def test_a_kept_video_is_probed_and_alone(film, tmp_path):
    """A whole video is stored under its name with its thumbnail, and no part file stays."""
    asset = await video_file.save_video(sent(film), tmp_path / "new" / "v.mp4")
    assert (asset.width, asset.height, asset.bytes) == (96, 64, len(film))
    assert asset.seconds == pytest.approx(1.0, abs=1 / 24)
    assert asset.path.read_bytes() == film
    assert left(tmp_path / "new") == ["v.cover.jpg", "v.jpg", "v.mp4"]
    assert video_file.probe(asset.path) == asset


async def test_two_at_once_keep_one_file(film, tmp_path):
    """Two callers that fetch the same asset at once both succeed."""
    into = tmp_path / "v.mp4"
    one, other = await asyncio.gather(*(video_file.save_video(sent(film), into) for _ in range(2)))
    assert one == other
    assert left(tmp_path) == ["v.cover.jpg", "v.jpg", "v.mp4"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda film: b"<!doctype html><title>Sign in</title>", "is HTML"),
        (lambda film: b'{"status": "processing"}', "is JSON"),
        (lambda film: b"", "is empty"),
        (lambda film: os.urandom(4) + b"nope" + film, "ftyp"),
        (lambda film: film[: len(film) // 2], "is cut"),
        (lambda film: film[:-1], "is cut"),
        (lambda film: film[:40], "is cut"),
        (lambda film: film[:24] + bytes(len(film) - 24), "is cut"),
    ],
)
async def test_what_is_no_whole_video_leaves_nothing(change, reason, film, tmp_path):
    """A page, an answer in JSON, noise or a cut film is a BadAsset in plain words, and no file stays."""
    with pytest.raises(BadAsset, match=reason):
        await video_file.save_video(sent(change(film)), tmp_path / "v.mp4")
    assert left(tmp_path) == []


async def test_the_cap_holds(film, tmp_path):
    """A video larger than the cap is refused while it arrives."""
    with pytest.raises(BadAsset, match="larger than the 2,000 bytes"):
        await video_file.save_video(sent(film), tmp_path / "v.mp4", cap_bytes=2000)
    assert left(tmp_path) == []


async def test_a_lost_connection_passes_through(film, tmp_path):
    """An error of the source is raised unchanged, for the adapter; the part file is removed."""

    async def breaks() -> AsyncIterator[bytes]:
        yield film[:2000]
        raise ConnectionResetError("connection lost")

    with pytest.raises(ConnectionResetError):
        await video_file.save_video(breaks(), tmp_path / "v.mp4")
    assert left(tmp_path) == []


async def test_a_failed_fetch_spares_the_video_that_is_there(film, tmp_path):
    """A second fetch that goes wrong does not touch what the first one kept."""
    await video_file.save_video(sent(film), tmp_path / "v.mp4")
    with pytest.raises(BadAsset):
        await video_file.save_video(sent(b"<html>"), tmp_path / "v.mp4")
    assert (tmp_path / "v.mp4").read_bytes() == film


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written"), (errno.EIO, "Input/output")],
)
async def test_a_disk_that_refuses_is_named(code, words, film, tmp_path, monkeypatch):
    """A full, read-only or broken disk is our own fault, in words without a path."""

    def refuses(_handle: int) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path))

    monkeypatch.setattr(os, "fsync", refuses)
    with pytest.raises(StorageFault, match=words) as raised:
        await video_file.save_video(sent(film), tmp_path / "v.mp4")
    assert str(tmp_path) not in str(raised.value)
    assert left(tmp_path) == []


async def test_a_folder_that_is_a_file_is_named(film, tmp_path):
    """A media folder that cannot be made is a StorageFault, not a stack trace."""
    (tmp_path / "media").write_text("in the way")
    with pytest.raises(StorageFault, match=r"v\.mp4 was not written"):
        await video_file.save_video(sent(film), tmp_path / "media" / "v.mp4")


def test_a_missing_file_is_named(tmp_path):
    """Probing a missing file names it."""
    with pytest.raises(BadAsset, match=r"there is no file gone\.mp4"):
        video_file.probe(tmp_path / "gone.mp4")


@pytest.mark.parametrize("size", [(720, 1280), (1280, 720)])
def test_thumbnails_keep_telegrams_limits(size, tmp_path):
    """A thumbnail is a JPEG of at most 320 pixels and 200 kB, even of pure noise; the cover has full size."""
    small_film(tmp_path / "noise.mp4", size, frames=2)
    still, cover = video_file.stills(tmp_path / "noise.mp4")
    with Image.open(cover) as picture:
        assert (picture.format, picture.size) == ("JPEG", size)
    with Image.open(still) as picture:
        assert picture.format == "JPEG"
        assert max(picture.size) == 320
    assert still.stat().st_size <= 200_000


def test_the_cover_is_a_sharp_frame(tmp_path):
    """A film that begins with black and grey has the one frame with something on it as its cover."""
    shades = [Image.new("RGB", (96, 64), (shade,) * 3) for shade in (0, 40, 80, 120, 160)]
    striped = Image.new("RGB", (96, 64))
    for x in range(0, 96, 16):
        striped.paste((255, 255, 255), (x, 0, x + 8, 64))
    small_film(tmp_path / "v.mp4", pictures=[*shades[:3], striped, *shades[3:]])
    with Image.open(video_file.stills(tmp_path / "v.mp4")[1]) as picture:
        low, high = picture.convert("L").getextrema()
    assert high - low > 150


GOOD = "https://host/v.mp4?sig=1"


@pytest.mark.parametrize(
    "url", [None, 7, "", "/v.mp4", "ftp://host/v", "file:///etc/passwd", "https//host", "http://["]
)
def test_what_is_no_address_is_not_asked(url):
    """No path, broken URL or other protocol is fetched, on loopback neither."""
    for secure in (True, False):
        with pytest.raises(BadAsset):
            web_address(url, secure=secure)


def test_a_video_is_fetched_over_https_alone():
    """Plain http is for an API that is itself spoken to so: a server on loopback."""
    assert web_address(GOOD, secure=True) == GOOD
    assert web_address("http://127.0.0.1:1/v", secure=False)
    with pytest.raises(BadAsset):
        web_address("http://host/v.mp4", secure=True)


def loud_film(path: Path, seconds: int = 2) -> bytes:
    """A film of pure noise with sound: as large as a film can be."""
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as out:
        picture = out.add_stream("libx264", rate=24, options={"preset": "ultrafast", "crf": "1"})
        picture.width, picture.height, picture.pix_fmt = 320, 240, "yuv420p"
        sound = out.add_stream("aac", rate=44_100)
        for _ in range(24 * seconds):
            noise = Image.effect_noise((320, 240), 90).convert("RGB")
            out.mux(picture.encode(av.VideoFrame.from_image(noise)))
        for at in range(0, 44_100 * seconds, 1024):
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            frame.planes[0].update(bytes(4096))
            frame.sample_rate, frame.pts = 44_100, at
            out.mux(sound.encode(frame))
        for stream in (picture, sound):
            out.mux(stream.encode(None))
    return path.read_bytes()


async def test_a_film_that_telegram_would_refuse_is_made_smaller(tmp_path):
    """It keeps its picture size, its length and its sound, and fits; no other file is left."""
    film = loud_film(tmp_path / "loud.mp4")
    cap = len(film) // 4
    asset = await video_file.save_video(sent(film, 100_000), tmp_path / "out" / "v.mp4", send_bytes=cap)
    assert asset.bytes == asset.path.stat().st_size <= cap
    assert (asset.width, asset.height) == (320, 240)
    assert asset.seconds == pytest.approx(2.0, abs=0.1)
    with av.open(str(asset.path)) as found:
        assert found.streams.audio
        assert sum(1 for _ in found.decode(video=0)) == 48
    assert left(tmp_path / "out") == ["v.cover.jpg", "v.jpg", "v.mp4"]


async def test_a_film_that_cannot_be_small_enough_is_too_big(tmp_path):
    """It is named, and leaves no file."""
    film = loud_film(tmp_path / "loud.mp4")
    with pytest.raises(TooBig, match="3,000 bytes that Telegram takes"):
        await video_file.save_video(sent(film, 100_000), tmp_path / "out" / "v.mp4", send_bytes=3_000)
    assert left(tmp_path / "out") == []
