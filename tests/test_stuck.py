"""A paid video that Telegram does not take: its user reads so, an admin hears once, and it is tried on."""

import pytest
from chat_stage import said, state_is
from sqlalchemy import update
from waiting import wait_until

from chat import delivery
from chat.i18n import translator
from evals.environment import PRICE
from ledger.models import VideoState
from ledger.schema import videos
from providers.base import Gone
from sandbox.telegram import Fault

EN = translator("en")
EVA = 1
WAYS = ("editMessageMedia", "sendVideo")


@pytest.fixture
async def env(app_env):
    made = await app_env(settings={"admins": frozenset({EVA})})
    await made.user(EVA, "Eva").send("/start")
    return made


def alerts(env):
    return [one for one in env.user(EVA).history() if "paid and not delivered" in one.text]


async def arrives(env):
    """The video arrives after all, once, in the chat and in the books."""
    await state_is(env, VideoState.DELIVERED, seconds=30)
    shown = [one for one in env.user().history() if one.media and one.media.kind == "video"]
    assert len(shown) == len(env.fake_provider.posts()) == len(env.fake_provider.charges()) == 1
    assert len([text for text in said(env, 1001) if "ready" in text]) == 1


@pytest.mark.parametrize(
    "fault",
    [Fault.refused(400, "Bad Request: wrong file"), Fault.refused(413, "Request Entity Too Large")],
    ids=["refused", "too large"],
)
async def test_what_telegram_refuses_is_told(env, fault):
    """A file that Telegram refuses: the user reads that it is finished and paid, the admin hears once however
    often it is tried, and it arrives when Telegram takes it.
    """
    for way in WAYS:
        env.api.fail(way, fault, times=None)
    ana = env.user()
    await ana.send("/create a quiet market at dawn")
    told = await ana.wait_for(lambda one: "was paid for it" in one.text, 30)
    assert str(PRICE) in told.text
    await env.user(EVA).wait_for(lambda one: "paid and not delivered: Telegram refuses it" in one.text, 20)
    tries = len(env.api.calls.of("sendVideo", "editMessageMedia"))

    async def tried_on():
        return len(env.api.calls.of("sendVideo", "editMessageMedia")) > tries + 1

    await wait_until(tried_on, 30, "further tries")
    assert len(alerts(env)) == 1
    assert len([one for one in ana.history() if "was paid for it" in one.text]) == 1
    env.api.heal()
    await arrives(env)


async def test_a_file_that_is_gone_is_told(env, monkeypatch):
    """A file that is neither here nor at the provider: told to both, and delivered once it is there."""
    fetch = delivery._with_asset

    async def gone(ctx, video):
        raise Gone("no such output")

    monkeypatch.setattr(delivery, "_with_asset", gone)
    await env.user().send("/create a quiet market at dawn")
    await env.user(EVA).wait_for(lambda one: "gone and cannot be fetched" in one.text, 30)
    await env.user().wait_for(lambda one: "was paid for it" in one.text, 20)
    monkeypatch.setattr(delivery, "_with_asset", fetch)
    await arrives(env)
    assert len(alerts(env)) == 1


async def test_a_short_outage_alarms_nobody_and_a_long_one_does(env):
    """What waiting may mend is nobody's matter at first; after half an hour it is told, once."""
    for way in WAYS:
        env.api.fail(way, Fault.server_error(), times=None)
    await env.user().send("/create a quiet market at dawn")
    await env.api.calls.wait_for(lambda call: call.method == "sendVideo" or call.status == 500, 30)

    async def thrice():
        return len([call for call in env.api.calls if call.status == 500]) >= 3

    await wait_until(thrice, 30, "three tries")
    assert alerts(env) == []
    assert not [text for text in said(env, 1001) if "was paid for it" in text]
    async with env.app.ledger.write() as conn:
        await conn.execute(update(videos).values(updated_at=videos.c.updated_at - 7_200_000))
    await env.user(EVA).wait_for(lambda one: "it fails for 12" in one.text, 30)
    env.api.heal()
    await arrives(env)
    assert len(alerts(env)) == 1
