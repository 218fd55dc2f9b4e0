"""An order's picture goes out with its one POST, or nothing does; a lost answer needs no picture."""

import pytest

from ledger.models import VideoState
from providers.pictures import clean_picture, fit_picture
from tests.support.factories import put, update_fields
from tests.support.pictures import photo
from tests.support.pipeline_harness import reconcile_after
from worker.pictures import PictureGone, load_picture, picture_path, save_picture

V = VideoState
PICTURE = clean_picture(photo(640, 480))


async def with_picture(env, outcome: str = "", **columns) -> str:
    """Return a queued order of a picture that its person may use."""
    request = await env.ordered()
    await update_fields(env.ledger, request, picture=PICTURE.sha256)
    await put(env.ledger, request, V.QUEUED, **{"picture": PICTURE.sha256, "picture_allowed_at": 1} | columns)
    await save_picture(env.worker.media_dir, 7, request, PICTURE)
    if outcome:
        env.fake_provider.script(outcome)
    return request


def path_of(env, request: str):
    return picture_path(env.worker.media_dir, 7, request, PICTURE.sha256)


async def test_the_picture_goes_out_with_the_one_post(pipeline_env):
    env = await pipeline_env(shape="openai", quick={"pictures": True})
    request = await with_picture(env)
    await env.submit(request)
    [job] = env.fake_provider.jobs.values()
    assert job.fields["input_reference"] == fit_picture(PICTURE, (await env.video(request)).size)
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.parametrize(
    ("columns", "takes", "keeps"),
    [
        ({}, True, False),
        ({}, False, True),
        ({"picture_allowed_at": None}, True, True),
        ({"picture": None}, True, True),
        ({"picture": "b" * 64}, True, True),
    ],
    ids=["file gone", "provider takes none", "no word", "placed by the version before", "another hash"],
)
async def test_without_its_picture_nothing_is_sent(pipeline_env, columns, takes, keeps):
    """Whatever is missing, the order ends unpaid, and its user reads why."""
    env = await pipeline_env(shape="openai", quick={"pictures": takes})
    request = await with_picture(env, **columns)
    if not keeps:
        path_of(env, request).unlink()
    await env.submit(request)
    video = await env.video(request)
    assert (video.state, video.failure) == (V.EXPIRED, "picture_gone")
    assert env.fake_provider.posts() == []
    assert await env.paid_micros() == 0


async def test_an_order_not_sent_is_sent_again_with_the_same_bytes(pipeline_env):
    """A documented refusal that costs nothing, then the same order: the body is the same."""
    env = await pipeline_env(shape="openai", quick={"pictures": True})
    request = await with_picture(env, "throttle_429")
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len({post["digest"] for post in env.fake_provider.posts()}) == 1
    assert len(env.fake_provider.charges()) == 1


async def test_a_lost_answer_is_resolved_without_the_picture(pipeline_env):
    """The list needs no picture: the job is found, paid once and delivered."""
    env = await pipeline_env(shape="openai", quick={"pictures": True})
    request = await with_picture(env, "charge_drop")
    await env.submit(request)
    path_of(env, request).unlink()
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.parametrize(("kept", "posts"), [(True, 2), (False, 1)])
async def test_a_replay_needs_the_picture(pipeline_env, kept, posts):
    """Where a key is documented, the POST is replayed with the same bytes; without the picture it is not."""
    env = await pipeline_env(shape="inworld", quick={"pictures": True})
    request = await with_picture(env, "drop")
    await env.submit(request)
    assert (await env.video(request)).state is V.IN_DOUBT
    if not kept:
        path_of(env, request).unlink()
    await reconcile_after(env, 1, request)
    found = env.fake_provider.posts()
    assert len(found) == posts
    assert len({post["digest"] for post in found}) == 1


async def test_what_the_folder_holds_is_checked(tmp_path):
    """A file is stored once, whole, and given back only with its hash."""
    for _ in range(2):
        await save_picture(tmp_path, 7, "tg:1:-:7:1", PICTURE)
    assert await load_picture(tmp_path, 7, "tg:1:-:7:1", PICTURE.sha256) == PICTURE
    [file] = (tmp_path / "pictures").rglob("*.*")
    file.write_bytes(PICTURE.data[:-1])
    assert await load_picture(tmp_path, 7, "tg:1:-:7:1", PICTURE.sha256) is None
    assert await load_picture(tmp_path, 8, "tg:1:-:7:1", PICTURE.sha256) is None
    assert issubclass(PictureGone, Exception)
