"""What Prometheus is given: the text of every instrument of this process."""

from typing import Final

from prometheus_client import generate_latest

from telemetry import instruments
from telemetry.meters import REGISTRY

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

__all__ = ["CONTENT_TYPE", "exposition", "instruments"]


def exposition() -> bytes:
    """Return the exposition text. Figures that are read from stores are as of their last reading."""
    return generate_latest(REGISTRY)
