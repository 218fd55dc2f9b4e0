"""/resolve, /correct, /breaker and their buttons, for admins only; everyone else gets a refusal.

Each button names the HOLD or the breaker opening by its time, so that an old button or a redelivered tap does
not change a later one.
"""

from aiogram import F, Router
from aiogram.filters import Command, CommandObject
from aiogram.types import CallbackQuery, Message

from chat.context import ChatContext
from chat.i18n import Translator
from chat.keyboards import (
    BACK,
    CLOSE_BREAKER,
    CONFIRM_UNPAID,
    PAID_HELP,
    UNPAID,
    HoldButtons,
    breaker_buttons,
    confirm_buttons,
    hold_buttons,
)
from chat.replies import answer, answer_tap, edit_buttons
from chat.updates import clean, request_id_of, user_of
from ledger import breaker, corrections, transitions
from ledger.breaker import UnknownScope
from ledger.corrections import NO_JOB, Corrected, Correction, NotCorrected, parse_correction
from ledger.models import Video
from ledger.transitions import HoldNotResolved, JobTaken, Resolution
from telemetry.logs import get_logger

log = get_logger(__name__)


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="operators")
    router.message.register(resolve, Command("resolve", ignore_case=True))
    router.message.register(correct, Command("correct", ignore_case=True))
    router.message.register(breakers, Command("breaker", ignore_case=True))
    for prefix, handler in (
        (PAID_HELP, paid_help),
        (UNPAID, unpaid),
        (CONFIRM_UNPAID, confirm_unpaid),
        (BACK, back),
        (CLOSE_BREAKER, close_breaker),
    ):
        router.callback_query.register(handler, F.data.startswith(prefix))
    return router


async def resolve(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """`/resolve #id paid JOB_ID | unpaid | gone JOB_ID`, then an optional reason."""
    who = operator_name(ctx, message)
    args = clean(command.args or "").split()
    if who is None:
        await answer(message, t("operators_only"))
    elif len(args) < 2:
        await answer(message, t("resolve_usage"))
    else:
        try:
            resolution = _parse_resolution(args[1].lower(), args[2:])
            video = await transitions.find_hold(ctx.ledger, args[0])
            await ctx.worker.check_job(video, resolution)
            moved = await _resolve_hold(ctx, video, resolution, who)
        except (HoldNotResolved, JobTaken) as error:
            await answer(message, t("resolve_not", why=error))
        else:
            await answer(message, _resolved_text(t, moved))


def _parse_resolution(outcome: str, rest: list[str]) -> Resolution:
    """Parse `paid JOB why…`, `gone JOB why…` (`-` means no job) and `unpaid why…`."""
    takes_job = outcome in ("paid", "gone")
    job_id = rest.pop(0) if takes_job and rest else ""
    return transitions.parse_resolution(outcome, "" if job_id == "-" else job_id, " ".join(rest))


async def _resolve_hold(
    ctx: ChatContext, video: Video, resolution: Resolution, who: str, seen_at: int | None = None
) -> Video:
    moved = await transitions.resolve_hold(ctx.ledger, video.request_id, resolution, who, seen_at)
    log.warning("hold resolved by operator", request=video.request_id, to=moved.state, who=who)
    await ctx.worker.apply_effects(moved)
    return moved


def _resolved_text(t: Translator, moved: Video) -> str:
    return t("resolve_done", id=moved.short_id, state=t(f"state_{moved.state}"))


async def correct(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """`/correct #id refund|charge AMOUNT JOB why` or `/correct #id end paid|gone JOB why | unpaid why`."""
    who = operator_name(ctx, message)
    args = clean(command.args or "").split()
    if who is None:
        await answer(message, t("operators_only"))
    elif len(args) < 4:
        await answer(message, t("correct_usage"))
    else:
        try:
            done = await _correct(ctx, args, who, f"chat:{request_id_of(message, ctx.bot.id)}")
        except (NotCorrected, HoldNotResolved, JobTaken) as error:
            await answer(message, t("resolve_not", why=error))
        else:
            if done is None or not done.new:
                await answer(message, t("correct_again"))
            else:
                await answer(message, t("correct_done", what=done.plan.sentence))


async def _correct(ctx: ChatContext, args: list[str], who: str, source: str) -> Corrected | None:
    """Make the correction; None if this message has made it before, which changes the figures it names."""
    if await corrections.is_done(ctx.ledger, source):
        return None
    wanted = _parse_correction(args[1].lower(), args[2:])
    video = await corrections.find_order(ctx.ledger, args[0])
    if wanted.end == "paid":
        await ctx.worker.check_job(video, Resolution("paid", wanted.job_id))
    planned = await corrections.plan(ctx.ledger, video.request_id, wanted)
    done = await corrections.correct(ctx.ledger, planned, who, source)
    if done.new:
        log.warning("ledger corrected by operator", request=video.request_id, kind=wanted.kind, who=who)
        await ctx.worker.apply_correction(done)
    return done


def _parse_correction(kind: str, rest: list[str]) -> Correction:
    """Parse AMOUNT and JOB, or the end and JOB, then the reason; `-` is the order's own job, or unknown."""
    if kind != "end":
        amount, job_id, *why = rest if len(rest) > 1 else [*rest, ""]
        job_id = "" if job_id == NO_JOB else job_id
        return parse_correction(kind, "" if amount.lower() == "all" else amount, job_id, why=" ".join(why))
    end, *why = rest
    job_id = why.pop(0) if end.lower() in ("paid", "gone") and why else ""
    return parse_correction(kind, "", job_id, end.lower(), " ".join(why))


async def paid_help(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Show which command to send: a button cannot ask for a job id."""
    short_id, _, _ = _parse_data(query, PAID_HELP)
    allowed = operator_name(ctx, query) is not None
    await answer_tap(query, t("tap_how_paid", id=short_id) if allowed else t("tap_operators"), alert=True)


async def unpaid(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Ask for confirmation before the hold is released."""
    await _swap_buttons(query, ctx, t, UNPAID, confirm_buttons)


async def back(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    await _swap_buttons(query, ctx, t, BACK, hold_buttons)


async def confirm_unpaid(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Resolve the HOLD of this button as unpaid."""
    who = operator_name(ctx, query)
    if who is None:
        await answer_tap(query, t("tap_operators"))
        return
    short_id, seen_at, _ = _parse_data(query, CONFIRM_UNPAID)
    try:
        video = await transitions.find_hold(ctx.ledger, short_id)
        moved = await _resolve_hold(ctx, video, Resolution("unpaid", why="by button"), who, seen_at)
    except (HoldNotResolved, JobTaken):
        await answer_tap(query, t("tap_settled"))
    else:
        await answer_tap(query, _resolved_text(t, moved))
    await edit_buttons(query, None)


async def breakers(message: Message, command: CommandObject, ctx: ChatContext, t: Translator) -> None:
    """`/breaker` lists what is open; `/breaker open SCOPE why…`, `/breaker close SCOPE`."""
    who = operator_name(ctx, message)
    args = clean(command.args or "").split()
    if who is None:
        await answer(message, t("operators_only"))
    elif not args:
        opened = await breaker.open_breakers(ctx.ledger)
        for found in opened:
            text = t("breaker_open", scope=found.scope, why=found.why)
            await answer(message, text, breaker_buttons(t, found))
        if not opened:
            await answer(message, t("breaker_none"))
    elif len(args) == 2 and args[0].lower() == "close":
        closed = await _close_breaker(ctx, args[1].lower(), who, None)
        name = "breaker_closed" if closed else "breaker_not"
        await answer(message, t(name, scope=args[1].lower()))
    elif len(args) > 2 and args[0].lower() == "open":
        await answer(message, await _open_breaker(ctx, t, args[1].lower(), who, " ".join(args[2:])))
    else:
        await answer(message, t("breaker_usage"))


async def _open_breaker(ctx: ChatContext, t: Translator, scope: str, who: str, why: str) -> str:
    try:
        opened = await breaker.open_scope(ctx.ledger, scope, who, why)
    except UnknownScope:
        return t("breaker_scope", scope=scope[:80])
    if not opened:
        return t("breaker_already", scope=scope)
    log.warning("breaker opened by operator", scope=scope, who=who)
    await ctx.worker.breaker_opened()
    return t("breaker_opened", scope=scope)


async def close_breaker(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Close the breaker opening of this button."""
    who = operator_name(ctx, query)
    if who is None:
        await answer_tap(query, t("tap_operators"))
        return
    _, opened_at, scope = _parse_data(query, CLOSE_BREAKER)
    closed = await _close_breaker(ctx, scope, who, opened_at)
    await answer_tap(query, t("breaker_closed", scope=scope) if closed else t("tap_settled"))
    await edit_buttons(query, None)


async def _close_breaker(ctx: ChatContext, scope: str, who: str, opened_at: int | None) -> bool:
    closed = await breaker.close(ctx.ledger, scope, who, opened_at)
    if closed:
        log.warning("breaker closed by operator", scope=scope, who=who)
        await ctx.worker.breaker_closed()
    return closed


async def _swap_buttons(
    query: CallbackQuery, ctx: ChatContext, t: Translator, prefix: str, buttons: HoldButtons
) -> None:
    if operator_name(ctx, query) is None:
        await answer_tap(query, t("tap_operators"))
        return
    short_id, seen_at, _ = _parse_data(query, prefix)
    await answer_tap(query, "")
    await edit_buttons(query, buttons(t, short_id, seen_at))


def operator_name(ctx: ChatContext, event: Message | CallbackQuery) -> str | None:
    """Return the operator's name for the ledger; None if not an admin, or if the command was forwarded."""
    if isinstance(event, CallbackQuery):
        user = event.from_user
    else:
        found = user_of(event) if event.forward_origin is None else None
        if found is None:
            return None
        user = found
    return f"admin:{user.id}" if user.id in ctx.admins else None


def _parse_data(query: CallbackQuery, prefix: str) -> tuple[str, int, str]:
    """Parse callback data into name, time and (for a breaker) scope."""
    name, _, rest = (query.data or "").removeprefix(prefix).partition(":")
    at, _, scope = rest.partition(":")
    return name, int(at) if at.isdigit() else -1, scope
