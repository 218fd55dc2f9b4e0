"""Status message and delivery: one true message and one video, whatever fails on the way."""

import asyncio
import json
import time
from dataclasses import replace
from html import unescape

import pytest
from sqlalchemy import update

from app.processes import running
from chat.i18n import translator
from chat.notifier import notify_request
from chat.status_message import delivery_caption, fit_utf16
from evals.environment import PRICE, QUICK_EDIT_LIMITS
from guardrails.money import Money
from ledger import requests
from ledger.models import VideoState
from ledger.schema import videos
from sandbox.telegram import Fault
from tests.support.app_harness import (
    GROUP,
    chat_only,
    sent_texts,
    wait_for_confirmed,
    wait_for_state,
)
from tests.support.factories import put
from tests.support.waiting import wait_until

EN = translator("en")


def videos_in(env, chat=None):
    """Return the video messages in Ana's chat, or in a group."""
    bubbles = env.user().history(chat=chat)
    return [one for one in bubbles if one.media and one.media.kind == "video"]


@pytest.mark.slow
async def test_what_arrives(app_env):
    """One message becomes the video: caption, #id, booked price, length, shape, poster, streaming; a ping."""
    env = await app_env(edit_limits=replace(QUICK_EDIT_LIMITS, quiet_s=60))
    request, video = await env.create()
    [bubble] = videos_in(env)
    media = bubble.media
    assert (media.width, media.height) == (video.asset_width, video.asset_height) == (64, 112)
    assert media.duration == video.asset_seconds
    assert media.poster
    assert bubble.id == request.status_message_id
    assert video.file_id == media.file_id
    line = EN("delivered_line", id=request.short_id, seconds=video.asset_seconds, price=PRICE)
    assert bubble.text == f"{request.caption}\n\n{line}"
    [call] = env.api.calls.of("editMessageMedia")
    assert json.loads(call.params["media"])["supports_streaming"] is True
    [status, ping] = sent_texts(env)
    assert EN("queued", seconds=8, price=PRICE) in status  # a quick run is not said to be read
    assert ping == EN("ready", id=request.short_id)
    pinged = env.user().history()[-1]
    assert (pinged.text, pinged.reply_to) == (ping, bubble.id)


@pytest.mark.slow
@pytest.mark.representative
@pytest.mark.parametrize("method", ["sendMessage", "editMessageMedia"])
async def test_a_delivery_survives_every_fault(app_env, method):
    """5xx, dropped connections and lost answers at every step: delivered, one charge, one #id."""
    env = await app_env()
    for fault in (Fault.server_error(), Fault.drop(), Fault.lost_answer(), Fault.lost_answer("502")):
        env.api.fail(method, fault)
    request, video = await env.create()
    assert video.state is VideoState.DELIVERED
    assert len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1
    assert len(videos_in(env)) == 1
    theirs = [one for one in env.user().history() if not one.mine]
    assert all(f"#{request.short_id}" in one.text for one in theirs)


@pytest.mark.slow
async def test_the_ping_survives_a_lost_answer(app_env):
    """After the video is recorded as delivered only the ping can fail, and only the ping is sent again."""
    env = await app_env()
    ana = env.user()
    env.fake_provider.polls = 3
    await ana.send("/create a quiet market at dawn")
    await ana.wait_for(lambda bubble: not bubble.mine)
    env.api.fail("sendMessage", Fault.server_error(), times=2)
    await wait_for_state(env, VideoState.DELIVERED)
    assert len(env.api.calls.of("editMessageMedia")) == 1
    assert [EN("ready", id=(await env.latest())[0].short_id)] == sent_texts(env)[1:]


@pytest.mark.slow
async def test_a_status_message_that_cannot_be_edited_is_followed_by_the_video(app_env):
    """editMessageMedia refused: sendVideo delivers it, despite faults, as a reply with all its figures."""
    env = await app_env()
    refused = Fault.refused(400, "Bad Request: message can't be edited")
    env.api.fail("editMessageMedia", refused, times=None)
    env.api.fail("sendVideo", Fault.server_error())
    request, video = await env.create()
    [bubble] = videos_in(env)
    assert (bubble.media.duration, bool(bubble.media.poster)) == (video.asset_seconds, True)
    assert bubble.reply_to == request.message_id
    assert request.status_message_id == bubble.id
    [_, call] = env.api.calls.of("sendVideo")
    assert call.params["supports_streaming"] == "true"
    told = tuple(int(call.params[name]) for name in ("width", "height", "duration"))
    assert told == (video.asset_width, video.asset_height, video.asset_seconds) == (64, 112, 1)


@pytest.mark.slow
async def test_a_flood_wait_is_obeyed(app_env):
    """After 429 nothing more is sent about this request before the time that Telegram named."""
    env = await app_env()
    ana = env.user()
    env.api.fail("sendMessage", Fault.throttled(2))
    begin = time.monotonic()
    await ana.send("/create a quiet market at dawn")
    await env.api.calls.wait_for(lambda call: call.status == 429)
    await ana.send("/status")  # a message of the user meanwhile does not shorten it
    await env.wait_settled(seconds=15)
    about = [call for call in env.api.calls.of("sendMessage") if "reply_parameters" in call.params]
    assert about[0].status == 429
    assert time.monotonic() - begin >= 2
    assert len([call for call in env.api.calls if call.status == 429]) == 1


@pytest.mark.slow
async def test_a_user_who_blocks_the_bot_gets_it_later(app_env):
    """403 postpones the notification; the user's next update brings the video. It is paid once."""
    env = await app_env()
    ana = env.user()
    env.fake_provider.polls = 30
    await ana.send("/create a quiet market at dawn")
    await ana.wait_for(lambda bubble: "being made" in bubble.text)
    await ana.block()
    env.fake_provider.polls = 1
    await env.api.calls.wait_for(lambda call: call.status == 403)

    async def postponed():
        return (await env.latest())[0].told_after > time.time() * 1000 + 86_400_000

    await wait_until(postponed, 5, "the postponement")
    refused = len([call for call in env.api.calls if call.status == 403])
    await ana.send("/status")
    await wait_for_state(env, VideoState.DELIVERED)
    assert 2 <= refused <= 4, "an edit for progress and the video, at most twice each: one is no proof"
    assert len(videos_in(env)) == len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_a_deleted_status_message_is_replaced(app_env):
    """A user who deletes the message gets a new one, and the video in it."""
    env = await app_env()
    ana = env.user()
    env.fake_provider.polls = 6
    await ana.send("/create a quiet market at dawn")
    first = await ana.wait_for(lambda bubble: not bubble.mine)
    await env.app.bot.delete_message(ana.id, first.id)
    [(request, video)] = await env.wait_settled()
    assert video.state is VideoState.DELIVERED
    assert request.status_message_id != first.id
    assert len(videos_in(env)) == 1


@pytest.mark.slow
async def test_progress_is_edited_and_not_spammed(app_env):
    """Progress edits one message, at most once in the declared time, and only where something changed."""
    env = await app_env(edit_limits=replace(QUICK_EDIT_LIMITS, private_s=0.5))
    env.fake_provider.polls = 12
    begin = time.monotonic()
    await env.create()
    took = time.monotonic() - begin
    edits = env.api.calls.of("editMessageText")
    assert len(edits) <= took / 0.5
    assert all(call.status == 200 for call in edits), "nothing was edited without a change"
    assert len(sent_texts(env)) == 2


@pytest.mark.slow
async def test_concurrent_notifiers_send_one_message(app_env):
    """Of several processes that notify about the same request at once, one does: no second status message."""
    env = await app_env(wake=lambda _: ())
    async with running(*chat_only(env.app)):
        await env.user().send("/create a quiet market at dawn")
        await wait_for_confirmed(env)
    (request, _) = await env.latest()
    await asyncio.gather(*(notify_request(env.app.chat, request.request_id) for _ in range(5)))
    assert len(sent_texts(env)) == len(env.api.calls.of("sendMessage")) == 1


@pytest.mark.slow
async def test_a_group_sees_whose_it_is(app_env):
    """In a group the status message replies to the command, and the edit limit of groups is kept."""
    edit_limits = replace(QUICK_EDIT_LIMITS, private_s=0, group_s=1)
    env = await app_env(edit_limits=edit_limits)
    group = env.api.group(GROUP)
    env.fake_provider.polls = 8
    begin = time.monotonic()
    command = await env.user().send("/create a quiet market at dawn", chat=group)
    await env.user().wait_for(lambda bubble: bubble.media is not None, chat=group)
    took = time.monotonic() - begin
    await env.wait_settled()
    [bubble] = videos_in(env, group)
    assert bubble.reply_to == command.id
    assert len(env.api.calls.of("editMessageText")) <= took
    assert replace(edit_limits, private_s=5, group_s=15).between_edits(group) == 15


@pytest.mark.slow
async def test_a_group_that_moves_keeps_its_request(app_env):
    """A group that became a supergroup answers with its new id: the video arrives there, paid once."""
    env = await app_env()
    old, new = env.api.group(-500), env.api.group(GROUP)
    moved = Fault.refused(
        400, "Bad Request: group chat was upgraded to a supergroup chat", migrate_to_chat_id=new
    )
    env.api.fail("sendMessage", moved)
    await env.user().send("/create a quiet market at dawn", chat=old)
    await env.user().wait_for(lambda bubble: bubble.media is not None, chat=new)
    assert len(env.fake_provider.posts()) == 1


@pytest.mark.slow
async def test_admins_are_alerted_once(app_env):
    """A HOLD reaches every admin once, although one is unreachable and the user blocked the bot."""
    env = await app_env(settings={"admins": frozenset({1, 2})}, capabilities={"settle_s": 0.2})
    admin, ana = env.user(1, "Eva"), env.user()
    await admin.send("/start")
    env.fake_provider.idempotency = False
    env.fake_provider.polls = 10_000
    await ana.send("/create a quiet market at dawn")
    await ana.wait_for(lambda bubble: "being made" in bubble.text)
    await ana.block()
    async with env.app.ledger.write() as conn:
        await conn.execute(update(videos).values(state=VideoState.HOLD, failure="in_doubt"))
    request, _ = await env.latest()
    alert = await admin.wait_for(lambda bubble: "HOLD" in bubble.text)
    assert f"resolve {request.short_id} unpaid" in alert.text
    await ana.send("/status")
    await wait_for_state(env, VideoState.HOLD)
    assert len([one for one in admin.history() if "HOLD" in one.text]) == 1


def test_captions_fit():
    """Whatever the idea is, the caption has at most 1,024 UTF-16 units."""
    for idea in ("👩‍👩‍👧" * 500, "🎬" * 1000, "🎬 " * 1000, "&<>\"'" * 400, "x" * 2000):
        request = _row(requests.Request, language="en", idea=idea, caption=None, request_id="tg:1:-:7:1")
        video = _row(requests.Video, seconds=8, asset_seconds=None)
        caption = delivery_caption(request, video, Money.parse("$0.80"), preview=True)
        assert len(unescape(caption).encode("utf-16-le")) // 2 <= 1024
    assert fit_utf16("a market", 600) == "a market"


def _row(kind, **values):
    return kind(**dict.fromkeys(kind.__dataclass_fields__) | values)


@pytest.mark.slow
async def test_a_pruned_file_is_sent_again_by_its_id(app_env):
    """A video that Telegram has is delivered again without its file and without a download."""
    env = await app_env()
    request, video = await env.create()
    assert video.file_id
    path = env.app.worker.asset_path(video)
    path.unlink()
    await put(env.app.ledger, request.request_id, VideoState.SUCCEEDED)
    await wait_for_state(env, VideoState.DELIVERED)
    assert not path.exists()
    assert len(videos_in(env)) == 1
