"""Options under an offer: length, shape, sound and style, each a tap.

A button names the request and one value; what that may be, and what it costs, is decided from the ledger and
the price list. Nothing is ordered here.
"""

from functools import partial
from typing import Final, cast, get_args

from aiogram import F, Router
from aiogram.types import CallbackQuery

from chat.context import ChatContext
from chat.i18n import Translator
from chat.keyboards import OPTION
from chat.option_buttons import SHOW
from chat.replies import answer_tap
from ledger import options, requests
from ledger.models import Video
from ledger.options import Choice, Option, Wanted
from telemetry.logs import get_logger
from tools.offer import APPROVAL_TIMEOUT_S
from tools.options import wanted

log = get_logger(__name__)

_ANSWERS: Final = {
    "same": "tap_done", "gone": "tap_gone", "not_yours": "tap_not_yours", "not_offered": "tap_not_offered",
}  # fmt: skip


def build_router() -> Router:
    """Return a new router: aiogram allows a router one parent."""
    router = Router(name="options")
    router.callback_query.register(choose, F.data.startswith(OPTION))
    return router


async def choose(query: CallbackQuery, ctx: ChatContext, t: Translator) -> None:
    """Show the options, or change the offer to what was tapped; its new [Make it] shows the price."""
    short_id, _, rest = (query.data or "").removeprefix(OPTION).partition(":")
    option, _, value = rest.partition(":")
    request = await requests.find_named(ctx.ledger, short_id, query.from_user.id)
    if request is None:
        await answer_tap(query, t("tap_not_yours"))
        return
    choice = await _change(ctx, request.request_id, query.from_user.id, option, value)
    log.info("option tapped", request=request.request_id, option=option, outcome=choice.outcome)
    if choice.outcome == "chosen":
        await ctx.queue.wake("notify", request.request_id)
    text, alert = _answer(t, choice, option)
    await answer_tap(query, text, alert=alert)


async def _change(ctx: ChatContext, request_id: str, user_id: int, option: str, value: str) -> Choice:
    if option == SHOW:
        return await options.show(ctx.ledger, request_id, user_id, shown=value == "1")
    if option not in get_args(Option):
        return Choice("not_offered")
    known = cast("Option", option)
    change = partial(_wanted, ctx, known, value)
    return await options.choose(
        ctx.ledger, request_id, user_id, known, change, ctx.limits, valid_s=APPROVAL_TIMEOUT_S
    )


def _wanted(ctx: ChatContext, option: Option, value: str, video: Video) -> Wanted | None:
    return wanted(ctx.offer, video, option, value)


def _answer(t: Translator, choice: Choice, option: str) -> tuple[str, bool]:
    """Return what the tap is answered with, and whether it must be read."""
    if choice.outcome != "chosen":
        return t(_ANSWERS[choice.outcome]), choice.outcome == "not_offered"
    if option == SHOW or choice.video is None:
        return t("tap_done"), False
    if choice.denied is not None and choice.denied.verdict == "budget":
        return t("tap_costs_more", price=choice.video.quote), True
    return t("tap_chosen", price=choice.video.quote), False
