"""Downloads a finished video from where the provider says it is."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from providers.base import Asset, BadAsset, Gone, Transient
from providers.http import MAX_ANSWER_BYTES, HttpClient
from providers.video_file import save_video

IsStillRunning = Callable[[bytes], bool]


async def download_video(
    wire: HttpClient,
    address: str,
    into: Path,
    cap_bytes: int,
    total_s: float,
    *,
    waits: bool = False,
    running: IsStillRunning = lambda _: False,
) -> Asset:
    """Fetch a video from a path of the API or from another URL, where the key does not go along.

    Args:
        wire: Who asks.
        address: See `Wire.download`.
        into: Where the video will lie.
        cap_bytes: Larger videos are refused.
        total_s: Total time of the download.
        waits: A 404 there means "not yet".
        running: Says whether a JSON body, sent in place of the video, is a job that is not done.

    Raises:
        Gone, Transient, BadAsset: As `Provider.fetch` says.
    """
    async with wire.download(address, total_s) as response:
        _expect_status(response.status_code, waits=waits)
        await _expect_video(response, cap_bytes, running)
        return await save_video(response.aiter_bytes(), into, cap_bytes)


def web_address(url: object, *, secure: bool) -> str:
    """Return the URL that a result names.

    Raises:
        BadAsset: It is none, or not https although it has to be `secure`.
    """
    if isinstance(url, str) and _scheme(url) in (("https",) if secure else ("https", "http")):
        return url
    raise BadAsset("the result holds no https address of a video")


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def _expect_status(status: int, *, waits: bool) -> None:
    if status == 410 or (status == 404 and not waits):
        raise Gone(f"the output is no longer there ({status})")
    if status != 200:
        raise Transient(f"the output was answered {status}")


async def _expect_video(response: httpx2.Response, cap_bytes: int, running: IsStillRunning) -> None:
    """Let only an answer pass that claims to be the video."""
    told = response.headers.get("content-length", "")
    length = int(told) if told.isdigit() else 0
    if length > cap_bytes:
        raise BadAsset(f"the video is larger than the {cap_bytes:,} bytes allowed")
    if "json" in response.headers.get("content-type", ""):
        if 0 < length < MAX_ANSWER_BYTES and running(await response.aread()):
            raise Transient("the output was answered with a job that is not done")
        raise BadAsset("the output is JSON, not a video")
