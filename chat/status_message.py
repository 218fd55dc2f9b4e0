"""The status message: how a request stands, rendered from the ledger and from nothing else."""

from dataclasses import dataclass, field
from html import escape
from typing import Final

from aiogram.types import InlineKeyboardMarkup

from chat.i18n import Translator, translator
from chat.keyboards import approval_buttons
from guardrails.limits import Limits
from guardrails.money import Money
from ledger.models import FINAL_STATES, LATE_CHARGE, Request, RequestState, Video, VideoState
from tools.text import trimmed

_BAR_CELLS: Final = 10

_CAPTION_UNITS: Final = 600
"""UTF-16 units of words under a video: with the figures they stay far below Telegram's 1,024."""

_FAILURES: Final = frozenset(
    {"policy", "invalid", "auth", "funds", "unreachable", "absent", "settled", "moderated", "failed"}
)
_RESTING: Final = FINAL_STATES | {VideoState.HOLD, VideoState.AWAITING_APPROVAL}
_REFUSALS: Final = frozenset({"quota", "cooldown", "budget", "breaker", "closed", "busy"})


@dataclass(frozen=True, slots=True)
class View:
    """What the status message shows.

    Attributes:
        text: HTML.
        keyboard: Buttons below, if a tap is awaited.
        resting: Nothing will change until somebody acts, so nobody need keep looking.
    """

    text: str
    keyboard: InlineKeyboardMarkup | None = None
    resting: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the message needs beside the rows.

    Attributes:
        now: The store's time, milliseconds since the epoch.
        charged: What stands charged for the request.
        limits: The declared figures, for the words of a refusal.
        breaker_open: Paid starts are stopped for this user or for everyone.
    """

    now: int
    charged: Money
    limits: Limits = field(default_factory=Limits)
    breaker_open: bool = False


def current_state(request: Request, video: Video | None) -> str:
    """Return the one word for how a request stands: its video's state, else its own."""
    return str(request.state if video is None else video.state)


def render(request: Request, video: Video | None, facts: Facts) -> View:
    """Return what the user of this request should see now."""
    t = translator(request.language)
    view = _request_view(t, request, facts) if video is None else _video_view(t, video, facts)
    return View(f"{view.text}\n\n#{request.short_id}", view.keyboard, view.resting)


def _request_view(t: Translator, request: Request, facts: Facts) -> View:
    match request.state:
        case RequestState.OPEN:
            again = request.attempts > 1
            return View(t("retrying", attempt=request.attempts) if again else t("opened"))
        case RequestState.REFUSED:
            return View(_refusal(t, request, facts), resting=True)
        case RequestState.NO_ORDER:
            return View(_no_order(t, request), resting=True)
        case RequestState.CANCELLED:
            return View(t("cancelled"), resting=True)
        case RequestState.ORDERED:
            return View(t("opened"))


def _refusal(t: Translator, request: Request, facts: Facts) -> str:
    reason = request.reason or "closed"
    if reason.startswith("content:"):
        category = f"category_{reason.removeprefix('content:')}"
        return t("refused_content", category=t(category)) if t.has(category) else t("refused_content_closed")
    name = f"refused_{reason if reason in _REFUSALS else 'closed'}"
    when, limits = t.when(request.reason_until, facts.now), facts.limits
    return t(name, when=when, limit=limits.quota or "", window=t.window(limits.quota_window_s))


def _no_order(t: Translator, request: Request) -> str:
    lines = [t("no_order")]
    if request.reason in ("model", "gave_up"):
        lines.append(t(f"no_order_{request.reason}"))
    elif request.reason_quote:
        lines.append(t("no_order_quote", quote=request.reason_quote))
    return "\n".join(lines)


def _video_view(t: Translator, video: Video, facts: Facts) -> View:
    keyboard = approval_buttons(t, video) if video.state is VideoState.AWAITING_APPROVAL else None
    name, values = _video_text(video, facts)
    return View(t(name, **values), keyboard, video.state in _RESTING)


def _video_text(video: Video, facts: Facts) -> tuple[str, dict[str, object]]:
    """Return the text's name and what it is filled with."""
    figures: dict[str, object] = {"seconds": video.seconds, "price": video.quote}
    known = video.failure in _FAILURES
    words: dict[VideoState, tuple[str, dict[str, object]]] = {
        VideoState.AWAITING_APPROVAL: ("awaiting", figures),
        VideoState.QUEUED: ("waiting_breaker" if facts.breaker_open else "queued", figures),
        VideoState.ACCEPTED: _progress_text(video, facts),
        VideoState.FAILED_UNPAID: (f"failed_{video.failure}" if known else "failed_unpaid", {}),
        VideoState.FAILED_PAID: ("failed_paid", {"price": facts.charged}),
        VideoState.EXPIRED: ("expired_approval" if video.nonce else "expired_queue", {}),
    }
    return words.get(video.state, (str(video.state).lower(), {}))


def _progress_text(video: Video, facts: Facts) -> tuple[str, dict[str, object]]:
    """A job that turned up late was paid, though its user had read that nothing was: that is said first."""
    figures: dict[str, object] = {"bar": progress_bar(video.progress), "progress": video.progress}
    if video.failure != LATE_CHARGE:
        return "accepted", figures
    return "accepted_late", figures | {"price": facts.charged}


def progress_bar(progress: int) -> str:
    """Return a bar of ten cells for whole per cent."""
    full = max(0, min(_BAR_CELLS, progress * _BAR_CELLS // 100))
    return "▓" * full + "░" * (_BAR_CELLS - full)


def delivery_caption(request: Request, video: Video, charged: Money, *, preview: bool) -> str:
    """Return the HTML under the finished video: its caption, and the figures that were booked."""
    t = translator(request.language)
    line = t(
        "delivered_preview" if preview else "delivered_line",
        id=request.short_id, seconds=video.asset_seconds or video.seconds, price=charged,
    )  # fmt: skip
    words = fit_utf16(request.caption or request.idea, _CAPTION_UNITS)
    return f"{escape(words)}\n\n{line}"


def fit_utf16(text: str, units: int) -> str:
    """Return `text` on one line, cut to so many UTF-16 units: Telegram counts an emoji as two and more."""
    most = units
    while len((cut := trimmed(text, most)).encode("utf-16-le")) > units * 2:
        most = most * 3 // 4
    return cut
