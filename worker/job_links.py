"""The addresses that a provider gave for a job, as the ledger keeps them."""

from ledger.models import Video
from providers.base import JobLinks


def links_of(video: Video) -> JobLinks | None:
    """Return the addresses that the provider gave for the video's job; None if it gave none."""
    if video.status_url is None or video.result_url is None:
        return None
    return JobLinks(video.status_url, video.result_url)
