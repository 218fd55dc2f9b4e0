"""What the laws of a broken SQL share: the databases they hold on, and how each of them ends."""

import postgres
import pytest
from backstage import Backstage

from ledger.models import RequestState, VideoState

on_postgres = [
    pytest.mark.parametrize("dialect", ["postgresql"], indirect=True),
    pytest.mark.skipif(not postgres.looked_up(), reason="PostgreSQL does not answer"),
]


def marked(*marks: pytest.MarkDecorator):
    def apply(law):
        for mark in marks:
            law = mark(law)
        return law

    return apply


on_sqlite = pytest.mark.parametrize("dialect", ["sqlite"], indirect=True)


async def taken_up(env: Backstage, request: str) -> None:
    """The law of them all: nothing was paid, and now that SQL is back, one video is."""
    assert env.fake_provider.charges() == []
    assert (await env.both(request))[1] is None
    assert (await env.request(request)).state is RequestState.OPEN
    assert await env.deliver(request) is VideoState.SUCCEEDED
    assert len(env.fake_provider.charges()) == 1
