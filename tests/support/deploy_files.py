"""deploy/compose.yaml as data: read strictly, with the keys of the compose specification that we use.

There is no docker where the tests run. What can be wrong without one is wrong here already: a key that no
compose knows, a number where a word must be, a variable that nothing reads.
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from tests.support.services import ROOT

DEPLOY = ROOT / "deploy"
_GIVEN = re.compile(r"\$\{(\w+)(?::-(?P<default>[^}]*)|:\?(?P<why>[^}]*))?\}")
_PERIODS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Health(Part):
    test: list[StrictStr] = Field(min_length=2)
    interval: StrictStr
    timeout: StrictStr
    retries: StrictInt
    start_period: StrictStr


class Build(Part):
    context: StrictStr
    dockerfile: StrictStr
    args: dict[str, StrictStr] = {}


class Logging(Part):
    driver: Literal["json-file", "local"]
    options: dict[str, StrictStr]


class EnvFile(Part):
    path: StrictStr
    required: StrictBool


class Condition(Part):
    condition: Literal["service_started", "service_healthy", "service_completed_successfully"]


class Amount(Part):
    cpus: StrictStr = Field(pattern=r"^\d+\.\d+$")
    memory: StrictStr = Field(pattern=r"^\d+[MG]$")


class Resources(Part):
    limits: Amount


class Deploy(Part):
    replicas: StrictInt | None = None
    resources: Resources


class Service(Part):
    image: StrictStr
    build: Build | None = None
    entrypoint: list[StrictStr] = []
    command: list[StrictStr] = []
    environment: dict[str, StrictStr] = {}
    env_file: list[EnvFile] = []
    volumes: list[StrictStr] = []
    networks: list[StrictStr] = []
    network_mode: Literal["none"] | None = None
    ports: list[StrictStr] = []
    depends_on: dict[str, Condition] = {}
    deploy: Deploy | None = None
    logging: Logging | None = None
    profiles: list[StrictStr] = []
    cap_add: list[StrictStr] = []
    healthcheck: Health | None = None
    init: StrictBool = False
    read_only: StrictBool = False
    tmpfs: list[StrictStr] = []
    cap_drop: list[StrictStr] = []
    security_opt: list[StrictStr] = []
    restart: Literal["no", "always", "on-failure", "unless-stopped"]
    stop_grace_period: StrictStr = "10s"
    shm_size: StrictStr | None = None

    @property
    def mounts(self) -> dict[str, str]:
        """Return what is mounted, by its path in the container."""
        return {one.split(":")[1]: one.split(":")[0] for one in self.volumes}


class Network(Part):
    internal: StrictBool = False


class Compose(Part):
    name: StrictStr
    services: dict[str, Service]
    networks: dict[str, Network]
    volumes: dict[str, Part]

    @property
    def ours(self) -> dict[str, Service]:
        """The services that run this app."""
        return {name: one for name, one in self.services.items() if one.build is not None}


def raw_compose() -> str:
    return (DEPLOY / "compose.yaml").read_text("utf-8")


def fill(text: str, given: dict[str, str]) -> str:
    """Put variables in as `docker compose` does; one that must be set and is not raises KeyError."""

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if found["why"] is not None and not given.get(name):
            raise KeyError(f"{name}: {found['why']}")
        return given.get(name) or found["default"] or ""

    return _GIVEN.sub(value, text)


def read_compose(**given: str) -> Compose:
    loaded: dict[str, Any] = yaml.safe_load(
        fill(raw_compose(), {"POSTGRES_PASSWORD": "p", "GRAFANA_PASSWORD": "g"} | given)
    )
    return Compose(**{name: part for name, part in loaded.items() if not name.startswith("x-")})


def seconds(period: str) -> float:
    """Read a compose duration such as 1m30s."""
    parts = re.findall(r"(\d+)(ms|s|m|h)", period)
    assert "".join(number + unit for number, unit in parts) == period, f"{period!r} is no duration"
    return sum(int(number) * _PERIODS[unit] for number, unit in parts)


def named_file(path: str) -> Path:
    """Return the file of this repository that a relative path in compose.yaml names."""
    return Path(os.path.normpath(DEPLOY / path))


FOLDER = DEPLOY / "grafana"
INTERVAL = "$__rate_interval"
_METRIC = re.compile(r"\b(onetake_\w+|up)\b(?:\{([^}]*)\})?")
_GROUPS = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)")
_MATCHER = re.compile(r'(\w+)\s*(=|!=|=~|!~)\s*"([^"]*)"')


@dataclass(frozen=True)
class Query:
    """One query of one panel."""

    panel: str
    expr: str
    legend: str

    @property
    def metrics(self) -> set[str]:
        return {found[1] for found in _METRIC.finditer(self.expr)}

    @property
    def matchers(self) -> list[tuple[str, str, str]]:
        """Return (metric, label, value) of every `=` in a selector."""
        return [
            (found[1], label, value)
            for found in _METRIC.finditer(self.expr)
            for label, how, value in _MATCHER.findall(found[2] or "")
            if how == "="
        ]

    @property
    def labels(self) -> set[str]:
        """Return every label that is grouped by or shown."""
        grouped = {one.strip() for found in _GROUPS.findall(self.expr) for one in found.split(",")}
        return grouped | set(re.findall(r"\{\{(\w+)\}\}", self.legend))

    def over(self, interval: str) -> str:
        """Return the query as Grafana sends it, with its interval put in."""
        return self.expr.replace(INTERVAL, interval)


def read_dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "dashboards" / "onetake.json").read_text("utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """Return every panel that shows something."""
    return [one for one in read_dashboard()["panels"] if one["type"] != "row"]


def queries() -> Iterator[Query]:
    for panel in panels():
        for target in panel["targets"]:
            yield Query(panel["title"], target["expr"], target["legendFormat"])
