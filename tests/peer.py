"""The provider of the tests is the provider of the evals: one oracle, in `evals.provider`."""

from evals.provider.books import Books, PeerProcess, clip, running
from evals.provider.peer import Peer
from evals.provider.words import KEY, SIGNATURE, Content, Outcome, PeerJob, Shape

__all__ = [
    "KEY",
    "SIGNATURE",
    "Books",
    "Content",
    "Outcome",
    "Peer",
    "PeerJob",
    "PeerProcess",
    "Shape",
    "clip",
    "running",
]
