"""The Grafana dashboard as data: its panels, and the names that their queries use."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from compose import DEPLOY

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
