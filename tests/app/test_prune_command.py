"""Retention: texts and histories of ended requests go, figures stay, and an archive loses nothing."""

import asyncio
import io
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import select, update
from typer.testing import CliRunner

import app.prune_command
from app.media_folder import SizeGauges, folder_size, remove_delivered
from app.prune_command import PruneError, prune
from app.settings import Settings, SettingsError, read_settings
from bot import app as command_line
from ledger import history, pruning, reports, requests, transitions
from ledger.database import Ledger
from ledger.history import record_refused_call
from ledger.models import VideoState, provider_key
from ledger.pruning import PRUNED
from ledger.schema import requests as request_rows
from ledger.schema import transitions as transition_rows
from telemetry.metrics import exposition
from tests.support.factories import Opener, accepted, begun, new_job, one_of_each, put
from tests.support.metric_values import value

pytestmark = pytest.mark.any_ledger
YEARS_S = 500 * 86_400


@pytest.fixture
async def later(ledger: Ledger, ledger_url: str) -> AsyncIterator[Ledger]:
    """The same ledger, 500 days from now."""
    one = Ledger(ledger_url, shift=YEARS_S)
    yield one
    await one.close()


@pytest.fixture
def settings(ledger_url: str, tmp_path: Path, monkeypatch) -> Settings:
    """Settings of a command that runs 500 days from now."""
    monkeypatch.setattr(app.operator_commands, "Ledger", lambda url: Ledger(url, shift=YEARS_S))
    return read_settings(
        _env_file=None, database_url=SecretStr(ledger_url), media_dir=tmp_path / "media", media_days=0
    )


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    return console.file.getvalue()


async def delivered(ledger: Ledger, opened: Opener) -> str:
    request = await accepted(ledger, opened, new_job())
    await transitions.transition(
        ledger, request, VideoState.ACCEPTED, VideoState.SUCCEEDED, "watch", "here",
        asset_path="x.mp4", asset_seconds=8,
    )  # fmt: skip
    await transitions.transition(
        ledger, request, VideoState.SUCCEEDED, VideoState.DELIVERED, "tell", "Telegram has it"
    )
    await requests.set_once(ledger, request, "caption", "a caption of the model")
    return request


async def texts(ledger: Ledger, request_id: str) -> tuple[object, ...]:
    found = await requests.find_with_video(ledger, request_id)
    assert found
    request, video = found
    return request.idea, request.caption, video and video.prompt


async def history_rows(ledger: Ledger, request_id: str) -> int:
    async with ledger.read() as conn:
        query = select(transition_rows).where(transition_rows.c.request_id == request_id)
        return len((await conn.execute(query)).all())


async def figures(ledger: Ledger, later: Ledger) -> list[object]:
    return [
        asdict(await reports.cost_summary(ledger)),
        asdict(await reports.cost_summary(later)),
        [(line.name, line.costs) for line in (await reports.read_report(ledger, "30d")).users],
        # The repeated calls of a single request are counted from its rows, while reports show it.
        [
            (line.short_id, line.state, replace(line.costs, duplicates=0))
            for line in (await reports.read_report(ledger)).requests
        ],
        await history.prevented_duplicates(later, 30),
    ]


async def test_only_what_ended_long_ago_is_pruned(ledger, later, opened, settings, console):
    """A delivered and a refused request lose their texts and their history; one on HOLD, one that is under
    way and one that ended lately lose nothing. No figure of any report changes.
    """
    plain, odd, back, held, released = await one_of_each(ledger, opened)
    done, refused, recent = await delivered(ledger, opened), await opened(), await delivered(ledger, opened)
    await requests.close_request(ledger, refused, "REFUSED", "tool", "policy", quote="the model's own words")
    for verdict in ("quota", "replay"):
        await record_refused_call(ledger, done, "generate_video", verdict, "redis", ["prompt"])
    async with later.write() as conn:
        old = update(request_rows).where(request_rows.c.request_id == recent)
        await conn.execute(old.values(updated_at=later.time()))
    before = await figures(ledger, later)
    kept = [
        (one, await texts(ledger, one), await history_rows(ledger, one)) for one in (plain, odd, held, recent)
    ]

    await prune(settings, console, None, None, dry_run=True)
    assert "Would remove the texts of 4 requests" in printed(console)
    assert PRUNED not in await texts(ledger, done)
    await prune(settings, console, None, None, dry_run=False)
    assert "Removed the texts of 4 requests" in printed(console)

    assert await texts(ledger, done) == (PRUNED, None, PRUNED)
    assert await history_rows(ledger, done) == 0, "the totals have counted the prevented duplicate"
    found = await requests.find(ledger, refused)
    assert found
    assert (found.idea, found.reason_quote, found.reason) == (PRUNED, PRUNED, "policy")
    for one in (back, released):
        assert (await texts(ledger, one))[0] == PRUNED
    assert kept == [(one, await texts(ledger, one), await history_rows(ledger, one)) for one, *_ in kept]
    assert await figures(ledger, later) == before
    read = await history.read_history(ledger, done)
    assert {event.subject for event in read.events} == {"entry"}


async def test_an_archive_has_every_row(ledger, later, opened, settings, console, tmp_path):
    """Each row that goes is one JSON line of the archive, readable by its owner alone; a second run adds
    nothing, and half a line of a killed run is left where it is.
    """
    done = await delivered(ledger, opened)
    rows = await history_rows(ledger, done)
    path = tmp_path / "archive.jsonl"
    path.write_text('{"half')
    path.chmod(0o600)
    for _ in range(2):
        await prune(settings, console, path, None, dry_run=False)
    half, *lines = path.read_text().splitlines()
    assert half == '{"half'
    found = [json.loads(line) for line in lines]
    assert sum(one["table"] == "transitions" and one["request_id"] == done for one in found) == rows
    [text] = [one for one in found if one["table"] == "texts"]
    assert text["caption"] == "a caption of the model"
    assert text["prompt"] not in ("", PRUNED)
    assert path.stat().st_mode & 0o077 == 0


async def test_nothing_goes_that_is_not_archived(later, ledger, opened):
    """The archive's disk is full: the rows stay."""
    done = await delivered(ledger, opened)
    before, was = await pruning.cutoff(later, 400), await texts(ledger, done)

    def full(_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        await pruning.prune_texts(later, before, archive=full)
    with pytest.raises(OSError, match="No space"):
        await pruning.prune_transitions(later, before, archive=full)
    assert await texts(ledger, done) == was
    assert await history_rows(ledger, done) > 0


async def test_two_runs_at_once_and_in_batches(ledger, later, opened, settings, tmp_path, monkeypatch):
    """Two processes prune at once, a few rows in a batch: all is pruned, and no row is archived twice."""
    monkeypatch.setattr(pruning, "BATCH_SIZE", 3)
    done = [await delivered(ledger, opened) for _ in range(10)]
    rows = sum([await history_rows(ledger, one) for one in done])
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    await asyncio.gather(
        *(prune(settings, Console(file=io.StringIO()), path, None, dry_run=False) for path in paths)
    )
    # What one process held while the other passed by is left to the next run.
    await prune(settings, Console(file=io.StringIO()), paths[0], None, dry_run=False)
    found = [json.loads(line) for path in paths for line in path.read_text().splitlines()]
    assert len([one for one in found if one["table"] == "transitions"]) == rows
    assert sorted(one["request_id"] for one in found if one["table"] == "texts") == sorted(done)
    assert {await texts(ledger, one) for one in done} == {(PRUNED, None, PRUNED)}


async def test_media_go_by_age_after_delivery(ledger, later, opened, tmp_path):
    """Files of videos that were delivered long ago go; those of other videos, and other files, stay."""
    old, on_hold = await delivered(ledger, opened), await begun(ledger, opened)
    await put(ledger, on_hold, VideoState.HOLD)
    names = [
        f"{provider_key(old)}.mp4",
        f"{provider_key(old)}.jpg",
        f"{provider_key(on_hold)}.mp4",
        "other.mp4",
    ]
    past = time.time() - 40 * 86_400
    for name in names:
        (tmp_path / name).write_bytes(b"1234")
        os.utime(tmp_path / name, (past, past))
    assert (await remove_delivered(later, tmp_path, 30, dry_run=True)).files == 2
    assert (await remove_delivered(ledger, tmp_path, 30)).files == 0, "delivered today"
    freed = await remove_delivered(later, tmp_path, 30)
    assert (freed.files, freed.bytes) == (2, 8)
    assert {path.name for path in tmp_path.iterdir() if path.suffix in (".mp4", ".jpg")} == set(names[2:])
    assert (await remove_delivered(later, tmp_path, 30)).files == 0


async def test_sizes_are_gauges(ledger, tmp_path, monkeypatch):
    """The sizes of ledger and media are exposed, and the folder is not counted at every scrape."""
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "a.mp4").write_bytes(b"12345")
    gauges = SizeGauges(ledger, tmp_path / "media")
    await gauges.update()
    monkeypatch.setattr("app.media_folder.folder_size", lambda _: pytest.fail("counted again"))
    await gauges.update()
    text = exposition()
    assert value(text, "onetake_ledger_bytes") > 10_000
    assert value(text, "onetake_media_bytes") == 5
    assert value(text, "onetake_media_files") == 1
    assert folder_size(tmp_path / "nothing").files == 0


async def test_too_few_days_are_refused(settings, console):
    """Reports show texts of 30 days; shorter ages are refused by the command and by the setting."""
    with pytest.raises(PruneError, match="--days 30 is too few"):
        await prune(settings, console, None, 30, dry_run=False)
    with pytest.raises(SettingsError, match="RETENTION_DAYS: use 31 days or more"):
        read_settings(_env_file=None, retention_days=5)
    with pytest.raises(PruneError, match="cannot be written"):
        await prune(settings, console, Path("/proc/nothing/x"), None, dry_run=False)


def test_the_command(ledger_url, ledger, monkeypatch, tmp_path):
    """`prune` runs from the command line and prints the ledger's size."""
    monkeypatch.setenv("DATABASE_URL", ledger_url)
    monkeypatch.setenv("VAR_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(command_line, ["prune", "--dry-run"])
    assert found.exit_code == 0, found.output
    assert "Would remove the texts of 0 requests" in found.output
    assert "The ledger has" in found.output
