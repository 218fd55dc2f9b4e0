"""Which errors of the stores are outages, and which are defects of ours."""

import sqlite3

import pytest
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import DataError as RedisDataError
from redis.exceptions import RedisClusterException
from redis.exceptions import TimeoutError as NoAnswer
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, InvalidRequestError, StatementError
from sqlalchemy.exc import TimeoutError as WaitTimeout

from ledger.database import Ledger, LedgerError
from ledger.transitions import JobTaken
from tests.support.pipeline_harness import marked, on_postgres
from worker.outages import ends_by_itself, is_outage

OUTAGES = [
    "53000", "53100", "53200", "53300", "53400",
    "57P01", "57P02", "57P03", "57P04", "57P05", "57014",
    "25006", "25P03", "40001", "40003", "40P01", "55P03", "55000",
    "26000", "42P05", "42501", "0A000", "58030", "XX000",
    "08000", "08001", "08003", "08004", "08006", "08P01",
]  # fmt: skip
DEFECTS = ["22001", "22003", "22P02", "23502", "23505", "42601", "42703", "42P01", "21000", "P0001"]


async def _error(ledger: Ledger, sqlstate: str) -> DBAPIError:
    """Return the error that SQLAlchemy makes of a real answer with this SQLSTATE."""
    with pytest.raises(DBAPIError) as error:
        async with ledger.read() as conn:
            await conn.execute(text(f"DO $$ BEGIN RAISE 'said' USING ERRCODE = '{sqlstate}'; END $$"))
    return error.value


@marked(*on_postgres)
@pytest.mark.parametrize("sqlstate", OUTAGES)
async def test_a_servers_trouble_is_an_outage(ledger: Ledger, sqlstate: str):
    """What PostgreSQL or a pooler says of itself is an outage, whatever class SQLAlchemy gives it."""
    assert is_outage(await _error(ledger, sqlstate))


@marked(*on_postgres)
@pytest.mark.parametrize("sqlstate", DEFECTS)
async def test_a_wrong_statement_is_a_defect(ledger: Ledger, sqlstate: str):
    """Data, constraints and names are defects: they would fail again without end."""
    assert not is_outage(await _error(ledger, sqlstate))


@marked(*on_postgres)
async def test_a_value_that_cannot_be_sent_is_a_defect(ledger: Ledger):
    """The driver refuses it before the server does."""
    with pytest.raises(DBAPIError) as error:
        async with ledger.read() as conn:
            await conn.execute(text("SELECT CAST(:n AS INTEGER)"), {"n": 2**40})
    assert not is_outage(error.value)


@pytest.mark.parametrize(
    ("answer", "outage"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("READONLY You can't write against a read only replica. script: f1, on @user_script:3.", True),
        ("LOADING Redis is loading the dataset in memory", True),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
        ("NOAUTH Authentication required.", True),
        ("WRONGPASS invalid username-password pair or user is disabled.", True),
        ("NOPERM User bot has no permissions to run the 'set' command", True),
        ("OOM command not allowed when used memory > 'maxmemory'.", True),
        ("MISCONF Errors writing to the AOF file: No space left. script: f1, on @user_script:3.", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("UNBLOCKED force unblock from blocking operation", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("TRYAGAIN Multiple keys request during rehashing of slot", True),
        ("BUSY Redis is busy running a script.", True),
        ("ERR max number of clients reached", True),
        ("ERR upstream failure", True),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("ERR wrong number of arguments for 'get' command", False),
        ("ERR user_script:3: attempt to index a nil value script: f1, on @user_script:3.", False),
        ("CROSSSLOT Keys in request don't hash to the same slot", False),
    ],
)
def test_answers_of_redis(answer: str, outage: bool):
    """What a server says of itself is an outage; a command that is wrong at any time is a defect."""
    assert is_outage(BaseParser.parse_error(answer)) is outage


@pytest.mark.parametrize(
    ("error", "outage"),
    [
        (OSError("no route to host"), True),
        (TimeoutError(), True),
        (EOFError(), True),
        (NoConnection("reset"), True),
        (NoAnswer("no answer"), True),
        (RedisClusterException("no node answers"), True),
        (WaitTimeout("no transaction ended"), True),
        (InvalidRequestError("Can't reconnect until invalid transaction is rolled back."), True),
        (DBAPIError("x", {}, sqlite3.OperationalError("database is locked")), True),
        (DBAPIError("x", {}, Exception("pgbouncer cannot connect to server")), True),
        (ExceptionGroup("two", [OSError(), NoAnswer()]), True),
        (ExceptionGroup("two", [OSError(), KeyError()]), False),
        (IntegrityError("x", {}, Exception("UNIQUE constraint failed")), False),
        (StatementError("x", "x", {}, TypeError("not a number")), False),
        (RedisDataError("Invalid input of type: 'NoneType'"), False),
        (LedgerError("made by a newer version"), False),
        (JobTaken("another order has this job"), False),
        (KeyError("caption"), False),
    ],
)
def test_errors_without_an_answer(error: Exception, outage: bool):
    """The way to a store may fail in any way; our own exceptions are defects."""
    assert is_outage(error) is outage


@marked(*on_postgres)
@pytest.mark.parametrize(
    ("sqlstate", "waits"),
    [("57P03", True), ("53300", True), ("25006", True), ("08P01", True), ("28P01", False), ("3D000", False)],
)
async def test_a_start_waits_for_what_ends_by_itself(ledger: Ledger, sqlstate: str, waits: bool):
    """A server that starts is waited for; a wrong password is told at once."""
    assert ends_by_itself(await _error(ledger, sqlstate)) is waits
