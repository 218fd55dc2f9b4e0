"""Asks the provider about a job id that a person gave, before it is accepted.

A wrong id would be booked as charged, polled without effect, and its order held again half an hour later.
"""

import asyncio
from typing import Final

from ledger.models import Video
from ledger.transitions import HoldNotResolved, Resolution
from providers.base import Gone, JobFailed, NotConfigured, Provider, ProviderError
from telemetry.redaction import short_id
from worker.job_links import links_of

CHECK_S: Final = 10.0
"""How long the provider is asked: a person waits for the answer."""


async def check_job(provider: Provider | None, video: Video, found: Resolution) -> None:
    """Accept a resolution as `paid` only by a job that the provider knows; others need no job.

    The job that the order has already is accepted also where the provider does not answer: polling asks it.

    Raises:
        HoldNotResolved: The provider does not know the job, or cannot be asked now.
    """
    if found.outcome != "paid":
        return
    name, job = f"#{short_id(video.request_id)}", f"job {found.job_id!r}"
    if provider is None:
        raise HoldNotResolved(
            f"{job} cannot be checked: {name} was ordered from {video.account or video.provider},"
            " which is not configured here"
        )
    try:
        async with asyncio.timeout(CHECK_S):
            links = links_of(video) if found.job_id == video.job_id else None
            await (provider.state(found.job_id, links) if links else provider.state(found.job_id))
    except JobFailed:
        return  # it is a job, and polling books how it ended
    except Gone as error:
        raise HoldNotResolved(
            f"{video.provider} does not know {job}: {error}. Give the id that its API uses, or `gone` if it "
            "was paid and there will be no video"
        ) from None
    except (ProviderError, NotConfigured, OSError, TimeoutError) as error:
        if found.job_id == video.job_id:
            return
        said = str(error) or f"no answer within {CHECK_S:g} s"
        raise HoldNotResolved(f"{video.provider} could not be asked about {job}: {said}") from None
