"""Which faults of a case never happened: a green case without its fault is one more benign run."""

from collections.abc import Iterator

from evals.acts import Actors
from evals.killing import doomed
from evals.policies.policy import Policy


def unmet(actors: Actors, policy: Policy) -> list[str]:
    """Return what the case set up and nobody met, in words."""
    return [*_of(actors), *([policy.unmet] if policy.unmet else ())]


def _of(actors: Actors) -> Iterator[str]:
    peer, proxy = actors.stage.peer, actors.proxy
    yield from (f"nobody came to {point!r} any more" for point in doomed.waiting)
    yield from (f"no POST was left to meet {word!r}" for word in peer.outcomes)
    yield from (f"no job was left to end in {word!r}" for word in peer.fates)
    if peer.content == "cut once":
        yield "no download was left to be cut"
    if proxy is not None and proxy.loses:
        yield "no command was left whose reply could be lost"
    for api in actors.stage.apis:
        yield from (f"no call of {method} was left to go wrong" for method in api.world.faults.waiting)
