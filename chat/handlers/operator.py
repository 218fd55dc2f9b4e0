"""Operators in the chat: they settle a HOLD and close a breaker. Everybody else is refused, in words.

Each act names what the operator was shown (a HOLD's or an opening's own time), so that an old button or a
second delivery of it does nothing to what came after.
"""

from aiogram import F, Router
from aiogram.filters import Command, CommandObject
from aiogram.types import CallbackQuery, Message

from chat.context import ChatContext
from chat.i18n import Translator
from chat.keyboards import (
    CLOSE,
    HOW_PAID,
    KEEP,
    REALLY,
    UNPAID,
    HoldButtons,
    breaker_buttons,
    confirm_buttons,
    hold_buttons,
)
from chat.replies import answer, answer_tap, edit_buttons
from chat.updates import clean, user_of
from ledger import breaker, transitions
from ledger.models import Video
from ledger.transitions import HoldNotResolved, JobTaken, Resolution
from telemetry.logs import get_logger

log = get_logger(__name__)


def build_router() -> Router:
    """Return a router of its own for each dispatcher."""
    router = Router(name="operators")
    router.message.register(resolve, Command("resolve", ignore_case=True))
    router.message.register(breakers, Command("breaker", ignore_case=True))
    for mark, handler in (
        (HOW_PAID, how_paid),
        (UNPAID, unpaid),
        (REALLY, really),
        (KEEP, keep),
        (CLOSE, close),
    ):
        router.callback_query.register(handler, F.data.startswith(mark))
    return router


async def resolve(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """`/resolve #id paid JOB_ID | unpaid | gone JOB_ID`, then a reason in the operator's own words."""
    who = _operator_name(ctx, message)
    words = clean(command.args or "").split()
    if who is None:
        await answer(message, t("operators_only"))
    elif len(words) < 2:
        await answer(message, t("resolve_usage"))
    else:
        try:
            resolution = _parse_resolution(words[1].lower(), words[2:])
            video = await transitions.find_hold(ctx.ledger, words[0])
            moved = await _resolve_hold(ctx, video, resolution, who)
        except (HoldNotResolved, JobTaken) as error:
            await answer(message, t("resolve_not", why=error))
        else:
            await answer(message, _resolved_text(t, moved))


def _parse_resolution(outcome: str, rest: list[str]) -> Resolution:
    """Read `paid JOB why…`, `gone JOB why…` (where `-` is no job) and `unpaid why…`."""
    takes_job = outcome in ("paid", "gone")
    job_id = rest.pop(0) if takes_job and rest else ""
    return transitions.parse_resolution(outcome, "" if job_id == "-" else job_id, " ".join(rest))


async def _resolve_hold(
    ctx: ChatContext, video: Video, resolution: Resolution, who: str, seen_at: int | None = None
) -> Video:
    moved = await transitions.resolve_hold(ctx.ledger, video.request_id, resolution, who, seen_at)
    log.warning("settled by a person", request=video.request_id, to=moved.state, who=who)
    await ctx.worker.apply_effects(moved)
    return moved


def _resolved_text(t: Translator, moved: Video) -> str:
    return t("resolve_done", id=moved.short_id, state=t(f"state_{moved.state}"))


async def how_paid(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """A button cannot ask for a job id: it says what to send."""
    short_id, _, _ = _parse_data(query, HOW_PAID)
    allowed = _operator_name(ctx, query) is not None
    await answer_tap(query, t("tap_how_paid", id=short_id) if allowed else t("tap_operators"), alert=True)


async def unpaid(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Ask once more before money is given back."""
    await _swap_buttons(query, ctx, t, UNPAID, confirm_buttons)


async def keep(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    await _swap_buttons(query, ctx, t, KEEP, hold_buttons)


async def really(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Settle the HOLD that the button belongs to as unpaid."""
    who = _operator_name(ctx, query)
    if who is None:
        await answer_tap(query, t("tap_operators"))
        return
    short_id, seen_at, _ = _parse_data(query, REALLY)
    try:
        video = await transitions.find_hold(ctx.ledger, short_id)
        moved = await _resolve_hold(ctx, video, Resolution("unpaid", why="by button"), who, seen_at)
    except (HoldNotResolved, JobTaken):
        await answer_tap(query, t("tap_settled"))
    else:
        await answer_tap(query, _resolved_text(t, moved))
    await edit_buttons(query, None)


async def breakers(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """`/breaker` shows what is open, `/breaker close SCOPE` closes it."""
    who = _operator_name(ctx, message)
    words = clean(command.args or "").split()
    if who is None:
        await answer(message, t("operators_only"))
    elif not words:
        opened = await breaker.open_breakers(ctx.ledger)
        for one in opened:
            words_of_it = t("breaker_open", scope=one.scope, why=one.why)
            await answer(message, words_of_it, breaker_buttons(t, one))
        if not opened:
            await answer(message, t("breaker_none"))
    elif len(words) == 2 and words[0].lower() == "close":
        closed = await _close(ctx, words[1].lower(), who, None)
        name = "breaker_closed" if closed else "breaker_not"
        await answer(message, t(name, scope=words[1].lower()))
    else:
        await answer(message, t("breaker_usage"))


async def close(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Close the opening that the button belongs to."""
    who = _operator_name(ctx, query)
    if who is None:
        await answer_tap(query, t("tap_operators"))
        return
    _, opened_at, scope = _parse_data(query, CLOSE)
    closed = await _close(ctx, scope, who, opened_at)
    await answer_tap(query, t("breaker_closed", scope=scope) if closed else t("tap_settled"))
    await edit_buttons(query, None)


async def _close(ctx: ChatContext, scope: str, who: str, opened_at: int | None) -> bool:
    closed = await breaker.close(ctx.ledger, scope, who, opened_at)
    if closed:
        log.warning("breaker closed by a person", scope=scope, who=who)
        await ctx.worker.breaker_closed()
    return closed


async def _swap_buttons(
    query: CallbackQuery, ctx: ChatContext, t: Translator, mark: str, buttons: HoldButtons
) -> None:
    if _operator_name(ctx, query) is None:
        await answer_tap(query, t("tap_operators"))
        return
    short_id, seen_at, _ = _parse_data(query, mark)
    await answer_tap(query, "")
    await edit_buttons(query, buttons(t, short_id, seen_at))


def _operator_name(ctx: ChatContext, event: Message | CallbackQuery) -> str | None:
    """Return who acts, for the books; None if this is no configured admin, or a command of somebody else."""
    if isinstance(event, CallbackQuery):
        user = event.from_user
    else:
        found = user_of(event) if event.forward_origin is None else None
        if found is None:
            return None
        user = found
    return f"admin:{user.id}" if user.id in ctx.admins else None


def _parse_data(query: CallbackQuery, mark: str) -> tuple[str, int, str]:
    """Take a button's data apart: what it names, the time it was drawn for, and (of a breaker) its scope."""
    name, _, rest = (query.data or "").removeprefix(mark).partition(":")
    at, _, scope = rest.partition(":")
    return name, int(at) if at.isdigit() else -1, scope
