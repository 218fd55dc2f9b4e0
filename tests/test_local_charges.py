"""Laws of the local provider's orders: one charge for one key, whatever dies between."""

import asyncio
import errno
from dataclasses import replace

import pytest
from local_stage import (
    CHARGED,
    SILENT,
    TAKE,
    a_company,  # noqa: F401  # the fixture `company`
    bill,
    killed,
    process,
)

from ledger.money import Money
from providers import base
from sandbox.preview import provider as preview
from sandbox.preview.provider import LocalProvider

SUBMIT = """
import asyncio, sys
from pathlib import Path
from sandbox.preview import provider as preview
from sandbox.preview.provider import LocalProvider
from providers.base import Take
async def main():
    idle = (sys.executable, "-c", "import sys; sys.stdin.read()")
    provider = LocalProvider(Path(sys.argv[1]), command=idle)
    print("ready", flush=True)
    sys.stdin.readline()
    take = Take("r", sys.argv[2], "storyboard", "idea", 4, "720x1280", 7)
    jobs = await asyncio.gather(*(provider.submit(take) for _ in range(4)))
    print(*{job.job_id for job in jobs}, flush=True)
    await provider.close()
asyncio.run(main())
"""


@pytest.mark.slow
async def test_eight_processes_with_one_key_are_one_charge(company):
    """The same key at once from eight processes, four times each: one job, one line on the bill."""
    crowd = [await process(SUBMIT, str(company.root), TAKE.key) for _ in range(8)]
    try:
        for one in crowd:
            assert await one.stdout.readline() == b"ready\n"
        answers = await asyncio.gather(*(one.communicate(b"go\n") for one in crowd))
    finally:
        for one in crowd:
            await killed(one)
    assert len({out for out, _ in answers}) == 1
    assert bill(company) == [CHARGED]


async def test_the_same_key_with_another_body_is_refused(company):
    """A key stands for one order to the byte; our own names for it are not part of that."""
    provider = company(SILENT)
    job = await provider.submit(TAKE)
    assert await provider.submit(replace(TAKE, request_id="another")) == job
    for other in (replace(TAKE, prompt=TAKE.prompt + ","), replace(TAKE, seconds=8), replace(TAKE, seed=8)):
        with pytest.raises(base.Rejected) as refused:
            await provider.submit(other)
        assert refused.value.reason == "invalid"
    assert bill(company) == [CHARGED]


async def test_odd_words_are_the_same_words_on_replay(company):
    """Lone surrogates and split emoji survive the way through the provider's memory."""
    odd = replace(TAKE, prompt="\ud83d\ude00 \udfff \x00")
    assert await company(SILENT).submit(odd) == await company(SILENT).submit(odd)
    with pytest.raises(base.Rejected, match="empty"):
        await company(SILENT).submit(replace(TAKE, prompt=" \n"))


async def test_reconcile_finds_by_key(company):
    """A doubtful order is found by its key, a missing one is absent, a claimed or unreachable one unsure."""
    provider = company(SILENT)
    assert await provider.reconcile(TAKE, 0.0, lambda _: False) == base.Absent()
    job = await provider.submit(TAKE)
    assert await company(SILENT).reconcile(TAKE, 0.0, lambda _: False) == base.Found(job)
    assert isinstance(await provider.reconcile(TAKE, 0.0, lambda _: True), base.Unsure)
    (company.root.parent / "file").write_text("in the way")
    lost = LocalProvider(company.root.parent / "file")
    assert isinstance(await lost.reconcile(TAKE, 0.0, lambda _: False), base.Unsure)
    with pytest.raises(base.NotSent, match="takes no orders"):
        await lost.submit(TAKE)


@pytest.mark.parametrize("again", ["submit", "reconcile"])
async def test_a_crash_between_order_and_charge_is_mended(again, company, monkeypatch):
    """A process that dies between order and charge leaves a job that the next question charges."""
    provider = company(SILENT)
    with monkeypatch.context() as patch:
        patch.setattr(preview.ChargeLog, "once", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            provider._desk.accept(TAKE, Money.parse("$1.50"))
    assert bill(company) == []
    if again == "submit":
        await provider.submit(TAKE)
    else:
        assert isinstance(await provider.reconcile(TAKE, 0.0, lambda _: False), base.Found)
    assert bill(company) == [CHARGED]


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


async def test_an_order_that_cannot_be_charged_was_never_taken(company, monkeypatch):
    """On a full disk there is neither job nor charge, and the refusal proves it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    provider = company(SILENT)
    with monkeypatch.context() as patch:
        patch.setattr(preview.os, "write", full)
        with pytest.raises(base.NotSent, match="the disk is full"):
            await provider.submit(TAKE)
    assert await provider.reconcile(TAKE, 0.0, lambda _: False) == base.Absent()
    assert bill(company) == []
    with monkeypatch.context() as patch:
        patch.setattr(preview.ChargeLog, "once", full)
        patch.setattr(preview.JobFolder, "forget_order", full)
        with pytest.raises(base.InDoubt):
            await provider.submit(TAKE)


async def test_a_torn_line_is_no_charge(company):
    """What a power cut left half written is skipped, and the next line stands on its own."""
    company.root.mkdir()
    (company.root / "charges.jsonl").write_text('{"kind": "charge", "job_id": "lo')
    await company(SILENT).submit(TAKE)
    assert bill(company) == [CHARGED]
