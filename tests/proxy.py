"""The proxy between a client and its store; see `evals.proxy`."""

from evals.proxy import Mode, Proxy

__all__ = ["Mode", "Proxy"]
