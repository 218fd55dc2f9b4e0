"""Providers of stills: a small protocol for adapters, and what makes one a `Provider` of orders.

An image server answers the POST with the still itself, where a video server answers with a job. So the answer
is stored before anything else is done with it (`ImageProvider`), under an id that is made of the order's key.
From there on an order of a still is polled, fetched, delivered and booked as every order is. Image servers
have no list of jobs: an unknown outcome ends by a replay, where one is documented, or waits for a person.
"""

import asyncio
import json
import os
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Final, Protocol
from uuid import uuid4

from PIL import Image
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from guardrails.money import Money
from providers.base import (
    Asset,
    BadAsset,
    Capabilities,
    ClaimedCheck,
    Found,
    Gone,
    Job,
    JobLinks,
    ProviderError,
    Reconciled,
    Rejected,
    SeenDate,
    Status,
    StorageFault,
    TooBig,
    Unsure,
    VideoRequest,
)
from providers.pictures import MAX_BYTES, PictureRefused, clean_picture
from providers.video_file import disk_error_text, sync_folder

STILL_SECONDS: Final = 0
"""The length of a still in orders and price questions."""

IMAGE_MAKERS: Final = ("local_images", "openai_images")
"""Every name that an `ImageMaker` may have, for metrics."""

ANSWERS_FOLDER: Final = "stills"
"""Within MEDIA_DIR."""

_ANSWER_SUFFIX: Final = ".still"


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """What is sent for one still. A replay has the same bytes in every process; see `VideoRequest`."""

    key: str
    model: str
    prompt: str
    size: str
    seed: int
    caption: str = ""


@dataclass(frozen=True, slots=True)
class ImageAnswer:
    """What a server answered to the POST: the still's bytes, or where they are.

    Attributes:
        data: The file, as the server made it; None if there is only a `url`.
        url: Where it can be downloaded for a while. It may be a secret.
        billed: The server's own price, if the answer names one.
    """

    data: bytes | None = None
    url: str = ""
    billed: Money | None = None


class ImageMaker(Protocol):
    """One image server, or the local preview. It holds connections and no state of orders.

    Attributes:
        name, account: As of `providers.base.Provider`.
        prices: What it makes.
        capabilities: As of `Provider`; `of_images` makes them.
    """

    name: str
    account: str
    prices: "ImagePrices"
    capabilities: Capabilities

    async def check(self) -> None:
        """See `Provider.check`."""
        ...

    async def make(self, image_request: ImageRequest) -> ImageAnswer:
        """Send exactly one POST and return what was made.

        Raises:
            NotSent, Throttled, Rejected, InDoubt: See each class.
        """
        ...

    async def download(self, url: str) -> bytes:
        """Return the bytes behind an answer's `url`. Free; may be repeated.

        Raises:
            Gone, AccessRefused, Transient: See each class.
        """
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class ImagePrices(BaseModel):
    """The price of one still by model and size, as its page showed it. The first model is the default."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    priced_on: date
    source: str
    models: Annotated[
        dict[
            str,
            Annotated[
                dict[
                    Annotated[str, Field(pattern=r"^[1-9]\d{1,4}x[1-9]\d{1,4}$")],
                    Annotated[Money, BeforeValidator(Money.exact)],
                ],
                Field(min_length=1),
            ],
        ],
        Field(min_length=1),
    ]

    def quote(self, model: str, size: str) -> Money:
        """Return the price of one still.

        Raises:
            ValueError: It is not on offer; the message names it and what is.
        """
        sizes = self.models.get(model)
        if sizes is None:
            raise ValueError(f"model {model!r} is not on offer; there is {', '.join(self.models)}")
        if size not in sizes:
            raise ValueError(f"{model} makes {', '.join(sizes)}, not {size!r}")
        return sizes[size]


def capabilities_of(prices: ImagePrices, **more: object) -> Capabilities:
    """Return the capabilities of a server of stills; `more` are fields of `Capabilities`."""
    sizes = dict.fromkeys(size for model in prices.models.values() for size in model)
    usual = Capabilities(
        models=tuple(prices.models), seconds=(STILL_SECONDS,), sizes=tuple(sizes), replay=False,
        listing=False, preview=False, submit_timeout_s=120.0, poll_s=1.0, settle_s=60.0,
        priced_on=prices.priced_on.isoformat(),
    )  # fmt: skip
    return replace(usual, **more)  # type: ignore[arg-type]  # each is a field's own value


class ImageProvider:
    """Takes orders of stills for an `ImageMaker`: a `Provider` whose jobs are finished as they are accepted.

    Args:
        maker: Makes them.
        folder: Where answers are stored until they are fetched; all workers share it.
    """

    def __init__(self, maker: ImageMaker, folder: Path) -> None:
        self._maker, self._folder = maker, folder
        self.name, self.account, self.capabilities = maker.name, maker.account, maker.capabilities
        # An answer that the disk refused: this process can still store it, no other can.
        self._unstored: dict[str, bytes] = {}

    @property
    def date(self) -> SeenDate | None:
        """The time that the server's latest answer named."""
        return getattr(self._maker, "date", None)

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        """See `Provider.quote`: a still has no length and no sound."""
        del sound
        if type(seconds) is not int or seconds != STILL_SECONDS:
            raise ValueError(f"{model} makes stills, which have no length, not {seconds!r} seconds")
        return self._maker.prices.quote(model, size)

    async def check(self) -> None:
        """See `Provider.check`."""
        await self._maker.check()

    async def submit(self, video_request: VideoRequest) -> Job:
        """See `Provider.submit`. What was made is stored before it counts as accepted."""
        one = video_request
        try:
            self.quote(one.model, one.seconds, one.size)
        except ValueError as error:
            raise Rejected(f"no longer on offer, nothing was sent: {error}", "invalid") from None
        answer = await self._maker.make(
            ImageRequest(one.key, one.model, one.prompt, one.size, one.seed, one.caption)
        )
        return await self._keep(one.key, answer)

    async def state(self, job_id: str, links: JobLinks | None = None) -> Status:
        """See `Provider.state`: finished, as long as what was made is still there."""
        del links
        if await asyncio.to_thread(self._stored, job_id) is None:
            raise Gone(f"the answer of {job_id} is not stored here")
        return Status("succeeded", 100)

    async def fetch(self, job_id: str, into: Path, links: JobLinks | None = None) -> Asset:
        """See `Provider.fetch`: checks the still and writes it as a JPEG without metadata."""
        del links
        kept = await asyncio.to_thread(self._stored, job_id)
        if kept is None:
            return await asyncio.to_thread(_measured, into)
        asset = await asyncio.to_thread(_write_still, await self._bytes_of(kept), into)
        await asyncio.to_thread(self._drop, job_id)
        return asset

    async def reconcile(
        self, video_request: VideoRequest, sent_at: float, claimed: ClaimedCheck, now: float | None = None
    ) -> Reconciled:
        """See `Provider.reconcile`: a replay, where one is documented; there is no list."""
        del sent_at, now
        if not self.capabilities.replay:
            return Unsure("an image server has no list that could be asked")
        try:
            job = await self.submit(video_request)
        except ProviderError as error:
            return Unsure(str(error))  # a refusal of the second POST says nothing about the first
        if await claimed([job.job_id]):
            return Unsure("the replay met another order's still")
        return Found(job)

    async def lookup(
        self,
        video_request: VideoRequest,
        sent_at: float,
        claimed: ClaimedCheck,
        now: float | None = None,
        *,
        until: float | None = None,
    ) -> Reconciled:
        """See `Provider.lookup`: an answer that was stored, though it was not booked, is proof."""
        del sent_at, now, until
        job_id = _job_id(video_request.key)
        if await asyncio.to_thread(self._stored, job_id) is None:
            return Unsure("an image server has no list that could be asked")
        if await claimed([job_id]):
            return Unsure("the stored answer is another order's")
        return Found(Job(job_id))

    async def close(self) -> None:
        """Close connections."""
        await self._maker.close()

    async def _keep(self, key: str, answer: ImageAnswer) -> Job:
        job_id = _job_id(key)
        kept = answer.data if answer.data is not None else json.dumps({"url": answer.url}).encode()
        try:
            await asyncio.to_thread(self._store, job_id, kept)
        except OSError:
            self._unstored[job_id] = kept
        return Job(job_id, answer.billed)

    async def _bytes_of(self, kept: bytes) -> bytes:
        if not kept.startswith(b"{"):
            return kept
        return await self._maker.download(str(json.loads(kept)["url"]))

    def _path(self, job_id: str) -> Path:
        return _answer_path(self._folder, job_id)

    def _stored(self, job_id: str) -> bytes | None:
        if (held := self._unstored.get(job_id)) is not None:
            return held
        try:
            return self._path(job_id).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageFault(disk_error_text(error)) from error

    def _store(self, job_id: str, data: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        _write_whole(self._path(job_id), data)

    def _drop(self, job_id: str) -> None:
        self._unstored.pop(job_id, None)
        self._path(job_id).unlink(missing_ok=True)


def answer_path(media: Path, key: str) -> Path:
    """Return where the answer to an order with this key is stored until it is fetched."""
    return _answer_path(media / ANSWERS_FOLDER, _job_id(key))


def _answer_path(folder: Path, job_id: str) -> Path:
    return folder / f"{job_id}{_ANSWER_SUFFIX}"


def _job_id(key: str) -> str:
    """Return the id of a still's job: the same in every process, as a server gives none."""
    return f"still-{key}"


def _write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it appears complete, also after a power cut."""
    part = path.with_name(f"{path.name}.part-{uuid4().hex}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _write_still(data: bytes, into: Path) -> Asset:
    if len(data) > MAX_BYTES:
        raise TooBig(f"the still has {len(data)} bytes, more than {MAX_BYTES}")
    try:
        still = clean_picture(data)
    except PictureRefused as error:
        raise BadAsset(f"what the server made is no picture that can be used: {error}") from None
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        _write_whole(into, still.data)
    except OSError as error:
        raise StorageFault(disk_error_text(error)) from error
    return _measured(into)


def _measured(path: Path) -> Asset:
    """Return the finished still of before; `Gone` if there is none."""
    try:
        with Image.open(path, formats=("JPEG",)) as still:
            width, height = still.size
            return Asset(path, None, float(STILL_SECONDS), width, height, path.stat().st_size)
    except (OSError, ValueError):
        raise Gone("the still is neither stored nor fetched") from None
