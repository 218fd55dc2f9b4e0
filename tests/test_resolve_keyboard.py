"""A person settles from the keyboard what no machine can: `python -m bot resolve`."""

import io

import pytest
from lives import books, ordered, put, video_of
from pydantic import SecretStr
from rich.console import Console

from app.operator_commands import costs, resolve
from app.settings import read_settings
from ledger import transitions
from ledger.database import LedgerError
from ledger.models import VideoState
from telemetry.redaction import short_id


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


@pytest.fixture
def settings(ledger_url):
    return read_settings(_env_file=None, database_url=SecretStr(ledger_url))


async def test_a_doubt_is_settled_by_hand(settings, console, ledger, opened):
    """`resolve` settles a HOLD as paid or unpaid, by its six letters or its whole id."""
    paid, unpaid = [await ordered(ledger, opened, user) for user in (7, 8)]
    for request in (paid, unpaid):
        await put(ledger, request, VideoState.HOLD, submits=1)
    await resolve(settings, console, f"#{short_id(paid)}", "paid", "job-1", "seen in their list")
    await resolve(settings, console, unpaid, "unpaid", "", "")
    assert (await video_of(ledger, paid)).state is VideoState.ACCEPTED
    assert (await video_of(ledger, unpaid)).state is VideoState.FAILED_UNPAID
    assert (await books(ledger, paid))["charge"] == [3_000_000]
    assert "charge" not in await books(ledger, unpaid)
    with pytest.raises(LedgerError, match="only a HOLD"):
        await resolve(settings, console, paid, "unpaid", "", "")
    await costs(settings, console)
    assert "$3.00" in console.file.getvalue()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("abc", "maybe", ""), "paid JOB_ID"),
        (("abc", "paid", ""), "job id"),
        (("abc", "unpaid", "job-1"), "takes none"),
        (("abc", "unpaid", ""), "on HOLD: none"),
    ],
)
async def test_resolve_wants_its_words(settings, console, words, why):
    """A wrong outcome, a missing or superfluous job and an unknown request are said in one sentence."""
    with pytest.raises(LedgerError, match=why):
        await resolve(settings, console, *words, "")


async def test_a_job_of_another_is_not_taken(settings, console, ledger, opened):
    """A job id that stands in another request's books settles nothing, in one sentence."""
    first, second = [await ordered(ledger, opened, user) for user in (7, 8)]
    for request in (first, second):
        await put(ledger, request, VideoState.HOLD, submits=1)
    assert await transitions.adopt_job(ledger, first, "job-1", "law", None)
    with pytest.raises(LedgerError, match="job-1"):
        await resolve(settings, console, second, "paid", "job-1", "")
