"""Time for a busy machine: the house's own limits are for users who wait, not for four cases at once."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final
from unittest.mock import patch

UNHURRIED_S: Final = 10.0
_TIMES: Final = (
    "guardrails.admission.ANSWER_S",
    "guardrails.redis_client.ANSWER_S",
    "guardrails.guard._ANSWER_S",
)


@contextmanager
def unhurried() -> Iterator[None]:
    """Let guards wait longer inside the block, so that load does not look like a store that is away."""
    with ExitStack() as stack:
        for name in _TIMES:
            stack.enter_context(patch(name, UNHURRIED_S))
        yield
