"""What spans say of their process: its role, version, machine and environment.

Jaeger takes two spans for those of two machines unless both name the same host, and moves a child that
begins before its parent, or after its parent's end. So the host is always named: by the kernel's boot id,
which all containers of one machine share, as they share its clock; and by its name. Jaeger's older query API,
which its page uses, reads neither but a process tag `ip`, whatever stands there: it is given the same.
"""

import os
import socket
from functools import cache
from pathlib import Path
from typing import Final, Literal
from uuid import uuid4

from opentelemetry.sdk.resources import OTELResourceDetector, Resource

from telemetry.tracing import SCHEMA_URL
from telemetry.version import VERSION

Environment = Literal["demo", "sandbox", "evals", "test", "production"]
"""Where a process runs. Only one with a real Telegram is `production`; see `Settings.environment`."""

Role = Literal["onetake-bot", "onetake-worker"]
"""The service. A bot with a worker inside is `onetake-worker` too, so that every search names that one."""

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


def process_resource(role: Role, environment: Environment) -> Resource:
    """Return the Resource of this process; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME come first."""
    own = {
        "service.name": role,
        "service.namespace": "onetake",
        "service.version": VERSION,
        "service.instance.id": _instance(os.getpid()),
        "deployment.environment.name": environment,
        "openinference.project.name": "onetake",
        **_host(),
    }
    sdk = {"telemetry.sdk.language": "python", "telemetry.sdk.name": "opentelemetry"}
    return Resource(own | sdk, SCHEMA_URL).merge(_configured())


def _configured() -> Resource:
    found = OTELResourceDetector().detect()
    name = os.environ.get("OTEL_SERVICE_NAME", "").strip()
    return found.merge(Resource({"service.name": name})) if name else found


@cache
def _instance(_: int) -> str:
    """Return an id of this process; a forked one has its own."""
    return str(uuid4())


@cache
@cache
def _host() -> dict[str, str]:
    name = socket.gethostname()
    try:
        boot_id = _BOOT_ID.read_text().strip()
    except OSError:  # macOS: its processes share a name
        return {"host.name": name, "ip": name}
    return {"host.name": name, "host.id": boot_id, "ip": boot_id}
