"""What stays of the peer when its process is gone; see `evals.provider.books`."""

from evals.provider.books import Books, PeerProcess, clip, running

__all__ = ["Books", "PeerProcess", "clip", "running"]
