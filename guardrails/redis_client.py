"""The connection that guards use: it answers soon or not at all, and never sends a command twice."""

from typing import Any, Final

from opentelemetry.instrumentation.redis import RedisInstrumentor
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisClusterException
from redis.maint_notifications import MaintNotificationsConfig

from telemetry.tracing import TRACER_PROVIDER

COMMAND_TIMEOUT_S = 0.5

RedisClient = Redis | RedisCluster
"""What scripts run on. All keys of ours lie in one slot, so that both decide alike."""

_CLUSTER: Final = "+cluster://"


class _Cluster(RedisCluster):
    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """As for one server: a cluster that cannot be reached is a RedisError; redis-py's own is none."""
        try:
            return await super().execute_command(*args, **kwargs)
        except RedisClusterException as error:
            raise NoConnection(str(error)) from error


def connect(url: str) -> RedisClient:
    """Open a client for admission, whose commands are traced; see `_open`."""
    client = _open(url)
    # This client alone: the queue's own polls for ever, and would fill every trace.
    RedisInstrumentor.instrument_client(client, tracer_provider=TRACER_PROVIDER)
    return client


def _open(url: str) -> RedisClient:
    """Open a client for admission: `redis://…`, `rediss://…`, or `redis+cluster://…` with any of its nodes.

    redis-py's defaults re-send a command whose answer was lost, three times; its default pool raises when it
    is used up; and with maintenance notifications on, it hands out connections that died while idle.
    """
    if _CLUSTER in url:
        # The queue's own spelling of the same (docket's `redis+cluster://`), so that one URL serves both.
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
        max_connections=32,
        timeout=COMMAND_TIMEOUT_S,
        socket_timeout=COMMAND_TIMEOUT_S,
        socket_connect_timeout=COMMAND_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        decode_responses=True,
    )
    return Redis.from_pool(pool)
