"""SandboxImages: draws stills on this machine and charges test credits for them."""

import asyncio
import io
from datetime import date
from pathlib import Path
from typing import Final

from guardrails.money import Money
from providers.base import Gone, NotSent, Rejected
from providers.images import ImageAnswer, ImagePrices, ImageRequest, capabilities_of
from providers.video_file import disk_error_text
from sandbox.preview.jobs import locked
from sandbox.preview.provider import ChargeLog

MODEL: Final = "poster"
PRICE: Final = Money.parse("$0.04")
SIZES: Final = ("720x1280", "1280x720", "1024x1024")
_LAST_FRAME: Final = 23
"""Of a film of one second: by then everything has come into the picture."""


class SandboxImages:
    """Draws the still of an idea as the preview of a video is drawn (an `ImageMaker`).

    The same key is charged once and gives the same still, so an unknown outcome ends by a replay.

    Args:
        root: Its folder, with the charge log. Several processes may share it.
    """

    name = account = "local_images"

    def __init__(self, root: Path) -> None:
        self.prices = ImagePrices(
            priced_on=date(2026, 11, 28), source="test credits", models={MODEL: dict.fromkeys(SIZES, PRICE)}
        )
        self.capabilities = capabilities_of(
            self.prices, replay=True, preview=True, submit_timeout_s=20.0, poll_s=0.5, grace_s=2.0,
            settle_s=10.0, replay_for_s=86_400.0,
        )  # fmt: skip
        self._root = root
        self.charges = ChargeLog(root / "charges.jsonl")

    async def check(self) -> None:
        """Find out nothing: `make` finds out whether its folder can be used."""

    async def make(self, image_request: ImageRequest) -> ImageAnswer:
        """Draw first, then charge: what cannot be drawn costs nothing."""
        if not image_request.prompt.strip():
            raise Rejected("the prompt is empty", "invalid")
        data = await asyncio.to_thread(_drawn, image_request)
        try:
            await asyncio.to_thread(self._charge, image_request.key)
        except OSError as error:
            raise NotSent(f"the local images take no orders: {disk_error_text(error)}") from error
        return ImageAnswer(data, billed=PRICE)

    async def download(self, url: str) -> bytes:
        """Raise `Gone`: every answer has its still, and none has an address."""
        del url
        raise Gone("the local images hand out no addresses")

    async def close(self) -> None:
        """Close nothing."""

    def _charge(self, key: str) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        with locked(self._root / "orders.lock"):
            self.charges.once("charge", f"still-{key}", key, PRICE)


def _drawn(image_request: ImageRequest) -> bytes:
    from sandbox.renderer.film import Film  # noqa: PLC0415 - it loads fonts

    width, height = (int(side) for side in image_request.size.split("x"))
    film = Film(image_request.prompt, image_request.caption, 1, (width, height), image_request.seed)
    written = io.BytesIO()
    film.frame(_LAST_FRAME).save(written, "PNG", compress_level=1)
    return written.getvalue()
