"""What a user is told about all their requests: status, history, quota, prices, and what was cancelled."""

from chat.desk import Desk
from chat.status import shown
from chat.texts import Texts
from guardrails.admission import Release
from ledger import limits, moves, requests
from ledger.rows import Request, Video
from ledger.words import SETTLED, WAITING, RequestState, VideoState
from tools import generate_video
from tools.generate_caption import trimmed

_UNDER_WAY = 10


def price_words(desk: Desk, say: Texts) -> str:
    """Return the prices, from the provider's quote, and that they are rehearsal dollars where they are."""
    prices, quota = desk.offer.price_list(), desk.limits.quota
    line = say("prices_free", list=prices) if quota is None else say("prices", list=prices, quota=quota)
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
    async with desk.ledger.read() as conn:
        now = await desk.ledger.now(conn)
        standing = await limits.standing(conn, user_id, desk.limits, now)
    if standing.quota is None or standing.budget is None:
        line = say("quota_line_free", used=standing.used, spent=standing.spent)
    else:
        line = say(
            "quota_line",
            used=standing.used, quota=standing.quota, spent=standing.spent, budget=standing.budget,
        )  # fmt: skip
    until = max((at for at in (standing.cooldown_until, standing.next_free_at) if at), default=None)
    return f"{line}\n{say('quota_wait', when=say.when(until, now)) if until else say('quota_ready')}"


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
    state = await moves.cancel(desk.ledger, request.request_id, user_id)
    if state not in (RequestState.CANCELLED, VideoState.CANCELLED):
        return say("cancel_late", id=request.short_id, state=say(f"state_{state}")), None
    what: Release = "unpaid" if state is VideoState.CANCELLED else "all"
    await desk.admission.release(generate_video.NAME, request.request_id, user_id, what)
    return say("cancel_done", id=request.short_id), request.request_id


def _may_cancel(request: Request, video: Video | None) -> bool:
    return request.state is RequestState.OPEN if video is None else video.state in WAITING
