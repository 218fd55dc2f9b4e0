"""Where one trial happens: its folder, its stores, and the files by which it is scored.

`effects.jsonl` is the charge log of the provider: the tool's body appends one line per effect and syncs it
to disk, and nothing else writes there. `calls.jsonl` says when a body began and ended, `sentences.jsonl`
what the model was answered. Times are `time.monotonic()`, which all processes of one machine share and
which no shifted clock moves.
"""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Line = dict[str, Any]


def append(path: Path, line: Line) -> None:
    """Append one line of JSON and sync it; several processes may do so at once."""
    data = (json.dumps(line) + "\n").encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, data)
        os.fsync(handle)
    finally:
        os.close(handle)


def lines(path: Path) -> list[Line]:
    """Read what was appended so far."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line]


@dataclass(frozen=True)
class Place:
    """The folder and the stores of one trial; every process of the trial gets a copy.

    Attributes:
        folder: Private to the trial.
        redis: URL of a private, empty Valkey; "" if the adapter wants none.
        postgres: URL of a private, empty database; "" if the adapter wants none.
        quota: Effects per user and day that the guard should allow; 0: no quota.
        budget: Dollars per user and day that it should allow; 0: no budget. One effect costs `COST`.
        provider_is_up_at: Until then (`time.monotonic()`) the provider cannot be asked.
    """

    folder: Path
    redis: str = ""
    postgres: str = ""
    quota: int = 0
    budget: int = 0
    provider_is_up_at: float = 0
    more: dict[str, str] = field(default_factory=dict)

    @property
    def effects(self) -> Path:
        """The provider's charge log."""
        return self.folder / "effects.jsonl"

    @property
    def calls(self) -> Path:
        """When bodies began and ended."""
        return self.folder / "calls.jsonl"

    @property
    def sentences(self) -> Path:
        """What the model was answered."""
        return self.folder / "sentences.jsonl"

    def file(self, name: str) -> str:
        """Return the path of a store's file; all of them are in a folder of their own."""
        store = self.folder / "store"
        if not store.exists():
            store.mkdir(exist_ok=True)
        return str(store / name)

    def charge(self, act: str, item: str, began: float, key: str = "") -> str:
        """Charge once, whatever was charged before and with whatever key, and return the receipt."""
        receipt = f"R-{os.urandom(4).hex()}-{item}"
        line = {"act": act, "item": item, "receipt": receipt, "began": began, "at": time.monotonic()}
        append(self.effects, {**line, "key": key})
        return receipt

    def look_up(self, act: str, item: str) -> str | None:
        """Ask the provider: the receipt of what was charged for this item of this act, or None.

        Raises:
            ConnectionError: The provider cannot be asked at the moment.
        """
        return self._found(lambda line: line["act"] == act and line["item"] == item)

    def look_up_key(self, key: str) -> str | None:
        """Ask the provider the same by the key that came with the charge."""
        return self._found(lambda line: line["key"] == key)

    def _found(self, fits: Callable[[Line], bool]) -> str | None:
        if time.monotonic() < self.provider_is_up_at:
            raise ConnectionError("the provider does not answer")
        found = [line for line in lines(self.effects) if fits(line)]
        return str(found[0]["receipt"]) if found else None


COST = 3
"""Dollars of one effect."""


def done(item: str, receipt: str) -> str:
    """Return the tool's own answer."""
    return f"{item} was charged. Receipt {receipt}."
