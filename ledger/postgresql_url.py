"""PostgreSQL URLs as managed services hand them out: read into what the driver understands.

The driver's own arguments, not libpq's parameters, are what SQLAlchemy passes on. So each parameter is
translated here, or refused in one sentence that names it.
"""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from sqlalchemy.engine import URL

POOLER_PARAMETER: Final = "pgbouncer"
"""`pgbouncer=true`, as others spell it: a pooler in transaction mode is in front. It is also found out."""

_SSL_MODES: Final = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES: Final = ("sslrootcert", "sslcert", "sslkey")
_SESSION_ATTRIBUTES: Final = ("any", "primary", "read-write")
_SETTINGS: Final = ("application_name", "options")
_IGNORED: Final = ("gssencmode", "sslcompression", "sslsni", "statement_cache_size")
_KNOWN: Final = (
    "application_name", "channel_binding", "connect_timeout", "host", "options", POOLER_PARAMETER, "port",
    "sslmode", *_SSL_FILES, "target_session_attrs",
)  # fmt: skip
_PORT: Final = 5432
_QUERY: Final = re.compile(r"\?[a-z_]+=")


class PostgresUrlError(ValueError):
    """A part of the URL cannot be used; the message names it and what is allowed, never a password."""


@dataclass(frozen=True, slots=True)
class PostgresUrl:
    """A URL, read.

    Attributes:
        url: The first host, user, password and database: what messages may show without the password.
        arguments: For the driver: hosts, TLS, server settings, the time to connect.
        pooled: Whether the URL says that a pooler in transaction mode is in front.
    """

    url: URL
    arguments: dict[str, Any] = field(default_factory=dict, repr=False)
    pooled: bool = False


def parse(text: str) -> PostgresUrl:
    """Read `postgresql://[user[:password]@][host[:port][,…]][/database][?parameter=…]`.

    Raises:
        PostgresUrlError: It has a part that the driver or the ledger cannot use.
    """
    rest = text.partition("://")[2]
    if begun := _QUERY.search(rest):  # a password may contain a question mark
        rest, query = rest[: begun.start()], rest[begun.start() + 1 :]
    else:
        query = ""
    userinfo, _, place = rest.rpartition("@")
    place, _, odd = place.partition("?")
    query = odd or query
    hosts, _, database = place.partition("/")
    user, _, password = userinfo.partition(":")
    given = dict(parse_qsl(query, keep_blank_values=True))
    if unknown := [name for name in given if name not in (*_KNOWN, *_IGNORED)]:
        name = repr(unknown[0]) if unknown[0].isidentifier() else "without a name"
        raise PostgresUrlError(f"parameter {name} is not known here; known: {', '.join(_KNOWN)}")
    addresses = [_address(one) for one in (given.get("host") or hosts or "localhost").split(",")]
    if port := given.get("port"):
        addresses = [(host, _port(port)) for host, _ in addresses]
    url = URL.create(
        "postgresql+asyncpg", unquote(user) or None, unquote(password) or None,
        addresses[0][0], addresses[0][1], unquote(database) or None,
    )  # fmt: skip
    return PostgresUrl(url, _arguments(given, addresses), given.get(POOLER_PARAMETER, "") in ("true", "1"))


def _address(text: str) -> tuple[str, int]:
    if text.startswith("/"):  # the folder of a socket
        return text, _PORT
    host, mark, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    host, port = (host, port) if mark else (text, "")
    return unquote(host).strip("[]") or "localhost", _port(port) if port else _PORT


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65_536:
        raise PostgresUrlError(f"a port is not a number from 1 to 65535 ({len(text)} characters)")
    return int(text)


def _arguments(given: dict[str, str], addresses: list[tuple[str, int]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if len(addresses) > 1 or addresses[0][0].startswith("/"):
        hosts, ports = zip(*addresses, strict=True)
        found |= {"host": list(hosts), "port": list(ports)}
    if len(addresses) > 1:
        found["target_session_attrs"] = "read-write"  # the ledger writes: a standby is of no use
    if wanted := given.get("target_session_attrs"):
        _check("target_session_attrs", wanted, _SESSION_ATTRIBUTES, "the ledger writes")
        found["target_session_attrs"] = wanted
    if settings := {name: given[name] for name in _SETTINGS if given.get(name)}:
        found["server_settings"] = settings
    if seconds := given.get("connect_timeout"):
        if not seconds.isdigit():
            raise PostgresUrlError(f"connect_timeout {seconds[:20]!r} is not a number of seconds")
        found["timeout"] = int(seconds) or None
    _check_channel_binding(given.get("channel_binding", "prefer"))
    return found | _tls(given)


def _check(name: str, value: str, allowed: tuple[str, ...], why: str = "") -> None:
    if value not in allowed:
        reason = f" ({why})" if why else ""
        raise PostgresUrlError(f"{name} {value[:40]!r} cannot be used{reason}; allowed: {', '.join(allowed)}")


def _check_channel_binding(value: str) -> None:
    if value == "require":
        # Said, not dropped: who asks for it must know that it is not there.
        raise PostgresUrlError(
            "channel_binding 'require' cannot be had, because the driver has no channel binding; use "
            "channel_binding=prefer, with sslmode=verify-full against the same attack"
        )
    _check("channel_binding", value, ("disable", "prefer"))


def _tls(given: dict[str, str]) -> dict[str, Any]:
    mode = given.get("sslmode")
    if mode is not None:
        _check("sslmode", mode, _SSL_MODES)
    files = {name: given[name] for name in _SSL_FILES if given.get(name)}
    if mode == "disable":
        return {"ssl": False}
    if mode not in ("verify-ca", "verify-full") and not files:
        return {} if mode is None else {"ssl": mode}
    return {"ssl": _context(mode or "prefer", files)}


def _context(mode: str, files: dict[str, str]) -> ssl.SSLContext:
    """Return what checks certificates; as in libpq, a root certificate is checked in weaker modes as well."""
    for name, path in files.items():
        if path != "system" and not Path(path).is_file():
            raise PostgresUrlError(f"{name} {path!r} is not a file")
    root = files.get("sslrootcert")
    context = ssl.create_default_context(cafile=None if root in (None, "system") else root)
    context.check_hostname = mode == "verify-full"
    if mode not in ("verify-ca", "verify-full") and root is None:
        context.verify_mode = ssl.CERT_NONE
    if "sslcert" in files:
        try:
            context.load_cert_chain(files["sslcert"], files.get("sslkey"))
        except ssl.SSLError as error:
            raise PostgresUrlError(f"sslcert and sslkey cannot be used together ({error.reason})") from None
    return context
