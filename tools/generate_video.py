"""Tool `generate_video`: writes the order, or an offer of it. It pays nothing; the worker pays for orders."""

from dataclasses import replace
from typing import Annotated, Any, Final

from agents import FunctionTool, RunContextWrapper
from agents.decorators import tool
from pydantic import BaseModel, ConfigDict, Field

from guardrails.admission import Decision
from guardrails.arguments import ArgumentInteger, ArgumentText, check_arguments
from guardrails.guard import GuardSpec, record_duplicate, trace_body_decision
from guardrails.limits import LimitExceeded
from guardrails.money import Money
from guardrails.policy import GuardPolicy, limits_of
from guardrails.refusals import NOTHING_PAID, STOP, explain
from ledger import history, offers, orders, requests
from ledger.database import Ledger
from ledger.models import Credit, Video, VideoState
from ledger.offers import new_nonce
from ledger.orders import Order, Placed
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from tools.context import RunContext
from tools.offer import APPROVAL_TIMEOUT_S, ORDER_TIMEOUT_S, Offer
from tools.registry import GENERATE_VIDEO
from tools.styles import with_style

log = get_logger(__name__)

NAME: Final = GENERATE_VIDEO
AVOID_CHARACTERS: Final = 500
_ARGUMENT_NAMES: Final = ("prompt", "seconds", "size")


class VideoArguments(BaseModel):
    """Arguments of one call; further arguments are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    prompt: Annotated[ArgumentText, Field(max_length=4000)]
    seconds: ArgumentInteger
    size: Annotated[str, Field(max_length=20)]
    avoid: Annotated[str, Field(max_length=AVOID_CHARACTERS)] = ""


class SettledArguments(VideoArguments):
    """What a call is made with: see `tools.preferences`."""

    sound: bool | None = None
    style: str | None = None


async def settled(run: RunContext, one: VideoArguments) -> SettledArguments:
    """Return what a call is made with, see `tools.preferences`; the guard and the body act on the same."""
    best = await run.preferences(one.seconds, one.size)
    avoid = one.avoid.replace("\0", "").strip() if run.offer.capabilities.avoids else ""
    return SettledArguments(
        prompt=one.prompt,
        seconds=best.seconds,
        size=best.size,
        avoid=avoid,
        sound=best.sound,
        style=best.style,
    )


def _price(offer: Offer, one: SettledArguments) -> Money:
    return offer.price(one.seconds, one.size, sound=one.sound is not False)


def guard_spec(policy: GuardPolicy, offer: Offer) -> GuardSpec:
    """Return the guard's spec of this tool."""

    async def asks(run: RunContext, one: SettledArguments) -> bool:
        return await run.asks(_price(offer, one))

    return GuardSpec(
        tool=NAME,
        arguments=VideoArguments,
        limits=limits_of(policy),
        price=lambda one: _price(offer, one),
        text=None if policy.content is None else lambda one: f"{one.prompt}\n{one.avoid}".rstrip(),
        asks=asks,
        settle=settled,
    )


def fitted(offer: Offer) -> FunctionTool:
    """Return the tool as the model is shown it: with `avoid` only where the provider takes that."""
    schema, takes = generate_video.params_json_schema, offer.capabilities.avoids
    properties = {
        name: {key: value for key, value in one.items() if key != "default"}  # strict schemas know none
        for name, one in schema["properties"].items()
        if name != "avoid" or takes
    }
    return replace(
        generate_video, params_json_schema=schema | {"properties": properties, "required": [*properties]}
    )


async def recorded(ledger: Ledger, request_id: str) -> str | None:
    """Return this request's one order, worded for the model; None if it is not written yet."""
    found = await requests.find_with_video(ledger, request_id)
    return None if found is None or found[1] is None else describe(found[1])


def describe(video: Video) -> str:
    """Return the state of an order, worded for the model. It never contains text of a provider."""
    what = f"One video of {video.seconds} s ({video.size}) for {video.quote}"
    if video.state is VideoState.AWAITING_APPROVAL:
        return f"{what} waits for the user's tap on [Make it]. There is nothing to repeat; {STOP}"
    if video.state is VideoState.DELIVERED:
        return f"{what} was ordered for this request and has been delivered. There is nothing to repeat."
    if video.state in (VideoState.FAILED_UNPAID, VideoState.CANCELLED, VideoState.EXPIRED):
        return f"This request's one order has ended without a video and was not charged. {STOP}"
    if video.state is VideoState.FAILED_PAID:
        return f"This request's one order was charged and failed. {STOP}"
    return (
        f"{what} is ordered. It is being made, is not finished, and will arrive in this chat by itself. "
        "There is nothing to check and nothing to repeat."
    )


def _failed(context: RunContextWrapper[Any], error: Exception) -> str:
    """Answer a failed call. The SDK's own text would invite the model to try again."""
    run: RunContext = context.context
    log.error("order failed", tool=NAME, request=run.request_id, error=type(error).__name__)
    run.refusals.append(Decision("closed", "ledger", why=type(error).__name__))
    # Not "nothing was made": a commit whose answer was lost may have succeeded, and then the video is made.
    return f"The ledger did not answer. The request is kept and continues by itself. {STOP}"


@tool(failure_error_function=_failed)
async def generate_video(
    context: RunContextWrapper[RunContext], prompt: str, seconds: int, size: str, avoid: str = ""
) -> str:
    """Order the one video of this request. It is made by others and arrives in the chat by itself.

    Args:
        prompt: What is to be seen and heard, at most 4000 characters.
        seconds: Length of the video in whole seconds, one of the lengths on offer.
        size: Width x height in pixels, one of the sizes on offer.
        avoid: What must not be seen, in the person's words; empty unless the person named something.
    """
    run = context.context
    given = {"prompt": prompt, "seconds": seconds, "size": size, "avoid": avoid}
    try:
        wanted = await settled(run, check_arguments(given, VideoArguments))
        price = _price(run.offer, wanted)
    except ValueError as error:
        return f"The arguments cannot be used: {error}. {NOTHING_PAID} Correct them in one new call."
    log.info("executing", tool=NAME, request=run.request_id, layer="body", arguments=list(_ARGUMENT_NAMES))
    order = _order(run, wanted, price, asks=await run.asks(price))
    result = await orders.place(run.ledger, order, run.limits)
    if isinstance(result, LimitExceeded):
        return await _denied(run, result)
    return await _placed(run, result)


def _order(run: RunContext, wanted: SettledArguments, price: Money, *, asks: bool) -> Order:
    prompt, sentence = with_style(wanted.prompt, wanted.style)
    return Order(
        run.request_id, run.offer.provider, run.offer.model,
        prompt, wanted.seconds, wanted.size, price,
        style=wanted.style, style_prompt=sentence, sound=wanted.sound, avoid=wanted.avoid or None,
        account=run.offer.account,
        approval_nonce=new_nonce() if asks else None,
        valid_s=APPROVAL_TIMEOUT_S if asks else ORDER_TIMEOUT_S,
        credit_nonce=new_nonce(),
        offer_valid_s=APPROVAL_TIMEOUT_S,
    )  # fmt: skip


async def _denied(run: RunContext, denied: LimitExceeded) -> str:
    """Refuse an order that the recount in SQL denies after admission; release its reservation."""
    decision = _decision_of(run, denied)
    run.refusals.append(decision)
    layer = decision.layer
    trace_body_decision(run, NAME, decision, denied.verdict)
    log.warning("order refused", tool=NAME, request=run.request_id, verdict=denied.verdict, layer=layer)
    await history.record_refused_call(
        run.ledger, run.request_id, NAME, denied.verdict, layer, _ARGUMENT_NAMES
    )
    await run.admission.release(NAME, run.request_id, run.user_id, "all")
    return explain(decision)


def _decision_of(run: RunContext, denied: LimitExceeded) -> Decision:
    if denied.verdict == "content":
        return Decision("content", "content", why=run.content_refusals.get(NAME, "other"))
    return Decision(denied.verdict, "ledger", denied.until, denied.used, denied.limit, at=denied.at)


async def _placed(run: RunContext, placed: Placed) -> str:
    run.keep_order(placed.video)
    if placed.created:
        await failpoint("ordered")
        if placed.video.state is VideoState.AWAITING_APPROVAL:
            # Where the guard counted it as an order, it became an offer of a credit: that counts nothing.
            if placed.video.credit == Credit.OFFERED:
                await run.admission.release(NAME, run.request_id, run.user_id, "offer", placed.video.version)
            # A newer command may have come meanwhile.
            run.keep_order(await offers.withdraw_superseded(run.ledger, run.request_id) or placed.video)
        if placed.is_due:
            await run.enqueue("submit", run.request_id)
    else:
        log.warning(
            "DUPLICATE CALL PREVENTED",
            tool=NAME,
            request=run.request_id,
            layer="ledger",
            arguments=list(_ARGUMENT_NAMES),
        )
        trace_body_decision(run, NAME, Decision("replay", "ledger"), "replay")
        record_duplicate(run, NAME, "ledger", recorded=True)
        await history.record_refused_call(
            run.ledger, run.request_id, NAME, "replay", "ledger", _ARGUMENT_NAMES
        )
        log.info("replayed", tool=NAME, request=run.request_id, recorded=True)
    return describe(run.order or placed.video)
