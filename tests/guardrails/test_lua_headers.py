"""The header of each Lua script documents exactly the keys and arguments that it reads and is given."""

import re
from pathlib import Path

import pytest
from redis.asyncio import Redis

from guardrails.admission import Admission, AdmissionRequest, RedisKeys
from guardrails.counters import Script
from ledger import breaker
from ledger.database import Ledger
from ledger.guard_stores import LedgerCounters
from tests.support.factories import LIMITS, ORDER_PRICE, PAID_TOOL
from tests.support.services import ROOT

ADMISSION = sorted((ROOT / "guardrails" / "scripts").glob("*.lua"))
SCRIPTS = [*ADMISSION, *sorted((ROOT / "worker" / "scripts").glob("*.lua"))]
SLOT = re.compile(r"^-- (KEYS|ARGV)\[(\d+)(\.\.\.)?\]\s+(\w+)", re.MULTILINE)


def parts(path: Path) -> tuple[str, str]:
    """Split a script into its header (the comment at its start) and its body without comments."""
    lines = path.read_text("utf-8").splitlines()
    end = next(n for n, line in enumerate(lines) if not line.startswith("--"))
    body = "\n".join(line.partition("--")[0] for line in lines[end:])
    return "\n".join(lines[:end]) + "\n", body


def declared(head: str, table: str) -> tuple[set[int], bool]:
    """Return the documented slots, and whether the last one covers all that follow."""
    found = [(int(slot), bool(more)) for name, slot, more, _ in SLOT.findall(head) if name == table]
    return {slot for slot, more in found if not more}, any(more for _, more in found)


def used(body: str, table: str) -> set[int]:
    return {int(slot) for slot in re.findall(rf"\b{table}\[(\d+)\]", body)}


@pytest.mark.parametrize("table", ["KEYS", "ARGV"])
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_head_and_body_name_the_same_slots(path: Path, table: str):
    """The body reads every documented slot and no other; slots are numbered from 1 without a gap; only a
    header with `...` lets the body compute slots.
    """
    head, body = parts(path)
    named, open_end = declared(head, table)
    assert named == used(body, table) == set(range(1, len(named) + 1))
    computed = set(re.findall(rf"\b{table}\[([^\]]*[^\]\d][^\]]*)\]", body))
    loops = {name: int(last) for name, last in re.findall(r"for (\w+) = \d+, (\d+) do", body)}
    assert open_end or all(loops.get(name, len(named) + 1) <= len(named) for name in computed)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_head_says_what_returns(path: Path):
    """The header documents the return value, and the body returns one."""
    head, body = parts(path)
    assert re.search(r"^-- Returns\s+\S", head, re.MULTILINE)
    assert re.search(r"^return ", body, re.MULTILINE)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_builds_no_key(path: Path):
    """Every key comes from KEYS, as a cluster requires."""
    _, body = parts(path)
    assert not re.search(r"redis\.call\('\w+',\s*'", body)
    assert "{onetake" not in body


async def test_callers_give_what_the_headers_name(redis: Redis, ledger: Ledger, monkeypatch):
    """Every script is given as many keys and arguments as its header documents."""
    given: dict[str, tuple[int, int]] = {}
    run = Script.__call__

    async def recorded(script: Script, keys, args):
        given[script.name] = (len(keys), len(args))
        return await run(script, keys, args)

    monkeypatch.setattr(Script, "__call__", recorded)
    async with ledger.write() as conn:
        await breaker.open_for_everyone(ledger, conn, "test", "tried", 1)
    admission = Admission(redis, LedgerCounters(ledger), RedisKeys(), LIMITS, PAID_TOOL)
    await admission.reserve(AdmissionRequest(PAID_TOOL, "r1", 7, 1, "c", ORDER_PRICE, LIMITS))
    await admission.release(PAID_TOOL, "r1", 7, "all")
    await admission.refuse(AdmissionRequest(PAID_TOOL, "r2", 7, 1, "c", ORDER_PRICE, LIMITS), "violence")
    assert given.keys() == {path.stem for path in ADMISSION}
    for path in ADMISSION:
        head, _ = parts(path)
        (keys, open_end), (args, _) = declared(head, "KEYS"), declared(head, "ARGV")
        assert given[path.stem][1] == len(args)
        assert given[path.stem][0] == len(keys) or open_end
