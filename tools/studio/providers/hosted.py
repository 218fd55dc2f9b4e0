"""What the adapters of model hosts share: a key, a list read to its end, a result URL fetched as a video."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2

from tools.studio.assets import keep
from tools.studio.providers.address import NotConfigured
from tools.studio.providers.catalogue import PriceList
from tools.studio.providers.protocol import Asset, BadAsset, Capabilities, Gone, Transient
from tools.studio.providers.wire import Wire

LIST_PAGES = 20


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a job list.

    Attributes:
        jobs: What could be read, each with a text under `id`.
        whole: Every entry could be read; one that cannot be read may be ours.
        next: What asks for the page after this one; None at the end of the list.
    """

    jobs: list[dict[str, Any]]
    whole: bool
    next: Mapping[str, str] | None


async def walk(
    ask: Callable[[Mapping[str, str]], Awaitable[Page]],
    first: Mapping[str, str],
    enough: Callable[[list[dict[str, Any]]], bool] = lambda _: False,
) -> tuple[list[dict[str, Any]], bool]:
    """Read a list page by page; return its jobs, and whether it was seen to its end or until `enough`.

    A page that brings nothing new ends the walk: the server ignores the cursor, and the rest stays unseen.
    """
    jobs: dict[str, dict[str, Any]] = {}
    query = first
    for _ in range(LIST_PAGES):
        page = await ask(query)
        fresh = {job["id"]: job for job in page.jobs}
        stuck = bool(fresh) and fresh.keys() <= jobs.keys()
        jobs |= fresh
        if stuck or not page.whole:
            break
        if page.next is None or enough(list(jobs.values())):
            return list(jobs.values()), True
        query = page.next
    return list(jobs.values()), False


async def bring(
    wire: Wire, url: object, into: Path, cap_bytes: int, total_s: float, *, secure: bool = True
) -> Asset:
    """Fetch the video behind a result URL; the key goes along only to the API's own host.

    Raises:
        Gone, Transient, BadAsset: As `Provider.fetch` says; BadAsset also where `secure` and not https.
    """
    if not isinstance(url, str) or _scheme(url) not in (("https",) if secure else ("https", "http")):
        raise BadAsset("the result holds no https address of a video")
    async with wire.download(url, total_s) as response:
        _expect_video(response, cap_bytes)
        return await keep(response.aiter_bytes(), into, cap_bytes)


def check_key(key: str, sentence: str) -> str:
    """Return `key`.

    Raises:
        NotConfigured: It is missing, in the words of `sentence`, or no header could carry it.
    """
    if not key.strip():
        raise NotConfigured(sentence)
    if not (key.isascii() and key.isprintable()) or key != key.strip():
        raise NotConfigured("the API key holds a character that no header can carry")
    return key


def offered(prices: PriceList, notes: tuple[str, ...], **times: float) -> Capabilities:
    """Capabilities of a host without idempotency keys, whose jobs can be listed and cancelled."""
    offers = prices.models.values()
    return Capabilities(
        models=tuple(prices.models),
        seconds=tuple(sorted({seconds for offer in offers for seconds in offer.seconds})),
        sizes=tuple(dict.fromkeys(size for offer in offers for size in offer.per_second)),
        replay=False,
        listing=True,
        cancel=True,
        preview=False,
        priced_on=prices.priced_on.isoformat(),
        notes=("This adapter has never met the real service.", *notes),
        **times,
    )


def stamp(seconds: float) -> str:
    """Write a time, in seconds since the epoch, as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:
        return ""


def _expect_video(response: httpx2.Response, cap_bytes: int) -> None:
    """Let only an answer pass that claims to be the video."""
    status, length = response.status_code, response.headers.get("content-length", "")
    if status in (404, 410):
        raise Gone(f"the output is no longer there ({status})")
    if status != 200:
        raise Transient(f"the output was answered {status}")
    if length.isdigit() and int(length) > cap_bytes:
        raise BadAsset(f"the video is larger than the {cap_bytes:,} bytes allowed")
    if "json" in response.headers.get("content-type", ""):
        raise BadAsset("the output is JSON, not a video")
