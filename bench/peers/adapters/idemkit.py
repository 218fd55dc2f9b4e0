"""idemkit: Redis, keys of act and item, duplicates wait; the lease is kept alive by its heartbeat."""

from idemkit import MethodConfig, RedisBackend, idempotent

from bench.peers.adapter import AWAY, ONE_RECORD, UNKNOWN, Run, SdkAdapter
from bench.peers.body import Body, NotSentError

_LEASE_S = 3600.0


class _UnknownOutcomeError(Exception):
    """Raised in place of any other error than an unsent call; cached, so that it is not run again."""


class Idemkit(SdkAdapter):
    """`@idempotent` with `cache_exceptions` for what must not run again, and 30 days of memory.

    When a lease ends, the call runs again without a question to the provider. So the lease is an hour here:
    the act of a dead process stays unknown, and is not paid twice.
    """

    packages = ("idemkit",)
    store = "Redis"
    wants = frozenset({"redis"})
    keeps_files = False
    outside = {
        "restarted": "“idemkit cannot ask the provider for you”",
        "emptied": ONE_RECORD,
        "restored": ONE_RECORD,
    }
    words = {
        "IdempotencyConflict": UNKNOWN,
        "StorageUnavailable": AWAY,
        "StorageError": AWAY,
        "ReplayedError": UNKNOWN,
        "_UnknownOutcomeError": UNKNOWN,
    }

    async def open(self) -> None:
        """Open the store."""
        self.backend = RedisBackend.from_url(self.place.redis)

    async def call(self, run: Run, item: str, note: str, body: Body) -> str:
        """Run the tool once for its key."""
        config = MethodConfig(
            key_fields=["act", "item"],
            scope=lambda *_, **__: run.user,
            expires_after_seconds=30 * 86_400,
            lease_ttl_seconds=_LEASE_S,
            wait_timeout_seconds=5,
            cache_exceptions=(_UnknownOutcomeError,),
        )

        @idempotent(backend=self.backend, config=config)
        async def charge(*, act: str, item: str) -> str:
            try:
                return await body.run(act, item)
            except NotSentError:
                raise
            except Exception as error:
                raise _UnknownOutcomeError(str(error)) from error

        return str(await charge(act=run.act, item=item))
