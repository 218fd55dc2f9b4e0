"""Every function tool by name, with its kind. Add a tool here.

The names of tools in declarations, metrics and spans come from here. A tool is a function in a module of the
same name. The module is imported when an agent is built: it loads the agents SDK, which a bot without a
worker does not need.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Final

from tools.agent_spec import MAKES, ToolKind

if TYPE_CHECKING:
    from agents import FunctionTool

    from guardrails.guard import GuardSpec
    from guardrails.policy import GuardPolicy
    from ledger.database import Ledger
    from tools.offer import Offer

GENERATE_VIDEO: Final = "generate_video"
GENERATE_IMAGE: Final = "generate_image"

TOOLS: Final[dict[str, ToolKind]] = {
    GENERATE_VIDEO: "pays",
    GENERATE_IMAGE: "pays_for_still",
    "generate_caption": "writes",
    "quota_left": "reads",
}
"""Every tool that a declaration may name, and its effect."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """One tool.

    Attributes:
        name: Its name for the model.
        kind: Its effect.
        tool: The SDK's tool.
        guard_spec: Returns the guard's spec from the tool's policy in the declaration and the offer; None for
            a tool that only reads, which has no guard.
        recorded: Returns the recorded result of a request's one call, worded for the model, which a repeated
            call gets; None if there is none yet.
        fitted: Returns the tool as the model is shown it for what is on offer; None: it is always the same.

    Raises:
        ValueError: The fields contradict each other.
    """

    name: str
    kind: ToolKind
    tool: "FunctionTool"
    guard_spec: "Callable[[GuardPolicy, Offer], GuardSpec] | None" = None
    recorded: "Callable[[Ledger, str], Awaitable[str | None]] | None" = None
    fitted: "Callable[[Offer], FunctionTool] | None" = None

    def __post_init__(self) -> None:
        if self.tool.name != self.name:
            raise ValueError(f"the tool {self.name!r} has a function named {self.tool.name!r}")
        if {self.guard_spec is None, self.recorded is None} != {self.kind == "reads"}:
            raise ValueError(f"{self.name}: a tool has guard_spec and recorded unless it only reads")


def load_tool(name: str) -> ToolSpec:
    """Import the module of a tool and return what it defines.

    Raises:
        ValueError: The module does not fit the tool's kind.
    """
    module = import_module(f"tools.{name}")
    return ToolSpec(
        name,
        TOOLS[name],
        getattr(module, name),
        getattr(module, "guard_spec", None),
        getattr(module, "recorded", None),
        getattr(module, "fitted", None),
    )


def paid_tools() -> tuple[str, ...]:
    """Return the names of the tools that cost money."""
    return tuple(name for name, kind in TOOLS.items() if kind in MAKES)


def guarded_tools() -> tuple[str, ...]:
    """Return the names of the tools whose calls a guard decides on."""
    return tuple(name for name, kind in TOOLS.items() if kind != "reads")
