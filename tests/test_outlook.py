"""/quota says what /create would say: figures from the ledger, windows from the declaration, every limit."""

import re

import pytest
from chat_stage import answers, front_only, said
from lives import LIMITS, PRICE, ordered
from redis.exceptions import ConnectionError as RedisAway
from sqlalchemy import insert

from chat.i18n import translator
from guardrails.admission import PAID_TOOL, Admission, AdmissionRequest, availability
from ledger.limits import Limits
from ledger.money import Money
from ledger.schema import breaker

EN = translator("en")


async def look(admission, ledger, limits=LIMITS, user_id=7):
    found = await availability(admission, ledger, user_id, PRICE, limits)
    return found.word, found.until and (found.until - found.now + 59_999) // 60_000


async def test_a_reservation_without_an_order_counts(admission, ledger):
    """What only the script knows refuses as well: a call that was admitted and has not ordered yet."""
    assert await look(admission, ledger) == ("admitted", None)
    await admission.reserve(AdmissionRequest(PAID_TOOL, "r1", 7, price=PRICE, limits=LIMITS))
    assert await look(admission, ledger) == ("cooldown", 10)
    assert await look(admission, ledger, user_id=8) == ("admitted", None)


async def test_the_limit_that_lasts_longest_says_when(admission, ledger, opened):
    """A next video is possible once nothing refuses it any more, not once the first limit is over."""
    await ordered(ledger, opened)
    await admission.refresh()
    both = Limits(quota=1, quota_window_s=7200, cooldown_s=600)
    assert await look(admission, ledger, both) == ("quota", 120)
    never = Limits(quota=1, quota_window_s=7200, user_budget=Money.parse("$1"))
    assert await look(admission, ledger, never) == ("budget", None)


async def test_an_open_breaker_comes_first_and_silence_is_said(admission, ledger, opened, monkeypatch):
    """No time is named while paid work is stopped; with Redis away the ledger speaks alone, and we say so."""
    await ordered(ledger, opened)
    async with ledger.write() as conn:
        await conn.execute(insert(breaker).values(scope="user:8", state="open", why="law", at=1))
    await admission.refresh()
    assert await look(admission, ledger, user_id=8) == ("breaker", None)

    async def away(*_):
        raise RedisAway

    monkeypatch.setattr(Admission, "_run_admit", away)
    assert await look(admission, ledger, user_id=9) == ("closed", None)
    assert await look(admission, ledger, user_id=8) == ("breaker", None)
    assert (await look(admission, ledger))[0] == "cooldown"


# In the chat

CASES = {
    "quota": (
        {"quota": "1/12h", "cooldown": None},
        [EN("quota_used", used=1, quota=1, window="12 h")],
        "quota_wait",
    ),
    "budget": (
        {"quota": None, "cooldown": None, "budget": "{user: $0.90/2day, everyone: $100/day}"},
        [
            EN("quota_used_free", used=1, window="24 h"),
            EN("quota_spent", spent="$0.80", budget="$0.90", window="2 d"),
        ],
        "quota_budget",
    ),
    "everyone": (
        {"cooldown": None, "budget": "{everyone: $1/90m}"},
        [EN("quota_spent_free", spent="$0.80", window="24 h")],
        "quota_budget",
    ),
    "nothing": ({"cooldown": None}, [EN("quota_used", used=1, quota=5, window="24 h")], "quota_ready"),
}


@pytest.mark.parametrize("case", CASES)
async def test_quota_says_what_create_would_say(app_env, case):
    """After one video: each figure beside its limit, in the declared window; ready only where /create is."""
    changes, lines, ending = CASES[case]
    env = await app_env(changes=changes)
    await env.create()
    ana = env.user()
    await ana.send("/quota")
    told = await ana.wait_for(
        lambda one: not one.mine and "videos" in one.text and "in the last" in one.text, 20
    )
    for line in lines:
        assert re.sub("<.*?>", "", line) in told.text
    start = re.sub("<.*?>", "", EN(ending, **({} if ending == "quota_ready" else {"when": "in"})).rstrip("."))
    assert start in told.text
    request, video = await env.create("a lighthouse in a storm")
    assert (video is not None) == (ending == "quota_ready"), request.reason


async def test_stopped_work_and_silence_have_words(app_env):
    """/quota says that work is stopped, and promises nothing while it cannot be checked."""
    env = await app_env(wake=front_only)
    async with env.app.ledger.write() as conn:
        await conn.execute(insert(breaker).values(scope="everyone", state="open", why="law", at=1))
    await env.app.chat.admission.refresh()
    await env.user().send("/quota")
    [told] = await answers(env, 1, 1001)
    assert EN("quota_breaker") in told
    assert EN("quota_ready") not in told


async def test_a_refusal_names_the_declared_window(app_env):
    """What is declared as 2/12h is told as 12 h: in the prices and in the refusal."""
    env = await app_env(changes={"cooldown": None, "quota": "1/12h"})
    await env.create()
    request, _ = await env.create("a lighthouse in a storm")
    assert request.reason == "quota"
    await env.user().wait_for(lambda one: "all 1 of your videos in 12 h" in one.text, 20)
    await env.user().send("/help")
    await env.user().wait_for(lambda one: "You can have 1 in any 12 h." in one.text, 20)
    assert not [text for text in said(env) if "24 h" in text]
