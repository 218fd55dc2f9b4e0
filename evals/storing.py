"""What happens to the Redis of a case, beside what its proxy does to the wire."""

from typing import Any

from redis.asyncio import Redis

from evals.stage import Stage
from sandbox.proxy import Proxy

_QUIET: bytes = b"epoch"


class Storing:
    """The hands on one stage's Redis."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._seen: dict[bytes, tuple[int, bytes]] = {}

    async def forget(self) -> None:
        """Take the guard's keys away, as if their time had run out; the epoch, which is renewed, stays."""
        client = self._client()
        try:
            tag = f"{{{self._stage.house.settings.key_prefix}}}:".encode()
            names = [name async for name in client.scan_iter() if name.startswith(tag)]
            for name in names:
                if not name.endswith(_QUIET):
                    await client.delete(name)
        finally:
            await client.aclose()

    async def snapshot(self) -> None:
        """Remember everything, as a replica that hears nothing more."""
        client = self._client()
        try:
            found = {}
            async for name in client.scan_iter():
                dump = await client.dump(name)
                if dump is not None:
                    found[name] = (max(0, await client.pttl(name)), dump)
            self._seen = found
        finally:
            await client.aclose()

    async def fail_over(self, proxy: Proxy) -> None:
        """Put back what `snapshot` saw: every write since is lost, and every line is cut."""
        client = self._client()
        try:
            await client.flushall()
            for name, (ttl, dump) in self._seen.items():
                await client.restore(name, ttl, dump, replace=True)
        finally:
            await client.aclose()
        proxy.cut()

    def _client(self) -> Any:
        return Redis.from_url(self._stage.plan.redis_url)
