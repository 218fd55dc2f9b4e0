"""Inline mode: a person's own videos in any chat, and no one else's."""

import asyncio

import pytest

from chat.i18n import translator
from ledger import erasure
from sandbox.telegram import Fault
from tests.support.app_harness import GROUP
from tests.support.delivered import FREE, deliver_one, tap, videos_of

EN = translator("en")
pytestmark = pytest.mark.slow


async def results(person, query: str) -> list[str]:
    """Return the ids of what the app lists for a query."""
    return [one["id"] for one in await person.wait_for_results(await person.inline_query(query), 20)]


@pytest.mark.representative
async def test_own_videos_are_shared(app_env):
    """[Share] writes the video's number behind the bot's name; the app lists it, and one tap sends it."""
    env = await app_env(changes=FREE)
    ana, request, _, shown = await deliver_one(env)
    eva = env.user(2, "Eva")
    group = env.api.group(GROUP)
    [share] = [one for row in shown.buttons for one in row if one.text == EN("button_share")]
    assert (share.switch_inline, share.switch_here) == (f"#{request.short_id}", False)
    query = await ana.inline_query(share.switch_inline)
    [found] = await ana.wait_for_results(query, 20)
    assert found["id"] == request.short_id
    sent = await ana.choose(query, found["id"], chat=group)
    assert (sent.media.file_id, sent.text, sent.buttons) == (shown.media.file_id, request.caption, [])
    assert await results(ana, "") == [request.short_id]
    assert await results(eva, "") == await results(eva, f"#{request.short_id}") == []
    assert await results(ana, "#ffffff") == await results(ana, "a market") == []
    [call, *_] = env.api.calls.of("answerInlineQuery")
    assert (call.params["is_personal"], int(call.params["cache_time"])) == ("true", 1)
    assert len(env.fake_provider.posts()) == 1


async def test_a_deleted_video_is_no_longer_offered(app_env):
    """It is gone from the list with the next query."""
    env = await app_env(changes=FREE)
    ana, request, _, _ = await deliver_one(env)
    assert await results(ana, "") == [request.short_id]
    await erasure.ask(env.app.ledger, request.request_id, ana.id)
    await erasure.finish(env.app.ledger, request.request_id)
    await asyncio.sleep(0.1)
    assert await results(ana, f"#{request.short_id}") == []


async def test_a_refused_result_answers_with_none(app_env):
    """Telegram refuses a result, as one that it made an animation: the query is answered all the same."""
    env = await app_env(changes=FREE)
    ana, _, _, _ = await deliver_one(env)
    env.api.fail("answerInlineQuery", Fault.refused(400, "Bad Request: type of file mismatch"))
    assert await results(ana, "") == []


async def test_without_inline_mode_there_is_no_share(app_env):
    """Telegram would refuse the keyboard of a bot that has no inline mode."""
    env = await app_env(changes=FREE)
    env.api.change_bot(supports_inline_queries=False)
    env.app.bot._me = None
    _, _, _, shown = await deliver_one(env)
    assert EN("button_share") not in shown.button_texts
    assert EN("button_file") in shown.button_texts


async def test_people_without_access_get_nothing(app_env):
    """An inline query of one who may not use the bot is answered with nothing."""
    env = await app_env(changes=FREE, settings={"allowed_users": frozenset({1001})})
    ana, request, _, shown = await deliver_one(env)
    assert await results(env.user(2, "Eva"), "") == []
    assert await results(ana, "") == [request.short_id]
    assert (await tap(ana, shown, EN("button_file")))["text"] == EN("tap_sending")
    assert len(videos_of(ana)) == 1
