"""Backup and restore: all comes back, what is damaged is refused, what may have been sent is asked about."""

import asyncio
import io
import json
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from rich.console import Console
from sqlalchemy import text

from app import backup_command
from app.backup_files import BackupError, BackupReader, BackupWriter, media_files
from app.settings import Settings, read_settings
from guardrails.money import Money
from ledger import backup as rows
from ledger import database, orders, reports
from ledger.database import Ledger, LedgerError
from ledger.entries import add_entry
from ledger.models import VideoState, provider_key
from telemetry.redaction import short_id
from tests.support.bare_ledger import bare_ledger, contents
from tests.support.factories import Opener, accepted, new_job, one_of_each
from tests.support.ledger_schema import schema_differences
from tests.support.pipeline_harness import on_sqlite
from tests.support.services import ROOT, looked_up
from worker.pictures import picture_path

V = VideoState


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    return console.file.getvalue()


def settings_of(url: str, redis_url: str, folder: Path, prefix: str = "onetake") -> Settings:
    return read_settings(
        _env_file=None, database_url=SecretStr(url), redis_url=SecretStr(redis_url), key_prefix=prefix,
        var_dir=folder, media_dir=folder / "media",
    )  # fmt: skip


@pytest.fixture
def source(ledger_url: str, redis_url: str, prefix: str, tmp_path: Path) -> Settings:
    """The settings of the ledger that is backed up."""
    return settings_of(ledger_url, redis_url, tmp_path / "before", prefix)


def other(dialect: str) -> str:
    return "postgresql" if dialect == "sqlite" and looked_up() else "sqlite"


@pytest.fixture
def target(
    request: pytest.FixtureRequest, dialect: str, redis_url: str, prefix: str, tmp_path: Path
) -> Iterator[Settings]:
    """The settings of an empty database: of the same kind, or of the other one."""
    kind = other(dialect) if getattr(request, "param", "same") == "other" else dialect
    with bare_ledger(kind, tmp_path) as url:
        yield settings_of(url, redis_url, tmp_path / "after", prefix)


async def back_up(settings: Settings, folder: Path, console: Console | None = None) -> None:
    await backup_command.backup(settings, console or Console(file=io.StringIO()), folder, media=True)


async def put_back(
    settings: Settings, folder: Path, console: Console | None = None, *, nothing_sent: bool = False
) -> None:
    where = console or Console(file=io.StringIO())
    await backup_command.restore(settings, where, folder, nothing_sent=nothing_sent)


@pytest.mark.any_ledger
@pytest.mark.parametrize("target", ["same", "other"], indirect=True)
async def test_everything_comes_back(ledger, opened: Opener, source, target, redis, tmp_path, console):
    """Rows, sums and schema are the same in a new database of either kind; triggers and numbers go on."""
    plain, *_ = await one_of_each(ledger, opened)
    await back_up(source, tmp_path / "b", console)
    await put_back(target, tmp_path / "b", console)
    restored = Ledger(target.ledger_url)
    assert await contents(restored) == await contents(ledger)
    async with restored.read() as conn:
        assert await conn.run_sync(schema_differences) == []
    before = await reports.cost_summary(restored)
    async with restored.write() as conn:
        video = await orders.find(conn, plain)
        assert await add_entry(restored, conn, video, "charge", Money(7), 1_795_000_000_000, "late", 1)
    after = await reports.cost_summary(restored)
    assert after.charged - before.charged == Money(7), "the triggers are there again"
    await restored.close()
    assert printed(console).count(f"{before.charged} charged") == 2


@on_sqlite
async def test_films_come_back_and_pictures_of_people_stay_away(ledger, opened, source, target, tmp_path):
    """Finished videos and their stills are in a backup; people's pictures and half files are not."""
    request = await accepted(ledger, opened, new_job())
    film = source.media / f"{provider_key(request)}.mp4"
    picture = picture_path(source.media, 7, request, "0" * 64)
    half = source.media / ".x.part"
    for path, data in (
        (film, b"film"),
        (film.with_suffix(".jpg"), b"still"),
        (picture, b"face"),
        (half, b"h"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (source.media / "elsewhere.mp4").symlink_to("/etc/passwd")
    await back_up(source, tmp_path / "b")
    assert not [
        path for path in (tmp_path / "b").rglob("*") if path.is_file() and b"face" in path.read_bytes()
    ]
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
    target.media.mkdir(parents=True)
    (target.media / film.name).write_bytes(b"newer")
    await put_back(target, tmp_path / "b")
    assert {path.name: path.read_bytes() for path in media_files(target.media)} == {
        film.name: b"newer",  # what is there stays
        film.with_suffix(".jpg").name: b"still",
    }


@pytest.mark.any_ledger
async def test_a_ledger_with_rows_is_left_alone(ledger, opened, source, tmp_path, redis):
    """A backup is not mixed with another ledger; the sentence names the rows."""
    await opened()
    await back_up(source, tmp_path / "b")
    was = await contents(ledger)
    with pytest.raises(LedgerError, match=r"not empty \(rows: .*requests 1.*new database"):
        await put_back(source, tmp_path / "b")
    assert await contents(ledger) == was


def edit_manifest(folder: Path, **changes: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def sign(folder: Path, **changes: object) -> None:
    """Change the manifest as its own writer would."""
    manifest = BackupReader(folder).manifest.model_copy(update=changes).signed()
    (folder / "manifest.json").write_text(manifest.model_dump_json(), "utf-8")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def lose_a_row(folder: Path) -> None:
    """As if the database had not taken one: the files are whole, their own manifest asks for another row."""
    tables = BackupReader(folder).manifest.tables
    sign(folder, tables=[one.model_copy(update={"digest": "0" * 64}) for one in tables])


DAMAGES = {
    "a file of rows": (lambda b: flip(b / "ledger/entries.jsonl.gz"), "damaged.*entries.jsonl.gz is not"),
    "a film": (lambda b: flip(next((b / "media").iterdir())), "damaged.*mp4 is not what was written"),
    "a file is missing": (lambda b: (b / "ledger/videos.jsonl.gz").unlink(), "damaged.*cannot be read"),
    "the manifest": (lambda b: edit_manifest(b, money={"charge": 1}), "manifest.json is damaged"),
    "half a manifest": (lambda b: (b / "manifest.json").write_text("{"), "manifest.json is damaged"),
    "not finished": (lambda b: (b / "manifest.json").unlink(), "no manifest.json.*was not finished"),
    "a newer form": (lambda b: edit_manifest(b, format=2, version="9.1"), "by version 9.1 in another form"),
    "a newer schema": (lambda b: sign(b, revision="9999", version="9.1"), "by version 9.1 .revision 9999"),
    "a path": (lambda b: edit_manifest(b, media=[{"name": "../x", "bytes": 1, "sha256": ""}]), "damaged"),
    "a row": (lose_a_row, "backup is damaged: .* rows, or other ones"),
    "a sum": (lambda b: sign(b, money={"charge": 1}), r"sums differ: .* in the backup, .* restored"),
}  # fmt: skip


@on_sqlite
@pytest.mark.representative
@pytest.mark.parametrize("name", DAMAGES)
async def test_a_damaged_backup_is_refused(ledger, opened, source, target, tmp_path, redis, name):
    """Whatever was changed, one sentence says so, and the new database has no row."""
    request = await accepted(ledger, opened, new_job())
    source.media.mkdir(parents=True)
    (source.media / f"{provider_key(request)}.mp4").write_bytes(b"a film")
    await back_up(source, tmp_path / "b")
    damage, words = DAMAGES[name]
    damage(tmp_path / "b")
    with pytest.raises((BackupError, LedgerError), match=words):
        await put_back(target, tmp_path / "b")
    after = Ledger(target.ledger_url)
    assert not any(held for table, held in (await contents(after)).items() if table != "alembic_version")
    await after.close()


async def test_there_must_be_something_to_back_up(tmp_path, redis_url, redis, prefix):
    """A ledger that is not there is neither made nor backed up; a folder with files is not written to."""
    missing = settings_of(f"sqlite:///{tmp_path}/none.db", redis_url, tmp_path, prefix)
    with pytest.raises(LedgerError, match="nothing to back up"):
        await back_up(missing, tmp_path / "b")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(BackupError, match="not empty; name a new folder"):
        BackupWriter(tmp_path)


@on_sqlite
async def test_sums_that_do_not_agree_are_said(ledger, opened, source, target, tmp_path):
    """The backup of such a ledger is whole, and the command fails so that someone reads it."""
    await accepted(ledger, opened, new_job())
    async with ledger.write() as conn:
        await conn.execute(text("UPDATE videos SET cost_micros = 1"))
    with pytest.raises(BackupError, match="is whole, but the ledger's own sums do not agree"):
        await back_up(source, tmp_path / "b")
    await put_back(target, tmp_path / "b")
    restored = Ledger(target.ledger_url)
    assert await contents(restored) == await contents(ledger)
    await restored.close()


@pytest.mark.any_ledger
async def test_a_backup_is_of_one_instant(ledger, opened, source, target, tmp_path):
    """While orders are booked the whole time, the sums of the copy agree."""
    going = True

    async def book() -> None:
        while going:
            await accepted(ledger, opened, new_job())

    writers = [asyncio.create_task(book()) for _ in range(3)]
    try:
        await accepted(ledger, opened, new_job())
        await back_up(source, tmp_path / "b")  # it fails where the sums do not agree
    finally:
        going = False
        await asyncio.gather(*writers)
    await put_back(target, tmp_path / "b")


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from rich.console import Console
import app.backup_files, ledger.backup
from app import backup_command
from app.settings import read_settings
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "backup":
    app.backup_files.BackupWriter.finish = die
    work = backup_command.backup(read_settings(), Console(), Path(sys.argv[2]), media=True)
else:
    ledger.backup._check_put = die  # every row is written, nothing is committed
    work = backup_command.restore(read_settings(), Console(), Path(sys.argv[2]), nothing_sent=False)
asyncio.run(work)
"""


async def kill(words: str, settings: Settings, folder: Path) -> None:
    env = {
        "PYTHONPATH": str(ROOT), "DATABASE_URL": settings.ledger_url, "KEY_PREFIX": settings.key_prefix,
        "REDIS_URL": settings.redis_url.get_secret_value(), "MEDIA_DIR": str(settings.media),
    }  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", KILLED, words, str(folder), env=env, cwd=folder.parent
    )
    assert await process.wait() == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.any_ledger
async def test_a_killed_process_leaves_nothing_half(ledger, opened, source, target, tmp_path, redis):
    """Killed before its end, a backup is none, and a restore has no row and can be repeated."""
    await one_of_each(ledger, opened)
    await kill("backup", source, tmp_path / "half")
    with pytest.raises(BackupError, match="not finished"):
        await put_back(target, tmp_path / "half")
    await back_up(source, tmp_path / "b")
    await kill("restore", target, tmp_path / "b")
    await put_back(target, tmp_path / "b")
    restored = Ledger(target.ledger_url)
    assert await contents(restored) == await contents(ledger)
    await restored.close()


async def test_without_redis_nothing_is_restored(tmp_path, ledger, opened, source, redis):
    """What Redis remembers of sends is part of the way back."""
    await opened()
    await back_up(source, tmp_path / "b")
    away = settings_of(f"sqlite:///{tmp_path}/new.db", "redis://127.0.0.1:1", tmp_path)
    with pytest.raises(BackupError, match=r"REDIS_URL does not answer.*nothing was restored"):
        await put_back(away, tmp_path / "b")


LONG = {"settle_s": 600.0, "absent_gap_s": 120.0, "submit_timeout_s": 10.0}


async def restored_env(
    env, source: Settings, folder: Path, tmp_path: Path, console: Console | None = None, **how: bool
):
    """Restore, and go on with the restored ledger as its worker would."""
    target = settings_of(
        f"sqlite:///{tmp_path}/restored.db", source.redis_url.get_secret_value(), tmp_path, source.key_prefix
    )
    await put_back(target, folder, console, **how)
    restored = Ledger(target.ledger_url)
    return replace(env, worker=replace(env.worker, ledger=restored)), restored


@on_sqlite
@pytest.mark.parametrize("lost", ["the ledger", "the ledger and redis"])
@pytest.mark.parametrize("shape", ["openai", "inworld"])
async def test_a_restored_ledger_asks_before_it_sends(
    pipeline_env, source, tmp_path, redis, console, lost, shape
):
    """An order waited at the backup and was paid since. Whether Redis remembers or was lost too: one charge,
    one video.
    """
    env = await pipeline_env(shape=shape, quick=LONG, compare=False)
    request = await env.ordered()
    await back_up(source, tmp_path / "b")
    await env.submit(request)
    assert len(env.fake_provider.charges()) == 1
    if lost != "the ledger":
        await redis.flushall()
    after, restored = await restored_env(env, source, tmp_path / "b", tmp_path, console)
    assert f"Under way at the backup: 1 (#{short_id(request)}).\n" in printed(console)
    assert ("Nothing remembers" in printed(console)) == (lost != "the ledger")
    await after.submit(request)
    assert (await after.video(request)).state is V.IN_DOUBT
    restored.shift += 60
    assert await after.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    await restored.close()


@on_sqlite
@pytest.mark.parametrize(
    ("redis_lost", "how"), [(False, {}), (True, {"nothing_sent": True})], ids=["remembered", "said"]
)
async def test_what_was_never_sent_is_sent(pipeline_env, source, tmp_path, redis, redis_lost, how):
    """Where Redis remembers the backup, or an operator says that nothing ran, an order that waits is paid."""
    env = await pipeline_env(compare=False)
    request = await env.ordered()
    await back_up(source, tmp_path / "b")
    if redis_lost:
        await redis.flushall()
    after, restored = await restored_env(env, source, tmp_path / "b", tmp_path, **how)
    assert await after.finish_video(request) is V.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
    await restored.close()


@on_sqlite
async def test_redis_keeps_sends_and_logouts_alone(ledger, opened, source, target, tmp_path, redis, prefix):
    """Counters and wake-ups go, since they know more than the ledger; other installations keep theirs."""
    await back_up_of_one(ledger, opened, source, tmp_path / "b")
    kept = {
        f"{{{prefix}}}:sent:v1:r:1",
        f"{{{prefix}}}:logout:v1:x",
        f"{{{prefix}2}}:v5:x",
        f"{prefix}2-1:stream",
    }
    gone = {f"{{{prefix}}}:v5:generate_video:x", f"{prefix}-77:stream", f"{{{prefix}-77}}:stream"}
    for key in kept | gone:
        await redis.set(key, "1", ex=60)
    await put_back(target, tmp_path / "b")
    assert {key for key in kept | gone if await redis.exists(key)} == kept
    for key in kept:
        await redis.delete(key)


async def back_up_of_one(ledger: Ledger, opened: Opener, source: Settings, folder: Path) -> None:
    await opened()
    await back_up(source, folder)


def test_sums_are_read_by_people():
    """Known kinds in words, others by their name."""
    assert rows.describe({"charge": 3_000_000, "hold": 0}) == "$3.00 charged, $0.00 reserved"
    assert rows.describe({}) == "no entries"


async def test_an_older_schema_is_backed_up_as_it_is(tmp_path, redis_url, redis, prefix):
    """The backup before an upgrade: nothing is migrated by it, and it is restored at its own revision."""
    ledger = Ledger(f"sqlite:///{tmp_path}/old.db")
    await database.migrate(ledger)
    await database.downgrade(ledger, "0010")
    await back_up(settings_of(f"sqlite:///{tmp_path}/old.db", redis_url, tmp_path, prefix), tmp_path / "b")
    assert (await database.revisions(ledger))[0] == "0010"
    new = settings_of(f"sqlite:///{tmp_path}/new.db", redis_url, tmp_path, prefix)
    await put_back(new, tmp_path / "b")
    restored = Ledger(new.ledger_url)
    assert (await database.revisions(restored))[0] == "0010"
    await ledger.close()
    await restored.close()
