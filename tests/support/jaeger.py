"""A real Jaeger v2 with the shipped configuration, and its own query API.

`deploy/jaeger/build.sh` builds the binary. Differences from deploy/jaeger/config.yaml: ports of its own,
storage in memory, no log; and `max_clock_skew_adjust`, so that Jaeger moves, and says so, what it takes for
skewed.
"""

import asyncio
import json
import os
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from aiohttp import ClientError, ClientSession

from tests.support.services import ROOT
from tests.support.waiting import wait_until

SERVICE = "onetake-worker"
ROOT_SPAN = "create video"


def binary() -> Path | None:
    """Return the Jaeger that is tested with; None if `make jaeger-test` has not built one."""
    given = os.environ.get("ONETAKE_JAEGER", "")
    return Path(given) if given and Path(given).exists() else None


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


@dataclass(frozen=True)
class JaegerSpan:
    """One span as Jaeger answers it."""

    span_id: str
    parent_id: str
    name: str
    start: int
    duration: int
    tags: dict[str, str]
    process: dict[str, str]
    service: str
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class JaegerTrace:
    """One trace as Jaeger answers it."""

    trace_id: str
    spans: tuple[JaegerSpan, ...]

    @property
    def roots(self) -> list[JaegerSpan]:
        return [one for one in self.spans if not one.parent_id]

    @property
    def root(self) -> JaegerSpan:
        assert len(self.roots) == 1, [one.name for one in self.roots]
        return self.roots[0]

    @property
    def warnings(self) -> list[str]:
        return [f"{one.name}: {text}" for one in self.spans for text in one.warnings]

    def named(self, name: str) -> list[JaegerSpan]:
        return [one for one in self.spans if one.name == name]


@dataclass
class Jaeger:
    """A running Jaeger. `otlp` is where spans are sent, `url` its query API."""

    folder: Path
    otlp: str = ""
    url: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self, path: Path) -> None:
        """Start it on free ports."""
        grpc, http, query, query_grpc, health = _free_ports(5)
        config = yaml.safe_load((ROOT / "deploy/jaeger/config.yaml").read_text())
        config["service"]["telemetry"] = {"logs": {"level": "error"}, "metrics": {"level": "none"}}
        extensions = config["extensions"]
        extensions["healthcheckv2"]["http"]["endpoint"] = f"127.0.0.1:{health}"
        asked = extensions["jaeger_query"]
        asked["storage"]["traces"] = "memory"
        asked["http"]["endpoint"], asked["grpc"]["endpoint"] = f"127.0.0.1:{query}", f"127.0.0.1:{query_grpc}"
        asked["ui"]["config_file"] = str(ROOT / "deploy/jaeger/jaeger-ui.json")
        asked["max_clock_skew_adjust"] = "10s"
        extensions["jaeger_storage"]["backends"] = {"memory": {"memory": {"max_traces": 10_000}}}
        protocols = config["receivers"]["otlp"]["protocols"]
        protocols["grpc"]["endpoint"], protocols["http"]["endpoint"] = (
            f"127.0.0.1:{grpc}",
            f"127.0.0.1:{http}",
        )
        config["exporters"]["jaeger_storage_exporter"]["trace_storage"] = "memory"
        written = self.folder / "jaeger.yaml"
        written.write_text(yaml.safe_dump(config))
        self.otlp, self.url = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{query}"
        with (self.folder / "jaeger.log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(path), "--config", str(written)], stdout=log, stderr=subprocess.STDOUT
            )

    async def wait_ready(self) -> None:
        """Wait until its query API answers."""

        async def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (self.folder / "jaeger.log").read_text()[-2000:]
            try:
                await self.ask("/api/services")
            except (ClientError, OSError):
                return False
            return True

        await wait_until(answers, 60, "Jaeger's query API")

    def stop(self) -> None:
        """Stop it; what it has stored is gone."""
        if self._process is not None:
            self._process.kill()  # draining its pipelines takes half a minute, and nothing is kept
            self._process.wait()

    async def ask(self, path: str, **params: str) -> Any:
        """GET a document of its API."""
        async with ClientSession() as session, session.get(f"{self.url}{path}", params=params) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)

    async def services(self) -> set[str]:
        """Return the names of all services that sent spans."""
        return set((await self.ask("/api/services"))["data"] or ())

    async def search(self, operation: str | None = ROOT_SPAN, **tags: str) -> list[JaegerTrace]:
        """Do one search, as its page does: a service, an operation, tags. `a__b` is the tag `a.b`."""
        named = {name.replace("__", "."): value for name, value in tags.items()}
        more = {} if operation is None else {"operation": operation}
        found = await self.ask(
            "/api/traces", service=SERVICE, tags=json.dumps(named), lookback="1h", limit="200", **more
        )
        return [_trace(one) for one in found["data"]]

    async def trace(self, trace_id: str) -> JaegerTrace:
        """Return one trace."""
        return _trace((await self.ask(f"/api/traces/{trace_id}"))["data"][0])

    async def wait_for(self, count: int = 1, **tags: str) -> list[JaegerTrace]:
        """Search until at least `count` traces are found; a batch is sent twice a second."""
        found: list[JaegerTrace] = []

        async def there() -> bool:
            found[:] = await self.search(**tags)
            return len(found) >= count

        await wait_until(there, 40, f"{count} traces with {tags}")
        await asyncio.sleep(0.7)  # the rest of the same batch may be of another processor
        found[:] = await self.search(**tags)
        return found


def _trace(document: dict[str, Any]) -> JaegerTrace:
    processes = document["processes"]
    return JaegerTrace(
        document["traceID"], tuple(_span(one, processes[one["processID"]]) for one in document["spans"])
    )


def _span(one: dict[str, Any], process: dict[str, Any]) -> JaegerSpan:
    parents = [ref["spanID"] for ref in one.get("references") or () if ref["refType"] == "CHILD_OF"]
    return JaegerSpan(
        one["spanID"], parents[0] if parents else "", one["operationName"], one["startTime"],
        one["duration"], _tags(one.get("tags")), _tags(process.get("tags")), process["serviceName"],
        tuple(one.get("warnings") or ()),
    )  # fmt: skip


def _tags(found: list[dict[str, Any]] | None) -> dict[str, str]:
    return {
        one["key"]: str(one["value"]).lower() if isinstance(one["value"], bool) else str(one["value"])
        for one in found or ()
    }
