"""The open breaker stops paid work, alerts every admin once, and only an operator closes it."""

import io

import pytest
from pydantic import SecretStr
from rich.console import Console

from app.operator_commands import OperatorCommandError, breakers
from app.settings import read_settings
from chat.alerts import send_due_alerts
from chat.i18n import translator
from evals.environment import PRICE
from guardrails.limits import EVERYONE, BreakerRates, StartRate
from ledger import breaker, transitions
from ledger.models import VideoState
from tests.support.app_harness import wait_for_state
from tests.support.factories import NO_RATES, begun, new_job, ordered
from tests.support.pipeline_harness import PIPELINE_TIMEOUTS, in_doubt, reconcile_after

V = VideoState
EN = translator("en")
ADMIN, OTHER, ANA = 1, 2, 1001


async def tripped(ledger, opened):
    """Open everyone's breaker by a second job for one request."""
    request = await begun(ledger, opened)
    for _ in range(2):
        await transitions.adopt_job(ledger, request, new_job(), "test", None)
    [one] = await breaker.open_breakers(ledger)
    assert one.scope == EVERYONE
    return one


@pytest.mark.any_ledger
async def test_starts_before_a_close_do_not_count(ledger, opened):
    """Starts before a close open nothing again: waiting orders continue, and counting begins at zero."""
    rates = BreakerRates(user=StartRate(2, 300))
    ids = [await ordered(ledger, opened) for _ in range(6)]

    async def start(request):
        return await transitions.begin_submit(ledger, request, "f", 30, rates) is not None

    assert [await start(one) for one in ids[:4]] == [True, True, False, False]
    assert await breaker.close(ledger, "user:7", "eva")
    assert [await start(one) for one in ids[2:]] == [True, True, False, False]


@pytest.mark.any_ledger
async def test_an_old_button_closes_no_new_opening(ledger, opened):
    """A close that names one opening closes only that one."""
    one = await tripped(ledger, opened)
    assert not await breaker.close(ledger, EVERYONE, "eva", one.at - 1)
    assert await breaker.close(ledger, EVERYONE, "eva", one.at)
    assert await breaker.open_breakers(ledger) == []


async def test_terminal_shows_and_closes(ledger, ledger_url, opened):
    """`python -m bot breaker` prints what is open and why; `close SCOPE` closes it; all else is refused."""
    given = read_settings(_env_file=None, database_url=SecretStr(ledger_url))
    console = Console(file=io.StringIO(), width=200)
    await tripped(ledger, opened)
    await breakers(given, console, "show", "")
    assert "a job too many" in console.file.getvalue()
    for act, scope, why in (
        ("close", "user:9", "open: everyone"),
        ("shut", "", "breaker close SCOPE"),
        ("open", "user:9", "--why"),
    ):
        with pytest.raises(OperatorCommandError, match=why):
            await breakers(given, console, act, scope)
    await breakers(given, console, "close", EVERYONE)
    await breakers(given, console, "show", "")
    assert "No breaker is open" in console.file.getvalue()
    assert await transitions.begin_submit(ledger, await ordered(ledger, opened), "f", 30, NO_RATES)


@pytest.mark.any_ledger
async def test_an_operator_opens_it(ledger, opened):
    """An operator's opening stops every start of its scope until it is closed, and is no violation."""
    mine, other = await ordered(ledger, opened), await ordered(ledger, opened, user_id=8)
    assert await breaker.open_scope(ledger, "user:7", "operator:eva", "strange prompts")
    [one] = await breaker.open_breakers(ledger)
    assert (one.scope, one.why, one.who, one.violation) == (
        "user:7",
        "strange prompts",
        "operator:eva",
        False,
    )
    assert not await breaker.open_scope(ledger, "user:7", "operator:bo", "again"), "it keeps its first reason"
    assert await transitions.begin_submit(ledger, mine, "f", 30, NO_RATES) is None
    assert await transitions.begin_submit(ledger, other, "f", 30, NO_RATES)
    assert await breaker.close(ledger, "user:7", "operator:eva")
    assert await transitions.begin_submit(ledger, mine, "f", 30, NO_RATES)


@pytest.mark.parametrize("scope", ["", "all", "user:", "user:x", "user:-1", "everyone ", "user:7;everyone"])
async def test_only_known_scopes_are_opened(ledger, scope):
    """A scope that no start asks for would stop nothing: it is refused by its name."""
    with pytest.raises(breaker.UnknownScope, match="everyone"):
        await breaker.open_scope(ledger, scope, "operator:eva", "stop")
    assert await breaker.open_breakers(ledger) == []


async def test_terminal_opens(ledger, ledger_url, opened):
    """`python -m bot breaker open SCOPE --why` stops paid work in the operator's name."""
    given = read_settings(_env_file=None, database_url=SecretStr(ledger_url))
    console = Console(file=io.StringIO(), width=200)
    await breakers(given, console, "open", EVERYONE, "the bill looks wrong")
    [one] = await breaker.open_breakers(ledger)
    assert (one.scope, one.why) == (EVERYONE, "the bill looks wrong")
    assert one.who.startswith("operator:")
    with pytest.raises(OperatorCommandError, match="is open already"):
        await breakers(given, console, "open", EVERYONE, "once more")
    assert "Paid work is stopped for everyone" in console.file.getvalue()


@pytest.mark.parametrize("scope", [EVERYONE, "user:7"])
async def test_an_open_breaker_stops_replays(pipeline_env, scope):
    """The POST never arrived, so a replay is a first payment: none goes out while the breaker is open, and
    the order is not given up either. When it is closed the replay makes the one video.
    """
    env = await pipeline_env(quick={"settle_s": 600.0, "submit_timeout_s": 10.0})
    request = await in_doubt(env, "drop")
    assert await breaker.open_scope(env.ledger, scope, "operator:eva", "stop everything")
    for seconds in (1, 700, 700):
        assert await reconcile_after(env, seconds, request) == [V.IN_DOUBT]
    assert len(env.fake_provider.posts()) == 1
    assert env.fake_provider.charges() == []
    assert await breaker.close(env.ledger, scope, "operator:eva")
    await env.worker.breaker_closed()
    await env.run_due("reconcile")
    assert await env.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1


async def test_a_doubt_ends_although_the_breaker_stays_open(pipeline_env):
    """When the provider has forgotten the key, an order that could not be replayed is held for a person."""
    env = await pipeline_env(quick={"settle_s": 600.0})
    request = await in_doubt(env, "charge_drop")
    assert await breaker.open_scope(env.ledger, EVERYONE, "operator:eva", "stop everything")
    assert await reconcile_after(env, 3600, request) == [V.HOLD]
    assert len(env.fake_provider.posts()) == 1


async def test_a_list_is_asked_although_the_breaker_is_open(pipeline_env):
    """A list is a free question: a job that was charged is found while the breaker is open."""
    env = await pipeline_env(shape="openai")
    request = await in_doubt(env, "charge_drop")
    assert await breaker.open_scope(env.ledger, EVERYONE, "operator:eva", "stop everything")
    assert await reconcile_after(env, 1, request) == [V.ACCEPTED]


async def shown_as_open(env, user_id: int) -> bool:
    """Return whether Redis has this user's breaker as open."""
    (key,) = [key async for key in env.redis.scan_iter(f"*:user:{user_id}")]
    return await env.redis.hget(key, "breaker") != "0"


async def test_waiting_orders_continue_at_once(pipeline_env):
    """A close queues the waiting orders, and Redis admits new ones without waiting for its refresh."""
    env = await pipeline_env(changes={"breaker": "{user: 1/5m}"}, timeouts=PIPELINE_TIMEOUTS)
    first, second = await env.ordered(), await env.ordered()
    await env.submit(first)
    await env.submit(second)
    assert (await env.video(second)).state is V.QUEUED
    await env.worker.admission.refresh()
    assert await shown_as_open(env, 7)
    env.queue.asked.clear()
    assert await breaker.close(env.ledger, "user:7", "eva")
    await env.worker.breaker_closed()
    assert ("submit", "breaker") in env.queue.asked
    assert not await shown_as_open(env, 7)
    for _, video in await env.finish(first, second):
        assert video.state is V.SUCCEEDED
    assert await env.paid_micros() == 2 * PRICE.micros


# In the chat


@pytest.fixture
async def env(app_env):
    """An app whose breaker opens at the second paid start of a user in five minutes; two admins."""
    made = await app_env(
        changes={"breaker": "{user: 1/5m}", "cooldown": None},
        settings={"admins": frozenset({ADMIN, OTHER})},
    )
    for admin in (ADMIN, OTHER):
        await made.user(admin, "Eva").send("/start")
    return made


async def stopped(env):
    """Ana's second order is stopped by her open breaker."""
    ana = env.user(ANA)
    await env.create()
    await ana.send("/create a lighthouse in a storm")
    await ana.wait_for(lambda one: EN("waiting_breaker") in one.text)


def alerts(env, admin):
    return [one for one in env.user(admin).history() if not one.mine and "user:1001" in one.text]


@pytest.mark.slow
async def test_admins_are_alerted_once_and_a_tap_closes_it(env):
    """Every admin gets one alert with the reason. After a tap on [Close breaker] the waiting order is made,
    and every alert shows that it is closed.
    """
    await stopped(env)
    eva, other = env.user(ADMIN), env.user(OTHER)
    shown = [
        await one.wait_for(lambda bubble: "Paid work is stopped for user:1001" in bubble.text)
        for one in (eva, other)
    ]
    assert "2 paid starts" in shown[0].text
    button = EN("button_close", scope="user:1001")
    assert all(one.button_texts == [button, EN("button_acknowledge")] for one in shown)
    for _ in range(3):
        await send_due_alerts(env.app.chat)
    query = await eva.tap(shown[0].id, button)
    assert (await eva.wait_for_answer(query))["text"] == EN("breaker_closed", scope="user:1001")
    query = await other.tap(shown[1].id, button)
    assert (await other.wait_for_answer(query))["text"] == EN("tap_settled")
    await wait_for_state(env, V.DELIVERED)
    assert [len(alerts(env, one)) for one in (ADMIN, OTHER)] == [1, 1]
    assert len(env.fake_provider.posts()) == 2
    async with env.app.ledger.read() as conn:
        from sqlalchemy import select

        from ledger.schema import breaker as table

        row = (await conn.execute(select(table).where(table.c.scope == "user:1001"))).one()
    assert (row.state, row.who) == ("closed", f"admin:{ADMIN}")


@pytest.mark.slow
async def test_chat_command_shows_and_closes(env):
    """`/breaker` shows what is open with its button, `/breaker close SCOPE` closes it; else refused."""
    await stopped(env)
    eva = env.user(ADMIN)
    await eva.send("/breaker")
    close = [EN("button_close", scope="user:1001")]  # the alert has [I take it on] too
    await eva.wait_for(
        lambda one: "is stopped for user:1001: 2 paid" in one.text and one.button_texts == close
    )
    for words, answered in (
        ("/breaker close user:9", EN("breaker_not", scope="user:9")),
        ("/breaker open", "/breaker close"),
        ("/breaker open nobody why not", "nobody is no scope"),
        ("/breaker open everyone a strange bill", EN("breaker_opened", scope="everyone")),
        ("/breaker open everyone again", EN("breaker_already", scope="everyone")),
        ("/breaker close everyone", EN("breaker_closed", scope="everyone")),
        ("/breaker close user:1001", EN("breaker_closed", scope="user:1001")),
        ("/breaker", EN("breaker_none")),
    ):
        await eva.send(words)
        await eva.wait_for(lambda one, answered=answered: not one.mine and answered in one.text)
    await wait_for_state(env, V.DELIVERED)


@pytest.mark.slow
async def test_a_user_cannot_close_it(env):
    """The user whose orders wait can close the breaker neither by command nor by button."""
    await stopped(env)
    ana = env.user(ANA)
    for words in ("/breaker close user:1001", "/breaker open everyone for fun"):
        await ana.send(words)
        await ana.wait_for(lambda one: EN("operators_only") in one.text)
    eva = env.user(ADMIN)
    shown = await eva.wait_for(lambda bubble: "Paid work is stopped for" in bubble.text)
    query = {"id": "77", "from": ana.user.user(), "chat_instance": "1", "data": shown.buttons[0][0].data}
    env.api.world.updates.push("callback_query", query, "tap:1001", 60)
    call = await env.api.calls.wait_for(lambda call: call.params.get("callback_query_id") == "77")
    assert call.params["text"] == EN("tap_operators")
    assert [one.scope for one in await breaker.open_breakers(env.app.ledger)] == ["user:1001"]
