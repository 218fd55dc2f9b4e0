"""How many messages and Bot API calls one video takes, from the command to the film in the chat."""

import asyncio

import pytest

from chat.context import EditLimits
from ledger.models import VideoState
from tests.support.app_harness import APPROVE, wait_for_state
from tests.support.crash_env import is_offer
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

QUICKER = 20
"""All times of the test are this many times shorter than the shipped ones."""
SHIPPED = EditLimits()
SCALED = EditLimits(
    private_s=SHIPPED.private_s / QUICKER,
    group_s=SHIPPED.group_s / QUICKER,
    quiet_s=SHIPPED.quiet_s / QUICKER,
    progress_s=SHIPPED.progress_s / QUICKER,
    ping_after_s=SHIPPED.ping_after_s / QUICKER,
)
FILMED_S = 180 / QUICKER
AT_START = {
    "getUpdates", "getMe", "setMyCommands", "getMyDescription", "getMyShortDescription", "setMyDescription",
    "setMyShortDescription",
}  # fmt: skip
"""Calls that belong to no video: the bot's profile is written while the first command is handled."""
MOST_MESSAGES, MOST_CALLS = 2, 10


@pytest.mark.parametrize("asks", ["always", "never"])
async def test_a_video_of_three_minutes(app_env, asks):
    """Two messages and ten calls at most; the film, its progress on the way and the ping are among them."""
    env = await app_env(changes={"approval": asks}, edit_limits=SCALED)
    env.fake_provider.polls = 10**6
    ana = env.user()
    before = len(env.api.calls)
    await ana.send("/create a quiet market at dawn")
    if asks == "always":
        offer = await ana.wait_for(is_offer, 60)
        await ana.tap(offer.id, APPROVE)
    await _accepted(env)
    await asyncio.sleep(FILMED_S)
    env.fake_provider.polls = 0
    await wait_for_state(env, VideoState.DELIVERED, seconds=60)
    film = await ana.wait_for(lambda bubble: bubble.media is not None and not bubble.mine, 60)
    await ana.wait_for(lambda bubble: bubble.id > film.id and not bubble.mine, 60)
    methods = [call.method for call in list(env.api.calls)[before:]]
    calls = [one for one in methods if one not in AT_START]
    mine = [bubble for bubble in ana.history() if not bubble.mine]
    assert len(mine) == MOST_MESSAGES, [bubble.text for bubble in mine]
    assert calls.count("editMessageText") >= 1, calls
    assert len(calls) <= MOST_CALLS, calls


async def _accepted(env) -> None:
    async def check() -> bool:
        found = await env.latest()
        return found is not None and found[1] is not None and found[1].state is VideoState.ACCEPTED

    await wait_until(check, 60, "the job to be accepted")
