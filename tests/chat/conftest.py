"""Fixtures of the chat tests."""

import pytest

from tests.support.app_harness import chat_only


@pytest.fixture(name="front")
async def handlers_alone(app_env):
    """The app without a worker: what the handlers write stays as they wrote it."""
    return await app_env(wake=chat_only)
