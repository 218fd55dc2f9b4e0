"""Renders the status message and the video caption from ledger rows and from nothing else."""

from dataclasses import dataclass, field, replace
from html import escape
from typing import Final, Literal

from aiogram.types import InlineKeyboardMarkup

from chat.i18n import Translator, translator
from chat.keyboards import change_buttons, still_buttons, stop_buttons
from chat.offer_text import OfferFacts, offer_text, still_offer_text
from chat.option_buttons import offer_buttons
from chat.send_limits import Priority
from guardrails.limits import Limits
from guardrails.money import Money
from ledger.failures import REASONS, Failure
from ledger.models import (
    FINAL_STATES,
    LATE_CHARGE,
    QUOTA_FREE_STATES,
    OrderKind,
    Request,
    RequestState,
    Video,
    VideoState,
)
from tools.text import trimmed, utf16_units

_BAR_CELLS: Final = 10

_CAPTION_UNITS: Final = 600
"""UTF-16 units of the caption's text: with the figures it stays far below Telegram's 1,024."""

_ALERTED_STATES: Final = frozenset({VideoState.HOLD, VideoState.FAILED_PAID, VideoState.FAILED_UNPAID})
_RESTING: Final = FINAL_STATES | {VideoState.HOLD, VideoState.AWAITING_APPROVAL}
_NAMED_CATEGORIES: Final = frozenset({"real_person", "copyrighted_character", "violence", "sexual"})
_NO_ORDER_REASONS: Final = frozenset({"model", "model_refused", "model_rejected", "malformed", "gave_up"})
_REFUSALS: Final = frozenset(
    {"quota", "cooldown", "budget", "model_budget", "model_budget_user", "breaker", "closed", "busy"}
)


@dataclass(frozen=True, slots=True)
class View:
    """What the status message shows.

    Attributes:
        text: HTML.
        keyboard: Inline buttons, if a tap is awaited.
        resting: Nothing changes until a person acts.
        offers: It awaits a tap before anything is paid.
    """

    text: str
    keyboard: InlineKeyboardMarkup | None = None
    resting: bool = False
    offers: bool = False

    @property
    def priority(self) -> Priority:
        """How urgent it is to show this, where it replaces an earlier text."""
        if self.offers:
            return "offer"
        return "final" if self.resting else "progress"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the message needs in addition to the rows.

    Attributes:
        now: The store's time, milliseconds since the epoch.
        charged: Charges less refunds of the request; read where `shows_charge`.
        limits: The declared limits, for the text of a refusal.
        breaker_open: Paid starts are stopped for this user or for everyone.
        operator_told: An admin has received the alert about this state of the video.
        offer: For the text of an offer.
        ahead: Orders that wait in the queue before this one.
        usual_s: How long a video of this model usually takes, if that is known.
        waits: No worker has taken it for a while: "busy" where some live, "no_worker" where none does.
        credit_back: The video ended, and the credit that it used is its user's again.
    """

    now: int
    charged: Money
    limits: Limits = field(default_factory=Limits)
    breaker_open: bool = False
    operator_told: bool = False
    offer: OfferFacts | None = None
    ahead: int = 0
    usual_s: float | None = None
    credit_back: bool = False
    waits: Literal["busy", "no_worker"] | None = None


def current_state(request: Request, video: Video | None) -> str:
    """Return the state of a request: its video's, else its own."""
    return str(request.state if video is None else video.state)


def shows_charge(video: Video) -> bool:
    """Return whether the text of this video names what was charged."""
    late = video.state is VideoState.ACCEPTED and video.failure == LATE_CHARGE
    return late or video.state in (VideoState.FAILED_PAID, VideoState.HOLD)


def has_ended_with_credit(video: Video) -> bool:
    """Return whether this video used a credit, which came back at its end."""
    return video.credit_lot is not None and video.state in QUOTA_FREE_STATES


def may_be_alerted(video: Video) -> bool:
    """Return whether operators may be told of the state that this video is in."""
    return video.state in _ALERTED_STATES


def with_operator_told(t: Translator, text: str, *, told: bool) -> str:
    """Add to a text that the operator has been told, where an admin has received the alert."""
    return f"{text} {t('operator_told')}" if told else text


def render(request: Request, video: Video | None, facts: Facts) -> View:
    """Return what the user of this request should see now."""
    t = translator(request.language)
    view = _request_view(t, request, facts) if video is None else _video_view(t, request, video, facts)
    return replace(view, text=f"{view.text}\n\n#{request.short_id}")


def _request_view(t: Translator, request: Request, facts: Facts) -> View:
    match request.state:
        case RequestState.OPEN:
            return View(_open_text(t, request, facts), stop_buttons(t, request.short_id))
        case RequestState.REFUSED:
            repair = change_buttons(t, request.short_id) if _may_be_repaired(request) else None
            return View(_refusal(t, request, facts), repair, resting=True)
        case RequestState.NO_ORDER:
            return View(_no_order(t, request), resting=True)
        case RequestState.CANCELLED:
            return View(t(reason_text(VideoState.CANCELLED, request.reason)), resting=True)
        case RequestState.ORDERED:
            return View(t("opened"))


def _open_text(t: Translator, request: Request, facts: Facts) -> str:
    if facts.waits is not None:
        return t(f"received_{facts.waits}")
    return t("retrying", attempt=request.attempts) if request.attempts > 1 else t("opened")


def _refusal(t: Translator, request: Request, facts: Facts) -> str:
    reason = request.reason or "closed"
    if reason.startswith("content:"):
        return _content_refusal(t, reason.removeprefix("content:"), request.reason_quote)
    return refusal_text(t, reason, request.reason_until, facts.now, facts.limits)


def refusal_text(t: Translator, reason: str, until: int | None, now: int, limits: Limits) -> str:
    """Return the HTML of a refusal by a limit; `until` and `now` are milliseconds since the epoch."""
    name = f"refused_{reason if reason in _REFUSALS else 'closed'}"
    window = t.window(limits.quota_window_s)
    return t(name, when=t.when(until, now), count=limits.quota or 0, window=window)


def _may_be_repaired(request: Request) -> bool:
    """Return whether other words may make this idea possible."""
    return (request.reason or "").startswith("content:") and request.reason != "content:closed"


def _content_refusal(t: Translator, category: str, word: str | None) -> str:
    """Name the category, and where it may be a mere name or word, the word that was found."""
    name = f"category_{category}"
    if not t.has(name):
        return t("refused_content_closed")
    if category == "minor":  # refused where it is not plainly harmless, so it accuses nobody
        return t("refused_minor")
    if word and category in _NAMED_CATEGORIES:
        repair = f"repair_{category}"
        return t.html("refused_word", word=escape(word), category=t(name), repair=t(repair))
    return t("refused_content", category=t(name))


def _no_order(t: Translator, request: Request) -> str:
    if request.reason == "beside":
        return t("no_order_beside")
    lines = [t("no_order")]
    if request.reason in _NO_ORDER_REASONS:
        lines.append(t(f"no_order_{request.reason}"))
    if request.reason_quote:
        lines.append(t("no_order_quote", quote=request.reason_quote))
    return "\n".join(lines)


def _video_view(t: Translator, request: Request, video: Video, facts: Facts) -> View:
    if video.kind == "image":
        return _still_view(t, request, video, facts)
    if video.state is VideoState.AWAITING_APPROVAL:
        if facts.offer is None:
            raise ValueError("an offer's text needs its facts")
        text = offer_text(t, request, video, facts.limits, facts.offer)
        return View(
            text, offer_buttons(t, video, facts.offer.offer, facts.offer.still), resting=True, offers=True
        )
    name, values = _video_text(t, video, facts)
    told = facts.operator_told and may_be_alerted(video)
    text = with_operator_told(t, t(name, **values), told=told)
    if video.state is VideoState.ACCEPTED and video.failure == LATE_CHARGE:  # it corrects what they had read
        text = f"{t('late_charge', price=facts.charged)} {text}"
    if facts.credit_back:
        text = f"{text} {t('credit_back')}"
    stop = stop_buttons(t, request.short_id) if video.state is VideoState.QUEUED else None
    return View(text, stop, video.state in _RESTING)


def _still_view(t: Translator, request: Request, video: Video, facts: Facts) -> View:
    """Return what is shown of the order of a still: it takes seconds, so it has no progress."""
    if video.state is VideoState.AWAITING_APPROVAL:
        if facts.offer is None:
            raise ValueError("an offer's text needs its facts")
        text = still_offer_text(t, video, facts.limits, facts.offer)
        return View(text, still_buttons(t, video), resting=True, offers=True)
    told = facts.operator_told and may_be_alerted(video)
    price = facts.charged if video.state in (VideoState.FAILED_PAID, VideoState.HOLD) else video.quote
    text = with_operator_told(t, t(still_text_name(video, facts), price=price), told=told)
    stop = stop_buttons(t, request.short_id) if video.state is VideoState.QUEUED else None
    return View(text, stop, video.state in _RESTING)


_STILL_TEXTS: Final[dict[VideoState, str]] = {
    VideoState.QUEUED: "still_queued",
    VideoState.IN_DOUBT: "still_in_doubt",
    VideoState.HOLD: "still_hold",
    VideoState.FAILED_UNPAID: "still_failed_unpaid",
    VideoState.FAILED_PAID: "still_failed_paid",
    VideoState.CANCELLED: "cancelled",
    VideoState.EXPIRED: "still_expired",
}


def still_text_name(video: Video, facts: Facts) -> str:
    """Return the name of the text for a state of a still's order."""
    if video.state is VideoState.QUEUED and facts.breaker_open:
        return "still_waiting"
    if video.state is VideoState.EXPIRED and video.nonce:
        return "expired_approval"
    if video.state is VideoState.FAILED_UNPAID and video.failure == Failure.POLICY:
        return "still_failed_policy"
    return _STILL_TEXTS.get(video.state, "still_making")


def _video_text(t: Translator, video: Video, facts: Facts) -> tuple[str, dict[str, object]]:
    """Return the name of the text and its values."""
    values: dict[str, object] = {"seconds": video.seconds, "price": video.quote}
    if video.state is VideoState.EXPIRED and video.nonce:
        return "expired_approval", {}
    if video.state in REASONS:
        return reason_text(video.state, video.failure), {"price": facts.charged}
    if video.state is VideoState.QUEUED:
        return _queued_text(video, facts), values | {"count": facts.ahead}
    if video.state is VideoState.ACCEPTED:
        return _progress_text(t, video, facts)
    return str(video.state).lower(), {}


def _queued_text(video: Video, facts: Facts) -> str:
    if facts.breaker_open:
        return "waiting_breaker"
    if video.failure == Failure.DISK:
        return "waiting_disk"
    if facts.waits == "no_worker":
        return "queued_no_worker"
    return "queued_behind" if facts.ahead else "queued"


def reason_text(state: VideoState, failure: str | None) -> str:
    """Return the name of the text for an end, or a HOLD, with this reason: see `ledger.failures`.

    A row of another version may have a reason that is not in the table: it gets the text of its state.
    """
    names = {
        VideoState.HOLD: (f"hold_{failure}", "hold"),
        VideoState.FAILED_PAID: (f"paid_{failure}", "failed_paid"),
        VideoState.FAILED_UNPAID: (f"failed_{failure}", "failed_unpaid"),
        VideoState.EXPIRED: (f"expired_{failure}", "expired_queue"),
        VideoState.CANCELLED: (f"cancelled_{failure}", "cancelled"),
    }
    name, usual = names[state]
    return name if failure in REASONS[state] else usual


def _progress_text(t: Translator, video: Video, facts: Facts) -> tuple[str, dict[str, object]]:
    """Return the progress text. A provider that gives no percentage has none: the time so far is said."""
    if video.progress:
        return "accepted", {"bar": progress_bar(video.progress), "progress": video.progress}
    elapsed = t.elapsed((facts.now - (video.accepted_at or facts.now)) / 1000)
    if facts.usual_s is None:
        return "filming", {"elapsed": elapsed}
    return "filming_usual", {"elapsed": elapsed, "usual": t.about(facts.usual_s)}


def progress_bar(progress: int) -> str:
    """Return a bar of ten cells for a whole percentage."""
    full = max(0, min(_BAR_CELLS, progress * _BAR_CELLS // 100))
    return "▓" * full + "░" * (_BAR_CELLS - full)


_DELIVERED: Final[dict[tuple[OrderKind, bool], str]] = {
    ("video", False): "delivered_line",
    ("video", True): "delivered_preview",
    ("image", False): "still_delivered_line",
    ("image", True): "still_delivered_preview",
}


def delivery_caption(request: Request, video: Video, charged: Money, *, preview: bool) -> str:
    """Return the HTML caption of the finished video, with the booked price."""
    t = translator(request.language)
    line = t(
        _DELIVERED[video.kind, preview],
        id=request.short_id, seconds=video.asset_seconds or video.seconds, price=charged,
    )  # fmt: skip
    text = fit_utf16(request.caption or request.idea, _CAPTION_UNITS)
    return f"{escape(text)}\n\n{line}"


def fit_utf16(text: str, units: int) -> str:
    """Return `text` on one line, cut to so many UTF-16 units: Telegram counts an emoji as two or more."""
    return trimmed(text, units, utf16_units)
