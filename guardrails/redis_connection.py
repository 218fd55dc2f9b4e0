"""Connections to Redis that are replaced when their server answers and refuses.

After a failover behind one address the demoted server keeps its connections and answers READONLY;
only a new connection reaches the one that serves. redis-py reconnects only where a connection breaks.
"""

import time
from typing import Any, Final

from redis.asyncio import Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    MasterDownError,
    ReadOnlyError,
    ResponseError,
)

_REFUSALS: Final = (ReadOnlyError, BusyLoadingError, MasterDownError, AuthenticationError)
_REFUSING_WORDS: Final = ("NOREPLICAS ", "UNBLOCKED ")
"""Refusals without a class of their own: a master without its replicas, a blocked read of a demoted one."""

_AGAIN_S: Final = 1.0
"""A server that refuses everything costs one reconnection of the pool in this time."""


class Refusals:
    """When a server last refused, shared by all connections of one pool: those from before are replaced."""

    def __init__(self) -> None:
        self.at = float("-inf")

    def note(self) -> None:
        """Have the connections of the pool replaced."""
        now = time.monotonic()
        if now - self.at >= _AGAIN_S:
            self.at = now


class RefusalAware(AbstractConnection):
    """A mixin: a connection that is replaced before its next use after its pool met a refusal."""

    def __init__(self, *, refusals: Refusals | None = None, **options: Any) -> None:
        super().__init__(**options)
        self._refusals, self._opened_at = refusals or Refusals(), 0.0

    async def connect(self) -> None:
        """Connect; a connection from before the last refusal is replaced. The pool calls this at each use."""
        if self.is_connected:
            if self._opened_at > self._refusals.at:
                return
            await self.disconnect(nowait=True)
        self._opened_at = time.monotonic()
        await super().connect()  # type: ignore[no-untyped-call]  # redis-py's

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Return the answer, and note a refusal."""
        try:
            return await super().read_response(*args, **options)
        except _REFUSALS:
            self._refusals.note()
            raise
        except ResponseError as error:
            if str(error).startswith(_REFUSING_WORDS):
                self._refusals.note()
            raise


class _TcpConnection(RefusalAware, Connection):
    pass


class _SSLConnection(RefusalAware, SSLConnection):
    pass


class _UnixConnection(RefusalAware, UnixDomainSocketConnection):
    pass


class _SentinelConnection(RefusalAware, SentinelManagedConnection):
    pass


class _SentinelSSLConnection(RefusalAware, SentinelManagedSSLConnection):
    pass


_REPLACEMENTS: Final[dict[type[Any], type[Any]]] = {
    Connection: _TcpConnection,
    SSLConnection: _SSLConnection,
    UnixDomainSocketConnection: _UnixConnection,
    SentinelManagedConnection: _SentinelConnection,
    SentinelManagedSSLConnection: _SentinelSSLConnection,
}


def replace_refusing(pool: ConnectionPool) -> None:
    """Have the connections that this pool opens from now on replaced when their server refuses.

    Raises:
        KeyError: It opens connections of a class that is not redis-py's.
    """
    kind = pool.connection_class
    pool.connection_class = kind if issubclass(kind, RefusalAware) else _REPLACEMENTS[kind]
    pool.connection_kwargs["refusals"] = Refusals()
