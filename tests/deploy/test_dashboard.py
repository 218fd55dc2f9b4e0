"""The dashboard shows what the app reports: every query names series that exist, and returns data."""

import asyncio
import itertools
import json
import math
import os
import re
import shutil
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientError, ClientSession
from prometheus_client.parser import text_string_to_metric_families

from app.processes import _http_app
from telemetry import metrics
from tests.support.deploy_files import DEPLOY, FOLDER, panels, queries, read_compose, read_dashboard
from tests.support.waiting import wait_until
from web.server import serve

QUERIES = list(queries())
INSTRUMENTS = [
    one
    for one in vars(metrics).values()
    if isinstance(one, metrics.Counter | metrics.Gauge | metrics.Histogram)
]
PROMETHEUS = shutil.which("prometheus") or os.environ.get("ONETAKE_TEST_PROMETHEUS")
"""Debian's package `prometheus` brings it; without it names and labels are compared, and no query is run."""


def test_the_panels_do_not_overlap():
    """Ids are unique, no panel lies on another, each says what it shows, all ask the provisioned source."""
    shown = read_dashboard()["panels"]
    assert len({one["id"] for one in shown}) == len(shown)
    places = [
        (x, y)
        for one in shown
        for x in range(one["gridPos"]["x"], one["gridPos"]["x"] + one["gridPos"]["w"])
        for y in range(one["gridPos"]["y"], one["gridPos"]["y"] + one["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24
    for one in panels():
        assert one["title"]
        assert one["description"].endswith(".")
        assert len({target["refId"] for target in one["targets"]}) == len(one["targets"])


def test_grafana_finds_its_files():
    """Sources, dashboards and rules lie where the provisioning files and compose.yaml say."""
    sources = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text("utf-8"))
    known = {one["uid"]: one for one in sources["datasources"]}
    used = {one["datasource"]["uid"] for one in panels()}
    used |= {target["datasource"]["uid"] for one in panels() for target in one["targets"]}
    assert used <= set(known)
    services = read_compose().services
    for one in known.values():
        host, _, port = one["url"].removeprefix("http://").partition(":")
        assert host in services
        assert any(public.endswith(f":{port}") for public in services[host].ports)
        assert set(services[host].networks) & set(services["grafana"].networks)
    [provider] = yaml.safe_load((FOLDER / "provisioning/dashboards/onetake.yaml").read_text("utf-8"))[
        "providers"
    ]
    mounted = services["grafana"].mounts[provider["options"]["path"]]
    assert (DEPLOY / mounted / "onetake.json").is_file()
    assert services["grafana"].mounts["/etc/grafana/provisioning"] == "./grafana/provisioning"


def test_prometheus_asks_every_replica():
    """It scrapes bots and workers, each address by itself, where they serve; its rule files are there."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    [job] = [one for one in config["scrape_configs"] if one["job_name"] == "onetake"]
    [names] = job["dns_sd_configs"]
    compose = read_compose()
    assert set(names["names"]) == set(compose.ours)
    for one in compose.ours.values():
        assert str(names["port"]) == one.environment["HTTP_PORT"]
        assert set(one.networks) & set(compose.services["prometheus"].networks)
    assert compose.services["prometheus"].mounts["/etc/prometheus"] == "./prometheus"
    rules = [(DEPLOY / "prometheus" / name).read_text("utf-8") for name in config["rule_files"]]
    asked = {name for text in rules for name in re.findall(r"\$externalLabels\.(\w+)", text)}
    assert asked <= set(config["global"]["external_labels"])


def test_jaeger_is_reachable_from_other_containers():
    """Each address names 0.0.0.0, what is published is served, and its folder is given to its user."""
    text = (DEPLOY / "jaeger" / "config.yaml").read_text("utf-8")
    config = yaml.safe_load(text)
    served = [line.split()[-1] for line in text.splitlines() if line.strip().startswith("endpoint:")]
    assert all(address.startswith("0.0.0.0:") for address in served)
    ports = {address.partition(":")[2] for address in served}
    compose = read_compose()
    jaeger = compose.services["jaeger"]
    assert {one.rpartition(":")[2] for one in jaeger.ports} <= ports
    for one in compose.ours.values():
        assert one.environment["OTEL_EXPORTER_OTLP_ENDPOINT"].rpartition(":")[2] in ports
    assert jaeger.healthcheck is not None
    assert any(f":{port}/" in jaeger.healthcheck.test[-1] for port in ports)
    [store] = config["extensions"]["jaeger_storage"]["backends"].values()
    folder = compose.services["jaeger-folder"]
    assert folder.command[:2] == ["chown", "10001:10001"]
    assert folder.mounts == {folder.command[2]: jaeger.mounts[folder.command[2]]}
    assert all(one.startswith(folder.command[2] + "/") for one in store["badger"]["directories"].values())


def _series(text: str) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {"up": [{"job": "onetake", "instance": "", "role": ""}]}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


async def _scraped(env: Any) -> str:
    async with (
        serve(_http_app(env.app), "127.0.0.1", 0) as url,
        ClientSession() as session,
        session.get(f"{url}/metrics") as answer,
    ):
        assert answer.status == 200
        return await answer.text()


@pytest.mark.slow
async def test_every_query_names_existing_series(app_env):
    """Each metric, label and label value of a query is in the /metrics of an app that made a video."""
    env = await app_env()
    await env.create()
    series: dict[str, list[dict[str, str]]] = {}

    async def reported() -> bool:
        series.update(_series(await _scraped(env)))
        return "onetake_command_videos_sum" in series

    await wait_until(reported, 30, "the command's end to be counted")
    for query in QUERIES:
        assert query.metrics, query
        for name in query.metrics:
            assert name in series, f"{query.panel}: {name}"
            labels = set().union(*series[name])
            assert query.labels <= labels, f"{query.panel}: {query.labels - labels}"
        for name, label, value in query.matchers:
            assert any(one.get(label) == value for one in series[name]), f"{query.panel}: {label}={value}"


def test_every_instrument_is_shown():
    """Each instrument is in a panel: none is counted for nothing."""
    shown = {name for query in QUERIES for name in query.metrics}
    for one in INSTRUMENTS:
        names = {one.name} | {f"{one.name}_{part}" for part in ("bucket", "sum", "count")}
        assert names & shown, f"{one.name} is in no panel"


def test_gauges_are_not_summed_over_replicas():
    """Every replica reads the same store: a sum over them would show each dollar many times."""
    read = {one.name for one in INSTRUMENTS if isinstance(one, metrics.Gauge)}
    for query in QUERIES:
        if query.metrics & read:
            assert query.expr.startswith(("max", "min", "sum(max by")), f"{query.panel}: {query.expr}"


@asynccontextmanager
async def _prometheus(folder: Path, target: str):
    """Run a Prometheus of this test alone, with the configuration of deploy/ and one target of ours."""
    config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text("utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus" / name) for name in config["rule_files"]]
    [job] = [one for one in config["scrape_configs"] if one["job_name"] == "onetake"]
    config["scrape_configs"] = [
        {
            "job_name": "onetake",
            "metrics_path": job["metrics_path"],
            "static_configs": [{"targets": [target]}],
        }
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert PROMETHEUS is not None
    process = await asyncio.create_subprocess_exec(
        PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def _ask(session: ClientSession, url: str, expr: str) -> list[float]:
    """Return the values that a query has now; none while Prometheus does not answer."""
    try:
        async with session.get(f"{url}/api/v1/query", params={"query": expr}) as answer:
            said = await answer.json()
    except (ClientError, json.JSONDecodeError):
        return []
    assert said["status"] == "success", said
    return [float(one["value"][1]) for one in said["data"]["result"]]


@pytest.mark.slow
@pytest.mark.skipif(
    PROMETHEUS is None, reason="no `prometheus` is installed (Debian: apt install prometheus)"
)
async def test_every_panel_shows_data(app_env, tmp_path):
    """A real Prometheus scrapes a real app that makes videos: each query of the dashboard has numbers."""
    env = await app_env(changes={"cooldown": None, "breaker": None})
    people = itertools.count(2001)
    async with (
        serve(_http_app(env.app), "127.0.0.1", 0) as app,
        _prometheus(tmp_path, app.removeprefix("http://")) as url,
        ClientSession() as session,
    ):

        async def scraped() -> bool:
            return bool(await _ask(session, url, "count(onetake_commands_total)"))

        await wait_until(scraped, 60, "the first scrape")
        lacking: set[str] = set()

        async def full() -> bool:
            await env.create(user_id=next(people))
            lacking.clear()
            for query in QUERIES:
                found = await _ask(session, url, query.over("1m"))
                if not found or any(map(math.isnan, found)):
                    lacking.add(f"{query.panel}: {query.expr} gave {found}")
            return not lacking

        try:
            await wait_until(full, 60, "numbers in every panel")
        finally:
            assert not lacking, "\n".join(sorted(lacking))
