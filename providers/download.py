"""Downloads a finished video from the address that the provider names."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from providers.base import AccessRefused, Asset, BadAsset, Gone, TooBig, Transient
from providers.http import MAX_ANSWER_BYTES, HttpClient
from providers.video_file import save_video

IsStillRunning = Callable[[bytes], bool]


async def download_video(
    http: HttpClient,
    address: str,
    into: Path,
    cap_bytes: int,
    total_s: float,
    *,
    waits: bool = False,
    running: IsStillRunning = lambda _: False,
) -> Asset:
    """Download a video from a path of the API or from another URL, as `HttpClient.download` does.

    Args:
        http: The client of the API.
        address: See `HttpClient.download`.
        into: Path of the finished file.
        cap_bytes: Larger videos are refused.
        total_s: Total time of the download.
        waits: A 404 there means "not yet".
        running: Returns whether a JSON body, sent in place of the video, is a job that is not done.

    Raises:
        Gone, AccessRefused, Transient, BadAsset, TooBig, StorageFault: See `Provider.fetch`.
    """
    async with http.download(address, total_s) as response:
        _expect_status(response.status_code, waits=waits)
        await _expect_video(response, cap_bytes, running)
        return await save_video(response.aiter_bytes(), into, cap_bytes)


def web_address(url: object, *, secure: bool) -> str:
    """Return the URL that a result names.

    Raises:
        BadAsset: It is not a URL, or not https although `secure` requires it.
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
        raise Gone(f"the output is no longer there ({status})", final=status == 410)
    if status in (400, 401, 403):
        raise AccessRefused(f"the download was refused ({status})")
    if status != 200:
        raise Transient(f"the output was answered {status}")


async def _expect_video(response: httpx2.Response, cap_bytes: int, running: IsStillRunning) -> None:
    """Accept only an answer whose headers fit the video."""
    announced = response.headers.get("content-length", "")
    length = int(announced) if announced.isdigit() else 0
    if length > cap_bytes:
        raise TooBig(f"the video is larger than the {cap_bytes:,} bytes allowed")
    if "json" in response.headers.get("content-type", ""):
        if 0 < length < MAX_ANSWER_BYTES and running(await response.aread()):
            raise Transient("the output was answered with a job that is not done")
        raise BadAsset("the output is JSON, not a video")
