"""What Redis is behind REDIS_URL, and whether admission can rely on it."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from guardrails.admission import RedisKeys, write_health
from guardrails.redis_client import RedisClient, connect
from guardrails.redis_url import RedisUrlError, host_of, is_sentinel

_MIN_VERSION: Final = 7

RedisHealth = Literal["well", "look", "ill"]


@dataclass(frozen=True)
class RedisState:
    """What was found, in words for an operator. `ill`: admission would not work, or not safely."""

    health: RedisHealth
    words: str


async def check_redis_url(url: str, prefix: str) -> RedisState:
    """Write to this Redis and read how it is configured, as far as it shows that."""
    try:
        client = connect(url)
    except RedisUrlError as error:
        return RedisState("ill", f"REDIS_URL cannot be used: {error}")
    try:
        return await _check(client, prefix)
    except (RedisError, OSError) as error:
        return RedisState("ill", f"{describe_failure(error, url)}: no order would be accepted")
    finally:
        await client.aclose()


async def find_unsafe(url: str, prefix: str) -> str:
    """Return why an order could be made twice on this Redis; empty if not, or if it does not answer now."""
    client = connect(url)
    try:
        found = await _check(client, prefix)
    except (RedisError, OSError):
        return ""  # who opens the queue waits for it, or says what is wrong
    finally:
        await client.aclose()
    return found.words if found.health == "ill" else ""


async def _check(client: RedisClient, prefix: str) -> RedisState:
    server = await _info(client, "server")
    if server is not None and server.get("redis_mode") == "sentinel":
        return RedisState(
            "ill",
            "REDIS_URL is the address of a Sentinel, which stores nothing; "
            "use redis+sentinel://HOST:PORT/MASTER/DB",
        )
    await write_health(client, RedisKeys(prefix))
    memory, disk = await _info(client, "memory"), await _info(client, "persistence")
    version = str((server or {}).get("redis_version", ""))
    if version.partition(".")[0].isdigit() and int(version.partition(".")[0]) < _MIN_VERSION:
        return RedisState("ill", f"Redis {version} is too old: use {_MIN_VERSION} or newer, or Valkey")
    policy = (memory or {}).get("maxmemory_policy")
    if policy not in (None, "noeviction"):
        return RedisState(
            "ill",
            f"maxmemory-policy is {policy}; set noeviction: an evicted key could mean a second video",
        )
    remarks = list(_remarks(policy, (disk or {}).get("aof_enabled")))
    if remarks:
        return RedisState("look", "it takes writes; " + "; ".join(remarks))
    return RedisState("well", "it takes writes; noeviction, append-only file on")


def _remarks(policy: object, aof: object) -> Iterator[str]:
    if policy is None:
        yield (
            "this server does not show maxmemory-policy (INFO is forbidden): "
            "see that it is noeviction where it is managed"
        )
    if aof is None:
        yield "it does not show whether it keeps an append-only file"
    elif not aof:
        yield "appendonly is off: after a restart nothing is admitted until the counters are rebuilt"


async def _info(client: RedisClient, section: str) -> dict[str, Any] | None:
    """Return a section of INFO; None where the server forbids or does not know the command."""
    try:
        return dict(await client.info(section))
    except (NoPermissionError, ResponseError) as error:
        if isinstance(error, NoPermissionError) or "unknown command" in str(error).lower():
            return None
        raise


def describe_failure(error: BaseException, url: str) -> str:
    """Return what is wrong with REDIS_URL, by its cause: certificate, password, rights, answer."""
    where = host_of(url)
    if said := next(filter(None, (_describe_cause(one, where) for one in _causes(error))), ""):
        return said
    if isinstance(error, ResponseError):
        return f"REDIS_URL {where} refuses writes ({error})"
    if is_sentinel(url) and not isinstance(error, NoAnswer):
        return f"the Sentinels of REDIS_URL {where} name no master that answers ({error})"
    return f"REDIS_URL {where} does not answer ({type(error).__name__})"


def _describe_cause(error: BaseException, where: str) -> str:
    match error:
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of REDIS_URL {where} is not trusted ({error.verify_message}); "
                "name its root with ?ssl_ca_certs=FILE"
            )
        case ssl.SSLError():
            return f"REDIS_URL {where} speaks no TLS as asked ({error.reason or type(error).__name__})"
        case NoPermissionError():
            return (
                f"the user of REDIS_URL lacks a right at {where} ({error}); it needs the keys of KEY_PREFIX"
            )
        case AuthenticationError():
            return f"REDIS_URL's user or password is refused by {where} ({str(error).rstrip('.')})"
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
