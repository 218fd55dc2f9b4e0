"""Fixtures of the provider tests: each adapter in turn, and no pauses between retries."""

from collections.abc import Iterator

import pytest
import stamina

from tests.support.provider_cases import ADAPTERS, HOSTS, Case, Host, short_ways


@pytest.fixture(params=ADAPTERS.values(), ids=ADAPTERS, name="case")
def each_case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(autouse=True)
def no_pauses() -> Iterator[None]:
    with stamina.set_testing(testing=True, attempts=3, cap=True):
        yield


@pytest.fixture(params=HOSTS.values(), ids=HOSTS, name="host")
def each_host(request: pytest.FixtureRequest) -> Host:
    return request.param


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with short_ways():
        yield
