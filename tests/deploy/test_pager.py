"""The shipped Alertmanager configuration, in a real Alertmanager: who is paged, and the dead man's switch."""

import shutil
from datetime import UTC, datetime

import pytest
from aiohttp import ClientSession

from sandbox.telegram import BotApiServer
from tests.deploy import drill_servers as servers
from tests.support.waiting import wait_until

EVA = 500
needs_alertmanager = pytest.mark.skipif(
    not shutil.which("prometheus-alertmanager") and not shutil.which("alertmanager"),
    reason="Alertmanager is absent (Debian: apt-get install prometheus-alertmanager)",
)


def test_what_is_not_set_is_left_out():
    """Without any PAGER_ variable the configuration is valid and pages no one; nothing is left to fill in."""
    config = servers.quick_pager()
    assert [set(one) for one in config["receivers"]] == [{"name"}, {"name"}]
    filled = servers.quick_pager(PAGER_TOKEN="1:a|b&c", PAGER_CHAT="-100", PAGER_WEBHOOK="http://w/?a=1&b=2")
    [telegram] = filled["receivers"][0]["telegram_configs"]
    assert (telegram["bot_token"], telegram["chat_id"]) == ("1:a|b&c", -100)
    assert filled["receivers"][0]["webhook_configs"][0]["url"] == "http://w/?a=1&b=2"
    assert "@" not in str(filled).replace("@BotFather", "")


@needs_alertmanager
async def test_a_page_reaches_telegram_and_the_webhook(tmp_path):
    """A page has severity, name, time, what to do and a link; the dead man's switch is pinged and no chat."""
    now = datetime.now(UTC).isoformat()
    names = {"Watchdog": "none", "NoWorker": "page"}
    notes = {
        "summary": "No worker is <running>.",
        "runbook": "docs/operations.md#noworker",
        "jaeger": "http://j/s?a=1&b=2",
    }
    alerts = [
        {"labels": {"alertname": name, "severity": severity}, "annotations": notes, "startsAt": now}
        for name, severity in names.items()
    ]
    async with servers.serve_inbox() as (inbox, url), BotApiServer() as api:
        await api.user(EVA, "Eva").send("/start")
        pager = servers.quick_pager(
            PAGER_TOKEN=api.token, PAGER_CHAT=str(EVA), PAGER_API=api.base_url,
            PAGER_WEBHOOK=f"{url}/alerts", PAGER_DEADMAN=f"{url}/ping",
        )  # fmt: skip
        async with servers.page_by(tmp_path, pager) as alertmanager, ClientSession() as session:
            async with session.post(f"{alertmanager}/api/v2/alerts", json=alerts) as answer:
                assert answer.status == 200

            async def paged():
                return [one for one in api.user(EVA).history() if not one.mine]

            await wait_until(paged, 20, "the page")

            async def all_came():
                return set(inbox.alerts) == set(names) and inbox.pings > 1

            await wait_until(all_came, 20, "the webhooks")
            [message] = await paged()
    assert "NoWorker (page)" in message.text
    assert "No worker is <running>." in message.text
    assert "UTC" in message.text
    assert "docs/operations.md#noworker" in message.text
    assert "http://j/s?a=1&b=2" in {one.get("url") for one in message.raw["entities"]}
