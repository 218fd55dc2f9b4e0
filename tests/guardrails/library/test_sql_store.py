"""The SQL store's own tables: created once, migrated, apart by prefix; URLs and what is wrong with them."""

import asyncio
import re

import pytest

from guardrails import SqlStore
from guardrails.library import sql_statements
from guardrails.library.claims import Claim, take
from guardrails.library.sql_statements import SchemaTooNew, Statements
from guardrails.library.sql_store import StoreUrlError
from guardrails.limits import Limits

SQL_ALONE = True


@pytest.fixture
def stores(make_store):
    return make_store


ASK = Claim(key="k", namespace="n", tool="t", act="r", item="", user="u", owner="o")


async def test_setup_is_safe_at_once_and_again(stores):
    """Four stores that are set up at the same time, and again, leave one set of tables, with its claims."""
    opened = [stores() for _ in range(4)]
    await asyncio.gather(*(one.setup() for one in opened))
    await opened[0].change("k", take(ASK, Limits(), 1000))
    await asyncio.gather(*(one.setup() for one in opened))
    assert {(await one.read("k")).owner for one in opened} == {"o"}


async def test_newer_tables_stop_an_older_library(stores, monkeypatch):
    """An older library refuses tables of a newer version, and says which it knows."""
    await stores().setup()
    monkeypatch.setattr(sql_statements, "VERSION", 0)
    with pytest.raises(SchemaTooNew, match="have version 1; this library knows up to 0"):
        await stores().setup()


async def test_older_tables_are_migrated_once(stores, monkeypatch):
    """The statements of each later version run once, with the claims kept, in every process's setup."""
    first = stores()
    await first.setup()
    await first.change("k", take(ASK, Limits(), 1000))
    monkeypatch.setattr(sql_statements, "VERSION", 3)
    steps = {n: (f"ALTER TABLE {{prefix}}claims ADD COLUMN extra{n} TEXT",) for n in (2, 3)}
    monkeypatch.setattr(sql_statements, "_MIGRATIONS", steps)
    await asyncio.gather(*(stores().setup() for _ in range(3)))
    assert (await stores().read("k")).owner == "o"


def test_every_version_has_its_step():
    """A new version comes with the statements that lead to it."""
    assert sql_statements._MIGRATIONS.keys() == set(range(2, sql_statements.VERSION + 1))
    assert Statements("p_", "sqlite").steps(sql_statements.VERSION) == []


async def test_nothing_of_a_change_that_raises_is_kept(stores):
    """A rule that raises leaves its claim as it was, and the store usable."""
    store = stores()
    await store.setup()

    def broken(found, now, usage):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await store.change("k", broken)
    assert await store.read("k") is None
    await store.change("k", take(ASK, Limits(), 1000))
    assert (await store.read("k")).state == "in_flight"


@pytest.mark.parametrize("url", ["mysql://me:secret@db/x", "claims.db", ""])
def test_a_url_of_another_database(url):
    with pytest.raises(StoreUrlError, match=r"is not supported; use sqlite:///FILE") as error:
        SqlStore(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("prefix", ["", "Guard_", "a;drop", "1a"])
def test_a_prefix_that_is_no_name(prefix):
    with pytest.raises(ValueError, match=re.escape(repr(prefix))):
        SqlStore("sqlite://", prefix=prefix)
