"""A state change takes typed columns: what no table has does not pass mypy."""

from pathlib import Path
from typing import get_type_hints

import pytest
from mypy import api

from ledger import notifications, transitions
from ledger.schema import requests as request_rows
from ledger.schema import videos
from tests.support.services import ROOT

SNIPPET = """
from ledger import requests, transitions
from ledger.database import Ledger
from ledger.failures import Failure
from ledger.models import VideoState
from ledger.notifications import Notified

async def change(ledger: Ledger) -> None:
    states = VideoState.ACCEPTED, VideoState.HOLD
    await transitions.transition(ledger, "tg:1", *states, "watch", "gone", failure=Failure.GONE, progress=50)
    await transitions.transition(ledger, "tg:1", *states, "watch", "gone", falure=Failure.GONE)
    await transitions.transition(ledger, "tg:1", *states, "watch", "gone", progress="half")
    Notified({"told": "HOLD", "status_message_id": None})
    Notified({"tolld": "HOLD"})
    await requests.set_once(ledger, "tg:1", "capton", "words")
"""
WRONG_LINES = {11: '"falure"', 12: '"progress"', 14: '"tolld"', 15: "capton"}


@pytest.mark.parametrize(
    ("columns", "table"),
    [
        (transitions.VideoColumns, videos),
        (transitions.OwnColumns, videos),
        (notifications.ShownColumns, request_rows),
    ],
)
def test_the_typed_columns_are_the_tables(columns: type, table):
    """Each has the name and the type of a column; None is allowed only where the column takes NULL."""
    for name, hint in get_type_hints(columns).items():
        column = table.c[name]
        kinds = set(getattr(hint, "__args__", (hint,)))
        (kind,) = kinds - {type(None)}
        assert issubclass(kind, column.type.python_type), name
        assert type(None) not in kinds or column.nullable, name


@pytest.mark.slow
def test_a_misspelt_column_fails_mypy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Of six calls mypy refuses the four that name no column, or give it a value of another type."""
    monkeypatch.chdir(ROOT)
    path = tmp_path / "snippet.py"
    path.write_text(SNIPPET)
    # The options of `make check`, so that both use one cache.
    found, failed, _ = api.run(["--config-file", "pyproject.toml", str(path)])
    lines = [line for line in found.splitlines() if "snippet.py:" in line and "error:" in line]
    errors = {int(line.split(":")[1]): line for line in lines}
    assert errors.keys() == WRONG_LINES.keys(), found + failed
    assert [line for line, word in WRONG_LINES.items() if word not in errors[line]] == []
