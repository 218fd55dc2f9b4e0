"""Time limits of the app that tests lengthen: on a busy machine a pause of 0.5 s is no outage."""

from collections.abc import Callable
from importlib import import_module
from typing import Final

PATIENT: Final = (
    "guardrails.redis_client.COMMAND_TIMEOUT_S",
    "guardrails.admission.DECISION_TIMEOUT_S",
    "guardrails.guard._STORE_TIMEOUT_S",
    "worker.rate_limits._DECISION_TIMEOUT_S",
    "worker.witness._TIMEOUT_S",
)
PATIENT_S: Final = 20.0


def lengthen_time_limits(change: Callable[[object, str, object], None] = setattr) -> None:
    """Let this process wait longer for Redis than the app does; `change` sets one attribute of a module."""
    for name in PATIENT:
        module, _, attribute = name.rpartition(".")
        change(import_module(module), attribute, PATIENT_S)
