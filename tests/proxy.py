"""The proxy between a client and its store; see `sandbox.proxy`."""

from sandbox.proxy import Mode, Proxy

__all__ = ["Mode", "Proxy"]
