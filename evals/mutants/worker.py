"""Bugs in the worker: it submits again, or treats as failed what may have been charged."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch
from uuid import uuid4

from sqlalchemy import update

from ledger import due_work, transitions
from ledger.due_work import ClaimedVideo
from ledger.failures import Failure
from ledger.models import Video, VideoState
from ledger.schema import videos
from ledger.transitions import LockedOrder
from providers import openai_dialects
from providers.base import InDoubt, Job, Provider, VideoRequest
from providers.openai_compat import OpenAICompat
from providers.openai_dialects import Dialect
from worker import submit
from worker.context import WorkerContext

_TRIES: Final = 3


@contextmanager
def retrying_client() -> Iterator[None]:
    """A paid POST is sent up to three times, each with a new key, as most HTTP clients do by default."""
    once = OpenAICompat.submit

    async def submit(self: OpenAICompat, video_request: VideoRequest) -> Job:
        for _ in range(_TRIES - 1):
            try:
                return await once(self, video_request)
            except InDoubt:
                video_request = replace(video_request, key=str(uuid4()))
        return await once(self, video_request)

    with patch.object(OpenAICompat, "submit", submit):
        yield


@contextmanager
def submitting_retaken() -> Iterator[None]:
    """An order in SUBMITTING is taken to be abandoned by its worker, and submitted again with a new key."""
    build, due = submit.build_video_request, due_work.due_at

    def at_once(state: VideoState, now: Any, columns: Mapping[str, Any]) -> Any:
        return now if state is VideoState.SUBMITTING else due(state, now, columns)

    async def requeue(ctx: WorkerContext, order: ClaimedVideo) -> None:
        async with ctx.ledger.write() as conn:
            request_id = order.video.request_id
            mine = (videos.c.request_id == request_id, videos.c.state == VideoState.SUBMITTING)
            await conn.execute(update(videos).where(*mine).values(state=VideoState.QUEUED, due_at=order.now))
        await ctx.queue.wake("submit", request_id)

    def keyed_by_submit(order: ClaimedVideo) -> VideoRequest:
        video_request = build(order)
        return video_request if not order.video.submits else replace(video_request, key=str(uuid4()))

    with (
        patch("ledger.due_work.due_at", at_once),
        patch("worker.steps.end_overdue", requeue),
        patch("worker.submit.build_video_request", keyed_by_submit),
    ):
        yield


@contextmanager
def pays_unspoken() -> Iterator[None]:
    """An order is submitted at once, whether or not its user could be shown anything."""
    find = transitions.find_locked

    async def spoken(*args: Any, **kwargs: Any) -> LockedOrder | None:
        found = await find(*args, **kwargs)
        return None if found is None else replace(found, has_status_message=True)

    with patch("ledger.transitions.find_locked", spoken), patch("ledger.due_work.STATUS_WAIT_S", 0):
        yield


@contextmanager
def any_account() -> Iterator[None]:
    """An order is sent to whichever account its worker has."""
    build = due_work._claim_due_query  # noqa: SLF001 - the bug is in this very query

    def of_any_account(now: Any, states: Any, accounts: Any) -> Any:
        del accounts
        return build(now, states, None)

    def mine(self: WorkerContext, video: Video) -> Provider:
        del video
        return next(iter(self.providers.values()))

    with (
        patch("ledger.due_work._claim_due_query", of_any_account),
        patch.object(WorkerContext, "provider_of", mine),
    ):
        yield


@contextmanager
def gateway_may_repeat() -> Iterator[None]:
    """An order does not forbid a gateway to send it again."""
    encode = openai_dialects.encode

    def without_bounds(video_request: VideoRequest, dialect: Dialect) -> tuple[bytes, str]:
        body, content_type = encode(video_request, dialect)
        fields = json.loads(body)
        for name in ("num_retries", "disable_fallbacks"):
            fields.pop(name, None)
        return json.dumps(fields).encode(), content_type

    with patch("providers.openai_compat.encode", without_bounds):
        yield


@contextmanager
def server_error_is_failure() -> Iterator[None]:
    """A 5xx, or an answer that cannot be parsed, is taken as proof that nothing was charged."""

    async def failed(ctx: WorkerContext, video: Video, fence: str, why: str) -> None:
        await submit._fail_unpaid(ctx, video, fence, Failure.INVALID, why)  # noqa: SLF001 - the bug is this very call

    with patch("worker.submit._mark_in_doubt", failed):
        yield
