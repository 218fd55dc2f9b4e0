"""Five accounts of the same money: the provider's log, the ledger, spans, counters and the operators' API."""

from dataclasses import replace

import pytest

from app.processes import running
from evals.environment import is_settled
from guardrails.money import MICROS_PER_DOLLAR
from ledger import reports, requests
from telemetry import semconv
from telemetry.metrics import exposition
from tests.support.admin_page import BEARER, TOKEN, admin_browser
from tests.support.crash_env import KEYED, open_crash_env
from tests.support.metric_values import families, value
from tests.support.otlp import receiver
from tests.support.waiting import wait_until
from tests.support.worker_process import open_child_app, worker_process

PEOPLE = (1001, 1002, 1003)
COUNTED = ("onetake_paid_videos_total", "onetake_command_cost_dollars_sum", "onetake_commands_total")


async def all_rest(env) -> bool:
    found = [await requests.list_for_user(env.ledger, one, 2) for one in PEOPLE]
    return all(len(one) == 1 and is_settled(*one[0]) for one in found)


async def killed_twice(env, config) -> None:
    """Three commands of a model that insists; one worker dies before its POST, one with the file."""
    people = [env.api.user(one, "Ana") for one in PEOPLE]
    with worker_process(replace(config, stop_at="submitting")) as first:
        for one in people:
            await one.send("/create a quiet market at dawn")
        await first.wait_at_failpoint()
        first.kill()
    config.marker.unlink()
    with worker_process(replace(config, stop_at="fetched")) as second:
        await second.wait_at_failpoint()
        second.kill()
    for one in people:
        await env.api.redeliver(one.last_update.id, times=2)


@pytest.mark.slow
async def test_all_accounts_agree_after_kills_and_redeliveries(valkey, tmp_path):
    """Two workers are killed, every update is delivered again: all five accounts name the same cents, videos
    and prevented duplicates.
    """
    before = counts(exposition())
    async with receiver() as collector, open_crash_env(tmp_path, valkey.connection_url, KEYED) as env:
        more = {"otel_exporter_otlp_endpoint": collector.url, "admin_token": TOKEN}
        config = replace(env.config, settings={**env.config.settings, **more}, behavior="thirteen")
        await killed_twice(env, config)
        async with (
            open_child_app(config) as app,
            running(*config.background(app)),
            admin_browser(app) as browser,
        ):
            await wait_until(lambda: all_rest(env), 60, "all requests to rest")

            async def ended() -> bool:
                return len(ends(collector)) == len(PEOPLE)

            await wait_until(ended, 40, "the ends in the traces")
            month = (await browser.api("?span=30d"))["spans"]["30d"]
            _, shown, _ = await browser.get("/metrics", headers=BEARER)
        took = sum(env.fake_provider.net().values())
        assert len(env.fake_provider.net()) == len(PEOPLE)
        costs = await reports.cost_summary(env.ledger)
        spans = ends(collector)
        text = shown.encode()
        delta = {name: count - before[name] for name, count in counts(text).items()}
    assert took == costs.paid.micros == month["paid"]["micros"]
    assert took == cents(sum(float(one.tags[semconv.COST]) for one in spans))
    assert took == cents(value(text, "onetake_cost_dollars_total", kind="charge")) - cents(
        value(text, "onetake_cost_dollars_total", kind="credit")
    )
    assert took == cents(delta["onetake_command_cost_dollars_sum"])
    assert {int(one.tags[semconv.VIDEOS]) for one in spans} == {1}
    assert delta["onetake_paid_videos_total"] == delta["onetake_commands_total"] == len(PEOPLE)
    assert (month["videos"], month["commands"]) == (len(PEOPLE), len(PEOPLE))
    assert sum(int(one.tags[semconv.DUPLICATES]) for one in spans) == month["duplicates_prevented"]


def ends(collector) -> list:
    return [one for trace in collector.traces().values() for one in trace.named(semconv.CREATE_VIDEO)]


def cents(dollars: float) -> int:
    return round(dollars * MICROS_PER_DOLLAR)


def counts(text: bytes) -> dict[str, float]:
    """What this process counted by itself; a histogram that holds nothing yet is not there."""
    samples = [one for family in families(text).values() for one in family.samples]
    return {name: sum(one.value for one in samples if one.name == name) for name in COUNTED}
