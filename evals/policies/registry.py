"""Every adversary by its name."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from evals.base import EvalError
from evals.case import Policy as Asked
from evals.live.model import Live
from evals.policies.failing import Failing
from evals.policies.handing import HandoffPingpong, Obliged, SubagentFanout
from evals.policies.policy import Policy
from evals.policies.rehearsed import Rehearsed
from evals.policies.replaying import Replaying
from evals.policies.scripted import Scripted
from evals.policies.stubborn import Echo, RetryUntilOk
from evals.policies.wire import Wire
from sandbox.behaviors import BEHAVIOURS

POLICIES: Final[Mapping[str, Callable[[Asked], Policy]]] = MappingProxyType(
    dict.fromkeys(BEHAVIOURS, Rehearsed)
    | {"script": Scripted, "retry_until_ok": RetryUntilOk, "echo": Echo}
    | {"failing": Failing}
    | {"subagent_fanout": SubagentFanout, "handoff_pingpong": HandoffPingpong, "obliged": Obliged}
    | {"wire": Wire, "replay": Replaying, "live": Live}
)


def make(asked: Asked) -> Policy:
    """Build the adversary that a case asks for.

    Raises:
        EvalError: It is not known.
    """
    if asked.name not in POLICIES:
        raise EvalError(f"{asked.name!r} is not a policy; known: {', '.join(POLICIES)}")
    return POLICIES[asked.name](asked)
