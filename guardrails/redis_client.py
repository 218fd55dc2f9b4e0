"""The Redis client of the guards: short timeouts, no retries, so that no command is sent twice."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, TracerProvider, get_current_span
from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import NoScriptError, RedisClusterException
from redis.exceptions import TimeoutError as NoAnswer
from redis.maint_notifications import MaintNotificationsConfig

from .redis_connection import RefusalAware, replace_refusing
from .redis_url import is_sentinel, normalize, parse_sentinel_url

COMMAND_TIMEOUT_S: Final = 0.5
"""For connecting, and for the answer to one command."""

MAX_CONNECTIONS: Final = 48
"""More than `admission.CONCURRENT`, so that a decision never waits for a connection."""

RedisClient = Redis | RedisCluster
"""One server or a cluster. All our keys are in one slot, so both give the same verdicts."""

_SCOPE: Final = "onetake.redis"
_STATEMENT_LENGTH: Final = 1000

_CLUSTER: Final = "+cluster://"


class _Connection(RefusalAware, Connection):
    """Packs and writes commands as redis-py does, in about half the time."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return the command as Redis reads it: texts and numbers of plain ASCII in one piece."""
        if all(type(one) is str or type(one) is int for one in args) and str(args[0]).isalnum():
            texts = [str(one) for one in args]
            whole = f"*{len(texts)}\r\n" + "".join([f"${len(one)}\r\n{one}\r\n" for one in texts])
            if whole.isascii():
                return [whole.encode()]
        return list(super().pack_command(*args))

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        """Write within `socket_timeout`, for which redis-py starts a task each time."""
        limit = self.socket_timeout
        if not self.is_connected or limit is None:
            await super().send_packed_command(command, check_health)
            return
        self.socket_timeout = None
        try:
            async with asyncio.timeout(limit):
                await super().send_packed_command(command, check_health)
        except TimeoutError:  # the connection is closed already
            raise NoAnswer("Timeout writing to socket") from None
        finally:
            self.socket_timeout = limit


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master that the Sentinels name now; owns its connections to them."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections; those to the Sentinels as well when the client closes."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for one in self.sentinel_manager.sentinels:
                await one.aclose()


class _Cluster(RedisCluster):
    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Raise a RedisError if the cluster is unreachable: redis-py's RedisClusterException is not one."""
        try:
            return await super().execute_command(*args, **kwargs)
        except RedisClusterException as error:
            raise NoConnection(str(error)) from error


def connect(url: str, tracer_provider: TracerProvider | None = None) -> RedisClient:
    """Open a client for admission.

    `redis://…`, `rediss://…`, `unix://…`; `redis+cluster://…` with any of its nodes; `redis+sentinel://…`,
    see `redis_url.parse_sentinel_url`. A connection whose server refuses is replaced, see `redis_connection`.

    With a tracer provider its commands are traced. redis-py's defaults do not fit a guard: they re-send a
    command whose answer was lost, three times; the default pool raises when it is exhausted; and maintenance
    notifications hand out connections that died while idle.

    Raises:
        RedisUrlError: The URL cannot be used.
    """
    client = _open(url)
    if tracer_provider is not None:
        _trace(client, tracer_provider.get_tracer(_SCOPE))
    return client


def _trace(client: Any, tracer: Tracer) -> None:
    """Give each command inside a recorded span one of its own: no command starts a trace.

    Names and attributes are those of OpenTelemetry's instrumentation for Redis, which costs several times
    more. Arguments are not shown, only their number.
    """
    execute: Callable[..., Awaitable[Any]] = client.execute_command
    attributes = _attributes_of(client)

    async def execute_command(*args: Any, **options: Any) -> Any:
        if not get_current_span().is_recording():
            return await execute(*args, **options)
        described = {
            **attributes,
            "db.statement": _shorten(f"{args[0]}{' ?' * (len(args) - 1)}"),
            "db.redis.args_length": len(args),
        }
        span = tracer.start_span(str(args[0]), kind=SpanKind.CLIENT, attributes=described)
        try:
            return await execute(*args, **options)
        except NoScriptError:
            raise  # redis-py loads the script and runs it: this is how it asks whether it is there
        except Exception as error:
            span.record_exception(error)
            span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
            raise
        finally:
            span.end()

    client.execute_command = execute_command


def _shorten(statement: str) -> str:
    """Return a statement of at most 1000 characters; three points are what is left out."""
    return statement if len(statement) <= _STATEMENT_LENGTH else f"{statement[: _STATEMENT_LENGTH - 3]}..."


def _attributes_of(client: RedisClient) -> dict[str, str | int]:
    pool = getattr(client, "connection_pool", None)  # a cluster has one for each node
    if pool is None:
        return {"db.system": "redis"}
    to: dict[str, Any] = pool.connection_kwargs
    where: dict[str, str | int] = (
        {"net.peer.name": to["path"], "net.transport": "other"}
        if "path" in to
        else {
            "net.peer.name": to.get("host", "localhost"),
            "net.peer.port": to.get("port", 6379),
            "net.transport": "ip_tcp",
        }
    )
    return {"db.system": "redis", "db.redis.database_index": to.get("db") or 0, **where}


def _open(url: str) -> RedisClient:
    url = normalize(url)
    options: dict[str, Any] = {
        "socket_timeout": COMMAND_TIMEOUT_S,
        "socket_connect_timeout": COMMAND_TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "decode_responses": True,
    }
    if _CLUSTER in url:
        # docket spells a cluster's URL like this, so that one URL serves guards and queue.
        return _Cluster.from_url(url.replace(_CLUSTER, "://", 1), **options)
    # Waiting for our own pool says nothing about Redis.
    options |= {"max_connections": MAX_CONNECTIONS, "timeout": None}
    pool = _sentinel_pool(url, options) if is_sentinel(url) else _pool(url, options)
    replace_refusing(pool)
    return Redis.from_pool(pool)


def _pool(url: str, options: dict[str, Any]) -> BlockingConnectionPool:
    # With `rediss://` and `unix://`, redis-py takes its own class.
    return BlockingConnectionPool.from_url(url, connection_class=_Connection, **options)


def _sentinel_pool(url: str, options: dict[str, Any]) -> BlockingConnectionPool:
    where = parse_sentinel_url(url)
    asking = {name: value for name, value in options.items() if name not in ("max_connections", "timeout")}
    sentinels = Sentinel(  # type: ignore[no-untyped-call]  # redis-py's
        where.sentinels, sentinel_kwargs=asking | where.sentinel_options
    )
    return _SentinelPool(  # type: ignore[no-untyped-call]  # as above
        where.master, sentinels, db=where.db, **options | where.options
    )
