"""Every function tool: its kind and its guard spec. Add a tool here.

The names of tools in declarations, metrics and spans come from here.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final

from agents import FunctionTool

from guardrails.guard import GuardSpec
from guardrails.policy import GuardPolicy
from ledger.database import Ledger
from tools import generate_caption, generate_video, quota_left
from tools.agent_spec import ToolKind
from tools.context import Offer


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool.

    Attributes:
        name: As the model calls it: the name of the tool's function.
        kind: What it does to the world.
        tool: What the SDK runs.
        guard_spec: What its guard must know, from what the declaration says of it and what is on offer;
            None for a tool that only reads, which has no guard.
        recorded: Reads the recorded result of a request's one call, in words for the model; None while there
            is none. A repeated call gets it back.

    Raises:
        ValueError: The fields contradict each other.
    """

    name: str
    kind: ToolKind
    tool: FunctionTool
    guard_spec: Callable[[GuardPolicy, Offer], GuardSpec] | None = None
    recorded: Callable[[Ledger, str], Awaitable[str | None]] | None = None

    def __post_init__(self) -> None:
        if self.tool.name != self.name:
            raise ValueError(f"the tool {self.name!r} has a function named {self.tool.name!r}")
        if {self.guard_spec is None, self.recorded is None} != {self.kind == "reads"}:
            raise ValueError(f"{self.name}: a tool has guard_spec and recorded unless it only reads")


def _by_name(*specs: ToolSpec) -> dict[str, ToolSpec]:
    return {spec.name: spec for spec in specs}


TOOLS: Final[dict[str, ToolSpec]] = _by_name(
    ToolSpec(
        generate_video.NAME,
        "pays",
        generate_video.generate_video,
        generate_video.guard_spec,
        generate_video.recorded,
    ),
    ToolSpec(
        generate_caption.NAME,
        "writes",
        generate_caption.generate_caption,
        generate_caption.guard_spec,
        generate_caption.recorded,
    ),
    ToolSpec(quota_left.NAME, "reads", quota_left.quota_left),
)
"""Every tool that a declaration may name."""


def tool_kinds() -> Mapping[str, ToolKind]:
    """Return the kind of every tool by name, as declarations are checked against it."""
    return {name: spec.kind for name, spec in TOOLS.items()}


def guarded_tools() -> tuple[str, ...]:
    """Return the names of the tools whose calls a guard decides on."""
    return tuple(name for name, spec in TOOLS.items() if spec.guard_spec is not None)
