"""The page over the whole house: its figures are the provider's own, and what it settles goes on."""

import asyncio
import io
import re
from contextlib import asynccontextmanager

from aiohttp import ClientSession, CookieJar
from chat_stage import state_is
from operator_stage import BEARER, TOKEN, Browser, Clock, Floor, settle
from pydantic import SecretStr
from rich.console import Console
from waiting import wait_until

from app.processes import _http_app, run_chat
from app.settings import read_settings
from evals.environment import PRICE
from ledger.models import VideoState
from web.server import serve

ADMIN = {"admin_token": SecretStr(TOKEN)}


@asynccontextmanager
async def at_the_front(env):
    """A browser at what `python -m bot run` serves over this house."""
    jar = CookieJar(unsafe=True)
    async with serve(_http_app(env.app), "127.0.0.1", 0) as url, ClientSession(cookie_jar=jar) as web:
        yield Browser(url, web, Floor(), Clock())


async def test_page_metrics_and_the_providers_own_log_agree_to_the_cent(app_env):
    """After the incident twice over, API and /metrics say what the provider took, and what was prevented."""
    env = await app_env("thirteen", settings=ADMIN, changes={"cooldown": None})
    for _ in range(2):
        _, video = await env.create()
        assert video.state is VideoState.DELIVERED
    took = sum(env.fake_provider.net().values())
    assert took == 2 * PRICE.micros
    async with at_the_front(env) as browser:
        month = (await browser.api("?span=30d"))["spans"]["30d"]
        status, shown, _ = await browser.get("/metrics", headers=BEARER)
        assert (await browser.get("/readyz"))[0] == status == 200
    assert (month["paid"]["micros"], month["videos"], month["commands"]) == (took, 2, 2)
    assert (month["videos_per_command"], month["duplicates_prevented"]) == (1.0, 24)
    [charged] = re.findall(r'(?m)^onetake_cost_dollars_total\{kind="charge"\} (\S+)$', shown)
    assert round(float(charged) * 1_000_000) == took


async def test_what_the_page_settles_goes_on(app_env):
    """A charged order whose answer was lost, settled on the page with its job, is delivered by the worker."""
    env = await app_env(shape="openai", settings=ADMIN, fake_provider_options={"listing": False})
    env.fake_provider.script("charge_drop")
    await env.user().send("/create a quiet market at dawn")
    await state_is(env, VideoState.HOLD)
    request, _ = await env.latest()
    [job] = env.fake_provider.jobs
    async with at_the_front(env) as browser:
        await browser.log_in()
        assert (await settle(browser, request.request_id, outcome="paid", job=job))[0] == 303
        [(_, video)] = await env.ended()
        assert video.state is VideoState.DELIVERED
        assert (await browser.api())["spans"]["today"]["paid"]["micros"] == PRICE.micros


async def test_chat_says_where_the_page_is(tmp_path):
    """`python -m bot chat` prints the page's address on loopback and a token that opens it."""
    console = Console(file=io.StringIO(), width=200)
    given = read_settings(_env_file=None, var_dir=tmp_path, chat_port=0, http_port=0, http_host="0.0.0.0")
    task = asyncio.create_task(run_chat(given, console))

    async def printed():
        return task.done() or "/admin" in console.file.getvalue()

    try:
        await wait_until(printed, 30, "the page's address")
        [(url, token)] = re.findall(r"(http://127\.0\.0\.1:\d+)/admin +token: (\S+)", console.file.getvalue())
        opens = {"Authorization": f"Bearer {token}"}
        async with ClientSession() as web, web.get(f"{url}/api/admin/costs", headers=opens) as answer:
            assert answer.status == 200
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
