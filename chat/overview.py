"""What a user is told about all their requests: status, history, quota, prices, and what was cancelled."""

from chat.desk import Desk
from chat.status import shown
from chat.texts import Texts
from guardrails.admission import Release
from guardrails.outlook import Outlook, outlook
from ledger import requests, transitions
from ledger.limits import Limits, Standing
from ledger.models import Request, Video
from ledger.words import SETTLED, WAITING, RequestState, VideoState
from tools import generate_video
from tools.generate_caption import trimmed

_UNDER_WAY = 10


def price_words(desk: Desk, say: Texts) -> str:
    """Return the prices, from the provider's quote, and that they are rehearsal dollars where they are."""
    prices, quota, window = desk.offer.price_list(), desk.limits.quota, say.window(desk.limits.quota_window_s)
    line = (
        say("prices_free", list=prices)
        if quota is None
        else say("prices", list=prices, quota=quota, window=window)
    )
    return f"{line} {say('preview_note')}" if desk.is_preview(desk.offer.provider) else line


def _row(say: Texts, request: Request, video: Video | None) -> str:
    state = say(f"state_{shown(request, video)}")
    return say("row", id=request.short_id, state=state, idea=trimmed(request.idea, 60))


def _under_way(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state not in SETTLED


async def status_words(desk: Desk, say: Texts, user_id: int) -> str:
    """Return what is under way for this user."""
    found = await requests.of_user(desk.ledger, user_id, 50)
    rows = [_row(say, *one) for one in found if _under_way(*one)][:_UNDER_WAY]
    return "\n".join([say("status_head"), *rows]) if rows else say("status_none")


async def history_words(desk: Desk, say: Texts, user_id: int) -> str:
    """Return this user's latest requests."""
    rows = [_row(say, *one) for one in await requests.of_user(desk.ledger, user_id)]
    return "\n".join([say("history_head"), *rows]) if rows else say("history_none")


async def quota_words(desk: Desk, say: Texts, user_id: int) -> str:
    """Return what this user has used, has left, and when the next video is possible."""
    found = await outlook(desk.admission, desk.ledger, user_id, desk.offer.cheapest(), desk.limits)
    return "\n".join([*_used(say, found.standing, desk.limits), _next(say, found)])


def _used(say: Texts, standing: Standing, limits: Limits) -> list[str]:
    """Videos and dollars, each beside its limit where it has one, within its own window."""
    counted, paid = say.window(limits.quota_window_s), say.window(limits.user_window_s)
    used, spent, quota, budget = standing.used, standing.spent, limits.quota, limits.user_budget
    return [
        say("quota_used_free", used=used, window=counted)
        if quota is None
        else say("quota_used", used=used, quota=quota, window=counted),
        say("quota_spent_free", spent=spent, window=paid)
        if budget is None
        else say("quota_spent", spent=spent, budget=budget, window=paid),
    ]


def _next(say: Texts, found: Outlook) -> str:
    match found.word:
        case "admitted" | "replay":
            return say("quota_ready")
        case "breaker" | "closed":
            return say(f"quota_{found.word}")
        case "budget":
            return say("quota_budget", when=say.when(found.until, found.now))
        case "quota" | "cooldown":
            return say("quota_wait", when=say.when(found.until, found.now))


async def cancel_words(desk: Desk, say: Texts, user_id: int, wanted: str) -> tuple[str, str | None]:
    """Cancel one request of this user; return what to say and, if something was cancelled, which one."""
    found = await requests.of_user(desk.ledger, user_id, 50)
    if wanted:
        found = [one for one in found if one[0].short_id == wanted.lower()]
        if not found:
            return say("cancel_unknown", id=wanted[:12]), None
    else:
        found = [one for one in found if _may_cancel(*one)]
        if not found:
            return say("cancel_none"), None
    request = found[0][0]
    state = await transitions.cancel(desk.ledger, request.request_id, user_id)
    if state not in (RequestState.CANCELLED, VideoState.CANCELLED):
        return say("cancel_late", id=request.short_id, state=say(f"state_{state}")), None
    what: Release = "unpaid" if state is VideoState.CANCELLED else "all"
    await desk.admission.release(generate_video.NAME, request.request_id, user_id, what)
    return say("cancel_done", id=request.short_id), request.request_id


def _may_cancel(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state in WAITING
