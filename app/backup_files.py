"""The folder of a backup: a manifest, a file for each table, and the finished videos.

    manifest.json           version, schema revision, sums, and size and SHA-256 of every file; written last
    ledger/TABLE.jsonl.gz   one row a line
    media/…                 files of finished videos; never people's pictures

Only this user may read it: it holds what users wrote.
"""

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final, Self
from uuid import uuid4

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ledger.backup import LedgerCopy, TableCopy
from providers.video_file import FILE_SUFFIXES
from telemetry.version import VERSION

FORMAT: Final = 1
"""Of the folder. A reader refuses a higher one."""

_MANIFEST: Final = "manifest.json"
_CHUNK: Final = 1 << 20
_FAST: Final = 5
"""Level of compression: a third of the time of the best one, for a few percent more bytes."""


class BackupError(Exception):
    """The backup cannot be made or used; the message says what was found and what to do."""


_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]
"""Of a file without its folder: a manifest leads nowhere else."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SavedFile(_Part):
    """A file, with its bytes and their SHA-256."""

    name: _Name
    bytes: int
    sha256: str


class SavedTable(_Part):
    """A table of the ledger and its file; `digest` as in `ledger.backup.TableCopy`."""

    name: _Name
    columns: list[str]
    rows: int
    digest: str
    file: SavedFile


class Manifest(_Part):
    """What a backup holds.

    Attributes:
        format: See `FORMAT`.
        id: Random; Redis remembers it, so that a restore finds out whether Redis was lost since.
        version: Of OneTake, that wrote it.
        revision: Of the ledger's schema.
        store: The kind of database.
        taken_at: UTC, for people.
        taken_at_ms: The same on the store's clock, in milliseconds since the epoch.
        money: Entries by kind, in micro-dollars.
        agrees: Whether entries, orders and totals had the same sums.
        tables: Parents before children.
        media: Files of finished videos.
        digest: SHA-256 of all of the above.
    """

    format: int
    id: str
    version: str
    revision: str
    store: str
    taken_at: str
    taken_at_ms: int
    money: dict[str, int]
    agrees: bool
    tables: list[SavedTable]
    media: list[SavedFile]
    digest: str = ""

    def signed(self) -> Self:
        """Return it with its own digest."""
        return self.model_copy(update={"digest": self._digest()})

    def is_signed(self) -> bool:
        """Return whether it is as it was written."""
        return self.digest == self._digest()

    def _digest(self) -> str:
        text = json.dumps(self.model_dump(exclude={"digest"}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def copy_of_ledger(self) -> LedgerCopy:
        """What `ledger.backup.copy_in` takes."""
        tables = tuple(TableCopy(one.name, tuple(one.columns), one.rows, one.digest) for one in self.tables)
        return LedgerCopy(self.store, self.revision, self.taken_at_ms, tables, (), self.money, self.agrees)


class BackupWriter:
    """Writes a backup into a folder that is new or empty; without `finish` it is no backup.

    Raises:
        BackupError: The folder has files, or cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._files = folder, dict[str, SavedFile]()
        self.id = uuid4().hex
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if any(folder.iterdir()):
                raise BackupError(f"{folder} is not empty; name a new folder for each backup")
            for part in ("ledger", "media"):
                (folder / part).mkdir(mode=0o700)
        except OSError as error:
            raise BackupError(
                f"{folder} cannot be written ({error.strerror}); name another folder"
            ) from error

    @contextmanager
    def open_table(self, name: str) -> Iterator[Callable[[bytes], object]]:
        """Open the file of a table; give the function that adds a line."""
        path = self.folder / "ledger" / f"{name}.jsonl.gz"
        with _create(path) as raw:
            # No name and no time in its header: the same rows are the same bytes.
            with gzip.GzipFile("", "wb", _FAST, raw, mtime=0) as file:
                yield lambda line: file.write(line + b"\n")
            raw.flush()
            os.fsync(raw.fileno())
        self._files[name] = describe_file(path)

    def add_media(self, media: Path) -> list[SavedFile]:
        """Copy the files of finished videos, but those that go meanwhile; never people's pictures."""
        return [saved for path in sorted(media_files(media)) if (saved := self._copy(path)) is not None]

    def _copy(self, path: Path) -> SavedFile | None:
        try:
            return copy_file(path, self.folder / "media" / path.name)
        except FileNotFoundError:
            return None

    def finish(self, copy: LedgerCopy, media: list[SavedFile]) -> Manifest:
        """Write the manifest, which makes it a backup."""
        tables = [
            SavedTable(
                name=one.name, columns=list(one.columns), rows=one.rows, digest=one.digest,
                file=self._files[one.name],
            )
            for one in copy.tables
        ]  # fmt: skip
        manifest = Manifest(
            format=FORMAT, id=self.id, version=VERSION, revision=copy.revision, store=copy.dialect,
            taken_at=datetime.fromtimestamp(copy.taken_at / 1000, UTC).isoformat(timespec="seconds"),
            taken_at_ms=copy.taken_at, money=dict(copy.money), agrees=copy.agrees, tables=tables, media=media,
        ).signed()  # fmt: skip
        part = self.folder / f".{_MANIFEST}"
        with _create(part) as file:
            file.write(manifest.model_dump_json(indent=2).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(self.folder / _MANIFEST)
        for folder in (self.folder / "ledger", self.folder / "media", self.folder):
            _sync_folder(folder)
        return manifest


def media_files(media: Path) -> Iterator[Path]:
    """Yield the files of finished videos: in the folder itself, not in the one of people's pictures."""
    with suppress(FileNotFoundError):
        for path in media.iterdir():
            if path.name.endswith(FILE_SUFFIXES) and path.name[0] != "." and _is_plain(path):
                yield path


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _create(path: Path):  # type: ignore[no-untyped-def]  # noqa: ANN202 - what `open` gives
    return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")  # noqa: PTH123


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def copy_file(source: Path, target: Path) -> SavedFile:
    """Copy a file, whole or not at all; it is on disk on return.

    Raises:
        FileNotFoundError: `source` is gone.
    """
    part, digest, size = target.with_name(f".{uuid4().hex}.part"), hashlib.sha256(), 0
    try:
        with source.open("rb") as read, _create(part) as write:
            while chunk := read.read(_CHUNK):
                digest.update(chunk)
                size += len(chunk)
                write.write(chunk)
            write.flush()
            os.fsync(write.fileno())
        shutil.copystat(source, part)  # its age: `prune` reads it
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return SavedFile(name=target.name, bytes=size, sha256=digest.hexdigest())


def describe_file(path: Path) -> SavedFile:
    """Return a file's size and SHA-256."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return SavedFile(name=path.name, bytes=file.tell(), sha256=digest.hexdigest())


class BackupReader:
    """A finished backup, of which the manifest is whole.

    Raises:
        BackupError: There is none, or its manifest was changed or belongs to a newer version.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = folder / _MANIFEST
        try:
            text = path.read_bytes()
        except OSError as error:
            raise BackupError(
                f"{folder} has no {_MANIFEST} ({error.strerror}): no backup, or one that was not finished"
            ) from error
        _refuse_newer_format(text, path)
        try:
            self.manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise BackupError(f"{path} is damaged: it is not what was written") from error
        if not self.manifest.is_signed():
            raise BackupError(f"{path} is damaged: it is not what was written")

    def check(self) -> None:
        """Read every file, and compare its bytes with the manifest.

        Raises:
            BackupError: One is missing or was changed.
        """
        wanted = [("ledger", one.file) for one in self.manifest.tables]
        for part, file in [*wanted, *(("media", one) for one in self.manifest.media)]:
            path = self.folder / part / file.name
            try:
                found = describe_file(path)
            except OSError as error:
                raise BackupError(
                    f"the backup is damaged: {path} cannot be read ({error.strerror})"
                ) from error
            if found != file:
                raise BackupError(f"the backup is damaged: {path} is not what was written")

    def read_table(self, name: str) -> Iterator[bytes]:
        """Yield the lines of a table."""
        with gzip.open(self.folder / "ledger" / f"{name}.jsonl.gz") as file:
            for line in file:
                yield line.rstrip(b"\n")

    def rows(self, name: str, columns: Iterable[str]) -> Iterator[dict[str, object]]:
        """Yield these columns of each row of a table; nothing if the backup has no such table."""
        for one in self.manifest.tables:
            if one.name == name:
                places = {wanted: one.columns.index(wanted) for wanted in columns}
                for line in self.read_table(name):
                    values = json.loads(line)
                    yield {wanted: values[place] for wanted, place in places.items()}

    def put_media(self, media: Path) -> tuple[int, int]:
        """Copy the media files that are not there; return how many, and how many were there already."""
        media.mkdir(parents=True, exist_ok=True)
        new = [one for one in self.manifest.media if not (media / one.name).exists()]
        for one in new:
            copy_file(self.folder / "media" / one.name, media / one.name)
        return len(new), len(self.manifest.media) - len(new)


def _refuse_newer_format(text: bytes, path: Path) -> None:
    with suppress(ValueError, AttributeError):
        known = json.loads(text)
        found, version = known.get("format"), known.get("version")
        if isinstance(found, int) and found > FORMAT:
            raise BackupError(
                f"{path} was written by version {version} in another form; restore it with that one"
            )
