"""The preview provider animates a person's picture, once, and keeps no copy of it."""

import json
import stat
from dataclasses import replace

import av
import pytest

from providers import base
from providers.pictures import clean_picture
from tests.support.pictures import photo
from tests.support.preview_provider import (
    CHARGED,
    PREVIEW_REQUEST,
    SILENT,
    bill,
    fails,
    folder,
    phase_is,
    renderer,
)
from tests.support.waiting import wait_until

WITH_PICTURE = replace(PREVIEW_REQUEST, picture=clean_picture(photo(720, 1280)))


def frame_at(path, share: float):
    """Return the frame at this share of a film, as an RGB image."""
    with av.open(str(path)) as film:
        frames = [frame.to_image() for frame in film.decode(video=0)]
    return frames[int((len(frames) - 1) * share)]


@pytest.mark.slow
async def test_a_picture_is_animated_once_and_then_removed(company, tmp_path):
    """The film shows the picture, closer at its end; one charge; the copy is gone with the verdict."""
    provider = company()
    assert provider.capabilities.pictures
    job = await provider.submit(WITH_PICTURE)
    assert await provider.submit(WITH_PICTURE) == job
    await wait_until(lambda: phase_is(provider, job.job_id, "succeeded"), 120, "the film")
    asset = await provider.fetch(job.job_id, tmp_path / "v.mp4")
    first, last = frame_at(asset.path, 0), frame_at(asset.path, 1)
    corner = first.getpixel((20, 1260))
    assert corner[0] > 150
    assert max(corner[1:]) < 110
    assert first.tobytes() != last.tobytes()

    def white_columns(image):
        return sum(min(image.getpixel((x, 560))) > 180 for x in range(720))

    assert white_columns(last) > white_columns(first), "the camera comes closer"
    assert bill(company) == [CHARGED]
    place = folder(company, job.job_id)
    assert not (place.path / "picture.jpg").exists()
    assert b"\xff\xd8" not in (place.path / "order.json").read_bytes()


async def test_another_picture_under_the_same_key_is_refused(company):
    """A replay is the same order only with the same picture; while it waits the copy is its owner's alone."""
    provider = company(command=SILENT)
    job = await provider.submit(WITH_PICTURE)
    for other in (
        PREVIEW_REQUEST,
        replace(WITH_PICTURE, picture=clean_picture(photo(720, 1280, colour="blue"))),
    ):
        with pytest.raises(base.Rejected):
            await provider.submit(other)
    copy = folder(company, job.job_id).path / "picture.jpg"
    assert WITH_PICTURE.picture is not None
    assert copy.read_bytes() == WITH_PICTURE.picture.data
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert bill(company) == [CHARGED]


async def test_a_failed_job_keeps_no_picture(company):
    provider = company(command=renderer("import os; os.kill(os.getpid(), 9)"))
    job = await provider.submit(WITH_PICTURE)
    await fails(provider, job.job_id)
    assert not (folder(company, job.job_id).path / "picture.jpg").exists()


async def test_an_order_without_a_picture_is_written_as_before(company):
    """An order of words has the fields that it always had."""
    job = await company(command=SILENT).submit(PREVIEW_REQUEST)
    body = json.loads((folder(company, job.job_id).path / "order.json").read_text("ascii"))["body"]
    assert set(body) == {"model", "prompt", "seconds", "size", "seed", "caption"}
