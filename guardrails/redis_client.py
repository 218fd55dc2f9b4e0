"""The Redis client of the guards: short timeouts, no retries, so that no command is sent twice."""

from typing import Any, Final

from opentelemetry.instrumentation.redis import RedisInstrumentor
from opentelemetry.trace import TracerProvider
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisClusterException
from redis.maint_notifications import MaintNotificationsConfig

COMMAND_TIMEOUT_S: Final = 0.5
"""For connecting, and for the answer to one command."""

MAX_CONNECTIONS: Final = 48
"""More than `admission.CONCURRENT`, so that a decision never waits for a connection."""

RedisClient = Redis | RedisCluster
"""One server or a cluster. All our keys are in one slot, so both give the same verdicts."""

_CLUSTER: Final = "+cluster://"


class _Cluster(RedisCluster):
    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Raise a RedisError if the cluster is unreachable: redis-py's RedisClusterException is not one."""
        try:
            return await super().execute_command(*args, **kwargs)
        except RedisClusterException as error:
            raise NoConnection(str(error)) from error


def connect(url: str, tracer_provider: TracerProvider | None = None) -> RedisClient:
    """Open a client for admission: `redis://…`, `rediss://…`, or `redis+cluster://…` with any of its nodes.

    With a tracer provider its commands are traced. redis-py's defaults do not fit a guard: they re-send a
    command whose answer was lost, three times; the default pool raises when it is exhausted; and maintenance
    notifications hand out connections that died while idle.
    """
    client = _open(url)
    if tracer_provider is not None:
        # Only this client: the queue's polls continuously and would fill every trace.
        RedisInstrumentor.instrument_client(client, tracer_provider=tracer_provider)
    return client


def _open(url: str) -> RedisClient:
    if _CLUSTER in url:
        # docket spells a cluster's URL like this, so that one URL serves guards and queue.
        return _Cluster.from_url(
            url.replace(_CLUSTER, "://", 1),
            socket_timeout=COMMAND_TIMEOUT_S,
            socket_connect_timeout=COMMAND_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
            decode_responses=True,
        )
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=None,  # waiting for our own pool says nothing about Redis
        socket_timeout=COMMAND_TIMEOUT_S,
        socket_connect_timeout=COMMAND_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        decode_responses=True,
    )
    return Redis.from_pool(pool)
