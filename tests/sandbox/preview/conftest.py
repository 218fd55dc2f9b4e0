"""Fixtures of the preview provider's tests."""

from collections.abc import AsyncIterator

import pytest

from tests.support.preview_provider import Companies


@pytest.fixture(name="company")
async def a_company(tmp_path) -> AsyncIterator[Companies]:
    made = Companies(tmp_path / "company")
    yield made
    await made.close()
