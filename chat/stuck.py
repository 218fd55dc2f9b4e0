"""A finished video that does not arrive: its user reads what is true, and an operator hears of it once."""

from html import escape
from typing import Final

from aiogram.exceptions import AiogramError, TelegramBadRequest, TelegramEntityTooLarge, TelegramNotFound
from sqlalchemy.exc import SQLAlchemyError

from chat.alerts import Alert, send
from chat.desk import Desk, Teller
from chat.message import show
from chat.status import View
from chat.texts import texts
from ledger import reports, requests
from ledger.models import Request, Video
from ledger.notifications import Item
from ledger.words import VideoState
from providers.base import BadAsset, Gone, JobFailed
from telemetry.logs import get_logger

log = get_logger(__name__)

_LONG_S: Final = 1800
"""What the network or Telegram alone delays is nobody's matter for so long."""

_REFUSED: Final = (TelegramBadRequest, TelegramNotFound, TelegramEntityTooLarge)
_NO_FILE: Final = (FileNotFoundError, BadAsset, Gone, JobFailed)


async def say_stuck(desk: Desk, request_id: str, error: Exception) -> None:
    """Say that a delivery failed, unless waiting may mend it. Safe to repeat at each try; it never raises."""
    try:
        found = await requests.find_both(desk.ledger, request_id)
        request, video = found or (None, None)
        if request is None or video is None or video.state is not VideoState.SUCCEEDED:
            return
        why = await _why(desk, video, error)
        if why:
            await _tell_user(desk, request)
            await send(desk, _alert(desk, video, why))
    except (AiogramError, SQLAlchemyError, OSError) as away:
        log.warning("a stuck delivery is not told yet", request=request_id, error=type(away).__name__)


async def _why(desk: Desk, video: Video, error: Exception) -> str:
    """Return why only a person can help; empty while waiting may."""
    if isinstance(error, _REFUSED):
        return f"Telegram refuses it ({error.message})"
    if isinstance(error, _NO_FILE):
        return f"its file is gone and cannot be fetched again ({type(error).__name__})"
    async with desk.ledger.read() as conn:
        waited_s = (await desk.ledger.now(conn) - video.updated_at) / 1000
    return f"it fails for {waited_s / 60:.0f} min ({type(error).__name__})" if waited_s > _LONG_S else ""


async def _tell_user(desk: Desk, request: Request) -> None:
    charged = await reports.charged(desk.ledger, request.request_id)
    words = f"{texts(request.language)('stuck', price=charged)}\n\n#{request.short_id}"
    try:
        await show(desk, Teller(), request, View(words))
    except AiogramError as error:  # what keeps the video away may keep words away as well
        log.warning("the user cannot be told", request=request.request_id, error=type(error).__name__)


def _alert(desk: Desk, video: Video, why: str) -> Alert:
    words = (
        f"#{video.short_id} is <b>paid and not delivered</b>: {escape(why)}."
        f"\nIts file: <code>{escape(desk.studio.asset_path(video).name)}</code> in MEDIA_DIR."
        " It is tried again by itself, at least once an hour; nothing is paid twice."
    )
    item = Item(f"stuck:{video.request_id}", video.updated_at)
    return Alert(item, "a finished video is not delivered", words, {"request": video.request_id, "why": why})
