"""URLs of Redis: passwords as people write them, and Sentinel."""

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from redis.asyncio.connection import parse_url

SENTINEL_SCHEMES: Final = ("redis+sentinel", "rediss+sentinel")
SCHEMES: Final = ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", *SENTINEL_SCHEMES)

_SENTINEL_FORM: Final = "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB"
_SENTINEL_PORT: Final = 26379
_MAX_PORT: Final = 65_535
_QUERY: Final = re.compile(r"\?[a-z_]+=")
_HOST: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\[\]:@/\s]+)(?::(?P<port>\d{1,5}))?")


class RedisUrlError(ValueError):
    """The URL cannot be used; the message says what is wrong, without its user and password."""


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """Where a master is found.

    Attributes:
        sentinels: Host and port of each Sentinel.
        master: The name by which they know the master.
        db: The database on it.
        options: Options of redis-py for connections to the master.
        sentinel_options: Those for connections to the Sentinels.
    """

    sentinels: tuple[tuple[str, int], ...]
    master: str
    db: int = 0
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)


def normalize(url: str) -> str:
    """Return the URL with user and password percent-encoded, so that `/`, `?`, `#` and `@` may be in them.

    What is encoded already stays as it is.

    Raises:
        RedisUrlError: It is not a URL of Redis.
    """
    scheme, given, rest = url.partition("://")
    if not given or scheme not in SCHEMES:
        found = f"{scheme[:20]}://…" if given else f"{len(url)} characters without ://"
        raise RedisUrlError(f"{found} is not a URL of Redis; use one of {', '.join(SCHEMES)}")
    begun = _QUERY.search(rest)
    place, query = (rest[: begun.start()], rest[begun.start() :]) if begun else (rest, "")
    userinfo, mark, where = place.rpartition("@")
    user, colon, password = userinfo.partition(":")
    return f"{scheme}://{_encode(user)}{colon}{_encode(password)}{mark}{where}{query}"


def _encode(text: str) -> str:
    return quote(text, safe="%!$&'()*+,;=~")


def is_sentinel(url: str) -> bool:
    """Whether the URL names Sentinels, which name the server."""
    return url.partition("://")[0] in SENTINEL_SCHEMES


def parse_sentinel_url(url: str) -> SentinelUrl:
    """Read `redis+sentinel://[user:password@]host[:port][,…]/master[/db][?option=…]`.

    `rediss+sentinel` means TLS to master and Sentinels. The options `sentinel_username` and
    `sentinel_password` are for the Sentinels; all others are redis-py's, for the master.

    Raises:
        RedisUrlError: Something is missing or cannot be read.
    """
    scheme, _, rest = normalize(url).partition("://")
    rest, _, query = rest.partition("?")
    userinfo, _, place = rest.rpartition("@")
    hosts, _, path = place.partition("/")
    master, _, db = path.partition("/")
    if not master:
        raise RedisUrlError(f"no master's name is in it; use {_SENTINEL_FORM}")
    if db and not db.isdigit():
        raise RedisUrlError(f"the database {db!r} is not a number; use {_SENTINEL_FORM}")
    options, sentinel_options = _options(query, tls=scheme.startswith("rediss"))
    user, _, password = userinfo.partition(":")
    options |= {"username": unquote(user)} if user else {}
    options |= {"password": unquote(password)} if password else {}
    addresses = tuple(_address(one) for one in hosts.split(","))
    return SentinelUrl(addresses, unquote(master), int(db or 0), options, sentinel_options)


def _address(text: str) -> tuple[str, int]:
    found = _HOST.fullmatch(text.strip())
    port = int(found["port"] or _SENTINEL_PORT) if found else 0
    if found is None or not 0 < port <= _MAX_PORT:
        raise RedisUrlError(f"{text!r} is not the address of a Sentinel; use {_SENTINEL_FORM}")
    return found["host"].strip("[]"), port


def _options(query: str, *, tls: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    given = dict(parse_qsl(query, keep_blank_values=True))
    own = {
        name: value
        for name in ("username", "password")
        if (value := given.pop(f"sentinel_{name}", ""))
    }  # fmt: skip
    try:
        options: dict[str, Any] = dict(parse_url(f"redis://?{urlencode(given)}"))
    except ValueError as error:
        raise RedisUrlError(str(error)) from None
    for governed in ("host", "port", "db", "username", "password"):
        options.pop(governed, None)
    sentinel_options: dict[str, Any] = own
    if tls:
        shared = {name: value for name, value in options.items() if name.startswith("ssl_")}
        options, sentinel_options = options | {"ssl": True}, own | shared | {"ssl": True}
    return options, sentinel_options


def with_option(url: str, name: str, value: str) -> str:
    """Return the URL with this option in its query, in place of one of that name."""
    rest, _, query = normalize(url).partition("?")
    kept = [one for one in query.split("&") if one and one.partition("=")[0] != name]
    return f"{rest}?{'&'.join([*kept, f'{name}={value}'])}"


def host_of(url: str) -> str:
    """Return host and port as they may be shown: no user, no password, no options."""
    rest = normalize(url).partition("://")[2].partition("?")[0]
    return rest.rpartition("@")[2].partition("/")[0]
