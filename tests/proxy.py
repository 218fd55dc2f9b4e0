"""The proxy between a client and its store; see `sandbox.proxy`."""

from sandbox.proxy import Proxy, ProxyMode

__all__ = ["Proxy", "ProxyMode"]
