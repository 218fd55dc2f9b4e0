"""Fixtures of the chat tests."""

import pytest

from tests.support.app_harness import chat_only


@pytest.fixture(name="front")
async def handlers_alone(app_env):
    """An app of which only the handlers run: what they write to the ledger stays as written."""
    return await app_env(wake=chat_only)
