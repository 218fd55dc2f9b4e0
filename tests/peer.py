"""The provider of the tests is the provider of the evals: one oracle, in `sandbox.video_api`."""

from sandbox.video_api.charge_log import Books, PeerProcess, clip, running
from sandbox.video_api.openai import Peer
from sandbox.video_api.server import KEY, SIGNATURE, Content, Outcome, PeerJob, Shape

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
