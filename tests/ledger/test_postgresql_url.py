"""DATABASE_URL as managed PostgreSQL hands it out: understood, or refused in one sentence."""

import ssl
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

from ledger.database import Ledger, LedgerError
from ledger.postgresql_url import PostgresUrlError, parse
from tests.support.pipeline_harness import marked, on_postgres

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("query", "arguments"),
    [
        ("sslmode=disable", {"ssl": False}),
        ("sslmode=require", {"ssl": "require"}),
        ("sslmode=require&channel_binding=prefer", {"ssl": "require"}),
        ("application_name=onetake", {"server_settings": {"application_name": "onetake"}}),
        ("options=-csearch_path%3Dpublic", {"server_settings": {"options": "-csearch_path=public"}}),
        ("target_session_attrs=read-write", {"target_session_attrs": "read-write"}),
        ("connect_timeout=10", {"timeout": 10}),
        ("pgbouncer=true", {}),
        ("statement_cache_size=0", {}),
    ],
)
def test_a_parameter_is_understood(query: str, arguments: dict[str, object]):
    """Each becomes the driver's own argument."""
    found = parse(f"postgresql://bot:{SECRET}@db.example/x?{query}")
    assert found.arguments == arguments
    assert found.url.render_as_string() == "postgresql+asyncpg://bot:***@db.example:5432/x"
    assert found.pooled is (query == "pgbouncer=true")


def test_several_hosts_are_tried_for_one_that_takes_writes():
    """A list of hosts means the one that is primary now."""
    found = parse(f"postgresql://bot:{SECRET}@a.example:5433,b.example,[::1]:5434/x")
    assert found.arguments == {
        "host": ["a.example", "b.example", "::1"],
        "port": [5433, 5432, 5434],
        "target_session_attrs": "read-write",
    }


def test_a_socket_and_odd_passwords_are_understood():
    """The folder of a socket as `host`; a password with `/`, `?`, `#` and `@`, as typed or encoded."""
    assert parse("postgresql:///x?host=/run/postgresql").arguments == {
        "host": ["/run/postgresql"],
        "port": [5432],
    }
    for typed in ("pa/s?s#w@d", "pa%2Fs%3Fs%23w%40d"):
        url = parse(f"postgresql://bot:{typed}@db/x?sslmode=require").url
        assert (url.password, url.host, url.database) == ("pa/s?s#w@d", "db", "x")


def test_certificates_are_checked_where_that_is_asked(tmp_path: Path):
    """`verify-full` checks chain and name, by the system's roots; `verify-ca` the chain; a root is a file."""
    full = parse("postgresql://db/x?sslmode=verify-full").arguments["ssl"]
    assert (full.check_hostname, full.verify_mode) == (True, ssl.CERT_REQUIRED)
    chain = parse("postgresql://db/x?sslmode=verify-ca&sslrootcert=system").arguments["ssl"]
    assert (chain.check_hostname, chain.verify_mode) == (False, ssl.CERT_REQUIRED)
    with pytest.raises(PostgresUrlError, match="sslrootcert '/no/such' is not a file"):
        parse("postgresql://db/x?sslmode=verify-full&sslrootcert=/no/such")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("sslmode=perhaps", ["sslmode", "perhaps", "verify-full"]),
        ("channel_binding=require", ["channel_binding", "require", "prefer"]),
        ("target_session_attrs=standby", ["target_session_attrs", "standby", "read-write"]),
        ("keepalives=1", ["keepalives", "sslmode"]),
        ("connect_timeout=soon", ["connect_timeout", "soon"]),
        (f"{SECRET}=1", ["parameter", "known"]),
    ],
)
def test_what_is_not_understood_is_refused_in_one_sentence(query: str, words: list[str]):
    """It names DATABASE_URL, the parameter, its value and what is allowed; no password."""
    with pytest.raises(LedgerError) as caught:
        Ledger(f"postgresql://bot:topsecret@db/x?{query}")
    message = str(caught.value)
    assert [word for word in ["DATABASE_URL", *words] if word not in message] == []
    assert "topsecret" not in message
    assert "\n" not in message


@marked(*on_postgres)
@pytest.mark.parametrize(
    "query",
    ["sslmode=disable", "sslmode=prefer", "application_name=onetake", "options=-csearch_path%3Dpublic"],
)
async def test_a_real_server_takes_it(ledger_url: str, query: str):
    """PostgreSQL itself is reached with each of them."""
    ledger = Ledger(f"{ledger_url}?{query}")
    async with ledger.read() as conn:
        shown = await conn.scalar(text("SHOW application_name"))
    assert (shown == "onetake") is query.startswith("application_name")
    await ledger.close()


@marked(*on_postgres)
async def test_the_host_that_answers_is_taken(ledger_url: str):
    """Of two hosts the one that is away is passed over."""
    url = make_url(ledger_url)
    ledger = Ledger(f"postgresql://{url.username}@127.0.0.1:1,{url.host}:{url.port}/{url.database}")
    async with ledger.read() as conn:
        assert await conn.scalar(text("SELECT 1")) == 1
    await ledger.close()
