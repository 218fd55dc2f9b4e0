"""Fixtures of the chat tests."""

import pytest

from tests.support.app_harness import front_only


@pytest.fixture(name="front")
async def handlers_alone(app_env):
    """A house whose handlers stand alone: what they write stays as they wrote it."""
    return await app_env(wake=front_only)
