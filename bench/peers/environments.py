"""An environment of its own for every library, since they want different versions of the same packages."""

import hashlib
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
FOLDER: Final = ROOT / ".peers"
"""Environments and results; not in version control."""


def python_of(module: str) -> Path:
    """Return the interpreter of an adapter's environment; make the environment if its pins have changed."""
    wanted = HERE / "requirements" / f"{module}.txt"
    folder = FOLDER / "environments" / module
    stamp, python = folder / "pins", folder / "bin" / "python"
    pins = hashlib.sha256(wanted.read_bytes() + (HERE / "requirements" / "common.txt").read_bytes())
    if stamp.exists() and stamp.read_text() == pins.hexdigest():
        return python
    uv = [sys.executable, "-m", "uv"]
    _run([*uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
    _run([*uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(wanted)])
    stamp.write_text(pins.hexdigest())
    return python


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, cwd=ROOT)
