"""Fixtures of the provider tests: each adapter, its fake provider, and a server that answers wrongly."""

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from unittest import mock

import httpcore2
import pytest
import stamina

from providers.base import Provider
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import OPENAI, Dialect
from sandbox.video_api.openai import FakeProvider
from sandbox.video_api.raw_faults import Faults
from sandbox.video_api.server import FakeProviderServer
from tests.support.provider_cases import CASES, Case, openai_adapter


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """No pauses between free questions, and certificates are read once: each client takes 20 ms for it."""
    once = functools.cache(httpcore2.default_ssl_context)
    with (
        stamina.set_testing(testing=True, attempts=3, cap=True),
        mock.patch.object(httpcore2, "default_ssl_context", once),
    ):
        yield


@pytest.fixture(params=CASES.values(), ids=CASES, name="case")
def each_case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
async def fake_provider(case: Case, tmp_path: Path) -> AsyncIterator[FakeProviderServer]:
    async with case.fake(tmp_path / "fake") as server:
        yield server


@pytest.fixture
async def opened() -> AsyncIterator[contextlib.AsyncExitStack]:
    async with contextlib.AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def build(case: Case, opened: contextlib.AsyncExitStack) -> Callable[..., Provider]:
    """Build the case's adapter for a URL, as `Case.build` does; it is closed after the test."""

    def built(url: str, timeout_s: float = 20.0, **options: object) -> Provider:
        provider = case.build(url, timeout_s, **options)
        opened.push_async_callback(provider.close)
        return provider

    return built


@pytest.fixture
def provider(build: Callable[..., Provider], fake_provider: FakeProviderServer) -> Provider:
    """The case's adapter, pointed at its fake provider."""
    return build(fake_provider.url)


@pytest.fixture
def faulty(opened: contextlib.AsyncExitStack) -> Callable[[str], Awaitable[Faults]]:
    """Start a server that has one fault; it is stopped after the test."""

    async def started(fault: str) -> Faults:
        return await opened.enter_async_context(Faults(fault))

    return started


@pytest.fixture
async def fake_openai(tmp_path: Path) -> AsyncIterator[FakeProvider]:
    async with FakeProvider(tmp_path / "fake") as server:
        yield server


@pytest.fixture
def connect(opened: contextlib.AsyncExitStack, fake_openai: FakeProvider) -> Callable[..., OpenAICompat]:
    """Build the `/v1/videos` adapter in one dialect for the fake, or for `url`; it is closed after the test.

    Further keywords are options of the fake.
    """

    def connected(
        dialect: Dialect = OPENAI,
        *,
        url: str = "",
        timeout_s: float = 20.0,
        vouched: bool = False,
        **options: object,
    ) -> OpenAICompat:
        fake_openai.shape = dialect.name
        for name, value in options.items():
            assert hasattr(fake_openai, name), name
            setattr(fake_openai, name, value)
        base_url = f"{url or fake_openai.url}/v1"
        provider = openai_adapter(base_url, dialect, timeout_s, vouched=vouched)
        opened.push_async_callback(provider.close)
        return provider

    return connected
