"""The servers of the alert drill: Prometheus, Alertmanager and a webhook, on loopback and free ports."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientSession, web

from tests.support.services import ROOT
from web.server import serve

DEPLOY = ROOT / "deploy"
EVERY_S = 1
"""How often Prometheus reads and judges in the drill, and how soon Alertmanager sends."""


class DrillError(Exception):
    """The drill cannot run; the message says what is absent."""


def require_programs() -> None:
    """Look for Prometheus and Alertmanager.

    Raises:
        DrillError: One of them is absent.
    """
    prometheus = shutil.which("prometheus")
    alertmanager = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    if prometheus is None or alertmanager is None:
        raise DrillError(
            "absent: prometheus or alertmanager (Debian: apt-get install prometheus prometheus-alertmanager)"
        )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@dataclass
class Inbox:
    """What Alertmanager sent to the webhooks: alerts by name, and pings of the dead man's switch."""

    alerts: dict[str, dict[str, Any]] = field(default_factory=dict)
    pings: int = 0

    async def receive(self, request: web.Request) -> web.Response:
        for one in (await request.json())["alerts"]:
            if one["status"] == "firing":
                self.alerts.setdefault(one["labels"]["alertname"], one)
        return web.Response()

    async def ping(self, request: web.Request) -> web.Response:
        for one in (await request.json())["alerts"]:
            self.alerts.setdefault(one["labels"]["alertname"], one)
        self.pings += 1
        return web.Response()


@asynccontextmanager
async def serve_inbox() -> AsyncIterator[tuple[Inbox, str]]:
    """Serve the webhooks `/alerts` and `/ping`; yield what comes, and the address."""
    inbox, app = Inbox(), web.Application()
    app.router.add_post("/alerts", inbox.receive)
    app.router.add_post("/ping", inbox.ping)
    async with serve(app, "127.0.0.1", 0) as url:
        yield inbox, url


def quick_rules() -> dict[str, Any]:
    """Return the shipped rules; only how long a condition must last is shortened."""
    rules: dict[str, Any] = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text("utf-8"))
    for group in rules["groups"]:
        for rule in group["rules"]:
            if "for" in rule:
                rule["for"] = f"{EVERY_S}s"
    return rules


def alert_names() -> list[str]:
    """Return the names of all shipped alerts, in their order."""
    return [rule["alert"] for group in quick_rules()["groups"] for rule in group["rules"]]


def quick_pager(**environment: str) -> dict[str, Any]:
    """Return the shipped configuration of Alertmanager, rendered as in compose; only its waits are shortened.

    What one alert inhibits is sent too: the drill wants to see each.
    """
    done = subprocess.run(
        ["sh", str(DEPLOY / "alertmanager" / "render.sh")],
        env={"PATH": os.environ["PATH"], **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    config: dict[str, Any] = yaml.safe_load(done.stdout)
    for route in (config["route"], *config["route"]["routes"]):
        route |= {"group_wait": "0s", "group_interval": f"{EVERY_S}s"}
    config["route"]["routes"][0]["repeat_interval"] = f"{2 * EVERY_S}s"
    config.pop("inhibit_rules")
    return config


@asynccontextmanager
async def page_by(folder: Path, pager: dict[str, Any]) -> AsyncIterator[str]:
    """Run Alertmanager with this configuration; yield its address."""
    program, port = shutil.which("prometheus-alertmanager") or "alertmanager", free_port()
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(pager))
    command = (
        program, f"--config.file={folder}/alertmanager.yml", f"--storage.path={folder}/alertmanager",
        f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address=",
    )  # fmt: skip
    async with _running(folder / "alertmanager.log", *command):
        await _answers(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def watch(folder: Path, metrics_url: str, pager: dict[str, Any]) -> AsyncIterator[str]:
    """Run Alertmanager and a Prometheus that reads `metrics_url`; yield the address of Prometheus."""
    async with page_by(folder, pager) as pager_url, _prometheus(folder, metrics_url, pager_url) as url:
        yield url


@asynccontextmanager
async def _prometheus(folder: Path, metrics_url: str, pager_url: str) -> AsyncIterator[str]:
    program, port = shutil.which("prometheus") or "prometheus", free_port()
    (folder / "alerts.yml").write_text(yaml.safe_dump(quick_rules()))
    every = f"{EVERY_S}s"
    config = {
        "global": {
            "scrape_interval": every,
            "evaluation_interval": every,
            "external_labels": {"jaeger": "http://j"},
        },
        "rule_files": ["alerts.yml"],
        "alerting": {
            "alertmanagers": [{"static_configs": [{"targets": [pager_url.removeprefix("http://")]}]}]
        },
        "scrape_configs": [
            {
                "job_name": "onetake",
                "scrape_timeout": every,
                "static_configs": [{"targets": [metrics_url.removeprefix("http://")]}],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = (
        program, f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus",
        f"--web.listen-address=127.0.0.1:{port}",
    )  # fmt: skip
    async with _running(folder / "prometheus.log", *command):
        await _answers(f"http://127.0.0.1:{port}/-/ready")
        yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def _running(log: Path, *command: str) -> AsyncIterator[None]:
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, cwd=log.parent)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _answers(url: str) -> None:
    for _ in range(300):
        with contextlib.suppress(OSError):
            async with ClientSession() as session, session.get(url) as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.1)
    raise DrillError(f"{url} does not answer")


async def firing(prometheus: str) -> set[str]:
    """Return the names of the alerts that Prometheus says are firing now."""
    async with ClientSession() as session, session.get(f"{prometheus}/api/v1/alerts") as answer:
        found = (await answer.json())["data"]["alerts"]
    return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}
