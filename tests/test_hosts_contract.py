"""One contract for the model hosts, fal and Replicate, under every fault; the peers keep the books.

The same laws as tests/test_provider_contract.py, for adapters whose peers speak otherwise.
"""

import asyncio
import json
import logging
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
from adapters import outcome, unclaimed
from faults import FAULTS, HANGS, Faults
from hosts import (
    Host,
    each_host,  # noqa: F401  # the fixture `host`
    lost,
    quick,  # noqa: F401  # a fixture of every law here
)
from peer_host import KEY

from providers.base import Found, InDoubt, Job, NotSent, Rejected, Throttled

pytestmark = [pytest.mark.all, pytest.mark.timeout(30)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_every_fault_costs_one_post_and_leaves_doubt(host: Host, fault: str, caplog) -> None:
    """One submit is one POST on one connection, whatever answers; what is not the host's own is InDoubt."""
    caplog.set_level(logging.DEBUG)
    async with Faults(fault) as stub:
        provider = host.build(stub.base_url.removesuffix("/v1"), timeout_s=0.4 if fault in HANGS else 1.5)
        got = await outcome(provider, host.request)
        await provider.close()
    assert type(got) is host.documented.get(fault, InDoubt), got
    assert stub.connections == 1
    assert stub.posts == (0 if fault == "drop_before_reading" else 1)
    assert KEY not in caplog.text + str(got) + repr(got.__cause__) + repr(provider)


async def test_the_total_deadline_ends_a_hanging_post(host: Host) -> None:
    """The POST has ended when `submit_timeout_s` is over, even if every single read was quick."""
    async with Faults("slow_loris") as stub:
        provider = host.build(stub.base_url, timeout_s=0.4)
        began = time.monotonic()
        assert type(await outcome(provider, host.request)) is InDoubt
        assert time.monotonic() - began < 2
        await provider.close()


async def test_every_post_has_a_connection_of_its_own(host: Host) -> None:
    """No POST goes out on a connection that was used before: an old one may die under it."""
    async with Faults("200_no_id") as stub:
        provider = host.build(stub.base_url)
        await outcome(provider, host.request)
        await outcome(provider, host.request)
        await provider.close()
    assert (stub.posts, stub.connections) == (2, 2)


async def test_nobody_listening_is_proof(host: Host) -> None:
    """A connection that was refused is NotSent."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    provider = host.build(f"http://127.0.0.1:{port}")
    assert type(await outcome(provider, host.request)) is NotSent
    await provider.close()


async def test_a_name_that_does_not_resolve_is_proof(host: Host, monkeypatch) -> None:
    """A DNS failure is NotSent."""

    async def nowhere(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", nowhere)
    provider = host.build("http://video.invalid")
    assert type(await outcome(provider, host.request)) is NotSent
    await provider.close()


async def test_a_cancelled_submit_says_so(host: Host) -> None:
    """A cancelled task ends as CancelledError, after its POST went out: the caller treats it as in doubt."""
    async with Faults("hang") as stub:
        provider = host.build(stub.base_url)
        task = asyncio.create_task(provider.submit(host.request))
        await stub.posted.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await provider.close()
    assert stub.posts == 1


async def test_a_model_that_left_the_price_list_is_not_ordered(host: Host, tmp_path: Path) -> None:
    """What has no price is refused before anything is sent."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        got = await outcome(provider, replace(host.request, model="owner/of-yesterday"))
        await provider.close()
    assert isinstance(got, Rejected)
    assert fake_provider.requests() == []


# Over a life


LIVES = (
    "accept", "charge_drop", "charge_hang", "charge_500", "charge_cut", "charge_html", "charge_no_id",
    "drop", "500", "throttle", "refuse_invalid", "refuse_auth", "refuse_funds",
)  # fmt: skip


@pytest.mark.parametrize("first", LIVES)
async def test_one_seed_and_at_most_one_charge_over_a_life(host: Host, first, tmp_path: Path) -> None:
    """Whatever becomes of the POST: one body, one seed, at most one charge; what was charged is found."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url, timeout_s=0.5 if first == "charge_hang" else 1.5)
        fake_provider.script(first)
        sent_at, job = time.time(), None
        got = await outcome(provider, host.request)
        while isinstance(got, Throttled):
            got = await outcome(provider, host.request)
        if isinstance(got, InDoubt):
            found = await provider.reconcile(host.request, sent_at, unclaimed)
            assert await provider.reconcile(host.request, sent_at, unclaimed) == found, (
                "asking changes nothing"
            )
            job = found.job if isinstance(found, Found) else None
            assert job is not None or fake_provider.charges() == []
        elif isinstance(got, Job):
            job = got
        await provider.close()
    assert len({post["digest"] for post in fake_provider.posts()}) == 1
    assert len(fake_provider.posts()) == 1 + (first == "throttle" and job is not None)
    assert {charge["seed"] for charge in fake_provider.charges()} <= {host.request.seed}
    if job is None:
        assert fake_provider.charges() == []
    else:
        assert list(fake_provider.net()) == [job.job_id.rpartition("/")[2]]
        assert sum(fake_provider.net().values()) == 800_000


async def test_every_refusal_says_why(host: Host, tmp_path: Path) -> None:
    """A refusal in the host's own words is Rejected with its reason; nothing was charged."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        for refusal, reason in host.refusals.items():
            fake_provider.script(refusal)
            got = await outcome(provider, host.request)
            assert isinstance(got, Rejected), refusal
            assert got.reason == reason
        await provider.close()
    assert fake_provider.charges() == []
    assert len(fake_provider.posts()) == len(host.refusals)


async def test_the_same_take_makes_the_same_bytes(host: Host, tmp_path: Path) -> None:
    """Two orders of one take are equal to the byte, and carry the prompt unchanged and the seed."""
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        await provider.submit(host.request)
        await provider.submit(host.request)
        await provider.close()
    first, second = fake_provider.posts()
    assert first["body"] == second["body"]
    sent = json.loads(first["body"])
    sent = sent.get("input", sent)
    assert sent["prompt"] == host.request.prompt
    assert (sent["seed"], str(sent["duration"])) == (host.request.seed, "8")
    assert (sent["resolution"], sent["aspect_ratio"]) == ("720p", "9:16")


async def test_a_prompt_that_is_no_unicode_is_sent_once(host: Host, tmp_path: Path) -> None:
    """A lone surrogate neither breaks the order nor hides it: the seed finds it."""
    video_request = replace(host.request, prompt="a fox \ud800")
    async with host.fake_provider(tmp_path) as fake_provider:
        provider = host.build(fake_provider.url)
        await lost(provider, fake_provider, video_request)
        assert isinstance(await provider.reconcile(video_request, time.time(), unclaimed), Found)
        await provider.close()
    assert len(fake_provider.posts()) == 1
