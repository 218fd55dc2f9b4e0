"""Every mutant by its name, and how one is put into this process and taken out again."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from evals.base import EvalError
from evals.case import Layer
from evals.mutants import guards

Apply = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One seeded bug.

    Attributes:
        name: What `--guard` takes.
        layer: Where the bug is.
        about: The bug in one line.
        apply: Puts it into this process inside the block.
        killed: Whether cases must fail with it; the controls survive.
        widened: Runs over the widened order key, so quota, cooldown, breaker and budget are lifted as well:
            else they would stop what the guard let through.
    """

    name: str
    layer: Layer
    about: str
    apply: Apply
    killed: bool = True
    widened: bool = False


_ALL: Final = (
    Mutant("widened_key", "ledger", "control: the shipped guard over a ledger keyed by (request, call)",
           guards.widened_key, killed=False, widened=True),
    Mutant("no_guard", "guard", "every call passes", guards.no_guard, widened=True),
)  # fmt: skip
MUTANTS: Final[Mapping[str, Mutant]] = MappingProxyType({one.name: one for one in _ALL})


@contextmanager
def mutant(name: str | None) -> Iterator[None]:
    """Break this process as `name` says, inside the block; None leaves it as it is shipped.

    Raises:
        EvalError: There is no such mutant.
    """
    if name is None:
        yield
        return
    if name not in MUTANTS:
        raise EvalError(f"{name!r} is not a mutant; known: {', '.join(MUTANTS)}")
    with MUTANTS[name].apply():
        yield
