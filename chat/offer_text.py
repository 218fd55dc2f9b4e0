"""The text of an offer: what would be made, at which price, and what is left afterwards."""

from dataclasses import dataclass
from html import escape
from typing import Final

from chat.i18n import Translator
from guardrails.limits import Limits, Usage
from guardrails.money import Money
from ledger.models import Credit, Request, Video
from ledger.offers import FIRST_FRAME
from providers.base import Capabilities
from telemetry.redaction import short_id
from tools.offer import Offer
from tools.styles import STYLES
from tools.text import trimmed, utf16_units
from tools.wishes import Shape, shape_of, wish_of
from worker.pictures import KEPT_S

_PROMPT_UNITS: Final = 600
_NOTE_UNITS: Final = 200


@dataclass(frozen=True, slots=True)
class OfferFacts:
    """What an offer's text needs in addition to the rows.

    Attributes:
        capabilities: Of the provider that would make the video.
        usage: What the user has used of `limits`; the offer counts as nothing.
        minutes: For how long the offer is open, from when it was made.
        offer: What may be ordered now, for the buttons of its options; None: it has none.
        credits_left: Of its user; read where the offer uses one.
        still: The price of a still of it that its user may order first; None: there is none.
    """

    capabilities: Capabilities
    usage: Usage
    minutes: int
    offer: Offer | None = None
    credits_left: int = 0
    still: Money | None = None


def offer_text(t: Translator, request: Request, video: Video, limits: Limits, facts: OfferFacts) -> str:
    """Return the HTML of an offer."""
    prompt = escape(trimmed(video.own_prompt, _PROMPT_UNITS, utf16_units))
    changed = [] if video.offered is None else [t("offer_changed", price=video.offered)]
    lines = [
        t("offer_head"),
        *([] if request.parent_id is None else [t("offer_take_of", id=short_id(request.parent_id))]),
        *changed,
        f"<blockquote expandable>{prompt}</blockquote>",
        _bought(t, video, facts.capabilities),
        *_look(t, video),
        *_not_possible(t, request, video, facts.capabilities),
    ]
    if video.asks_for_rights:
        lines.append(t("offer_rights", window=t.window(KEPT_S)))
    if request.reason_quote:
        lines.append(t("offer_note", note=trimmed(request.reason_quote, _NOTE_UNITS, utf16_units)))
    lines += ["", *_left(t, video, limits, facts), t("offer_open", minutes=facts.minutes)]
    return "\n".join(lines)


def still_offer_text(t: Translator, video: Video, limits: Limits, facts: OfferFacts) -> str:
    """Return the HTML of an offer of a still."""
    changed = [] if video.offered is None else [t("offer_changed", price=video.offered)]
    bought = [shape_word(t, shape_of(video.size)), t("offer_price", price=video.quote)]
    if facts.capabilities.preview:
        bought.append(t("test_mode"))
    prompt = escape(trimmed(video.prompt, _PROMPT_UNITS, utf16_units))
    lines = [
        t("still_offer_head"), *changed, f"<blockquote expandable>{prompt}</blockquote>", " · ".join(bought),
        "", *_still_left(t, limits, facts), t("offer_open", minutes=facts.minutes),
    ]  # fmt: skip
    return "\n".join(lines)


def _still_left(t: Translator, limits: Limits, facts: OfferFacts) -> list[str]:
    if limits.quota is None:
        return []
    left = max(0, limits.quota - facts.usage.used - 1)
    return [t("still_left", left=left, count=limits.quota, within=t.within(limits.quota_window_s))]


def _bought(t: Translator, video: Video, capabilities: Capabilities) -> str:
    parts = [t("offer_seconds", seconds=video.seconds), shape_word(t, shape_of(video.size))]
    if not video.with_sound:
        parts.append(t("offer_silent"))
    elif capabilities.sound or video.model in capabilities.silenceable:
        parts.append(t("offer_sound"))
    if video.picture is not None:
        own = FIRST_FRAME in (video.chosen or "").split()
        parts.insert(0, t("offer_still" if own else "offer_picture"))
    parts.append(t("offer_price", price=video.quote))
    if capabilities.preview:
        parts.append(t("test_mode"))
    return " · ".join(parts)


def _look(t: Translator, video: Video) -> list[str]:
    """Return the chosen style, and what must not be seen."""
    lines = []
    if video.style in STYLES:
        lines.append(t("offer_style", style=t(f"style_{video.style}")))
    if video.avoid:
        lines.append(t("offer_avoid", words=trimmed(video.avoid, _NOTE_UNITS, utf16_units)))
    return lines


def shape_word(t: Translator, shape: Shape) -> str:
    """Return the word for a shape."""
    return t(f"shape_{shape}")


def _not_possible(t: Translator, request: Request, video: Video, capabilities: Capabilities) -> list[str]:
    """Return what of the idea's own words the offer does not follow, because it is not on offer."""
    wish, shape = wish_of(request.idea), shape_of(video.size)
    found = []
    if wish.seconds is not None and wish.seconds not in capabilities.seconds:
        found.append(t("offer_not_seconds", wished=wish.seconds, seconds=video.seconds))
    if wish.shape not in (None, shape) and wish.shape not in map(shape_of, capabilities.sizes):
        found.append(t("offer_not_shape", wished=shape_word(t, wish.shape), shape=shape_word(t, shape)))
    if wish.several:
        found.append(t("offer_not_several"))
    return found


def _left(t: Translator, video: Video, limits: Limits, facts: OfferFacts) -> list[str]:
    """Return what is left after this video, where there are limits; or that it uses a credit."""
    parts: dict[str, list[str]] = {}
    usage, price, over = facts.usage, video.quote, []
    above = video.credit == Credit.OFFERED
    if limits.quota is not None and not above:
        left = max(0, limits.quota - usage.used - 1)
        parts.setdefault(t.within(limits.quota_window_s), []).append(
            t("left_videos", left=left, count=limits.quota)
        )
    if limits.user_budget is not None:
        before = max(Money(0), limits.user_budget - usage.spent)
        if price > before:
            over.append(t("offer_over", left=before, within=t.within(limits.user_window_s)))
        money = max(Money(0), before - price)
        parts.setdefault(t.within(limits.user_window_s), []).append(t("left_money", left=money))
    uses = [t("offer_credit", count=max(1, facts.credits_left))] if above else []
    return over or uses + [
        t.html("offer_left", left=f" {t('and')} ".join(those), within=within)
        for within, those in parts.items()
    ]
