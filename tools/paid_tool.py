"""What a paid tool is, and the one way in which any of them orders.

A module of `tools/` describes its tool in a `PaidTool`; guard, limits, ledger, worker and chat take from
there what differs. The tool's function does nothing but hand its arguments to `PaidTool.call`: it orders, or
gets the recorded order back, and pays nothing.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from agents import RunContextWrapper
from pydantic import BaseModel

from guardrails.admission import Decision
from guardrails.arguments import check_arguments
from guardrails.guard import GuardSpec, record_duplicate, trace_body_decision
from guardrails.limits import LimitExceeded
from guardrails.money import Money
from guardrails.policy import GuardPolicy, limits_of
from guardrails.refusals import NOTHING_PAID, STOP, explain
from ledger import history, offers, orders, requests
from ledger.database import Ledger
from ledger.models import Credit, OrderKind, Video, VideoState, order_id, provider_key
from ledger.offers import new_nonce
from ledger.orders import Order, Placed
from telemetry.failpoints import failpoint
from telemetry.logs import get_logger
from telemetry.tracing import request_traceparent
from tools.context import RunContext
from tools.offer import APPROVAL_TIMEOUT_S, ORDER_TIMEOUT_S, Offer
from tools.registry import GENERATE_VIDEO

log = get_logger(__name__)

_NOT_MADE: Final = (VideoState.FAILED_UNPAID, VideoState.CANCELLED, VideoState.EXPIRED)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is ordered, in the provider's terms: see `ledger.orders.Order`."""

    prompt: str
    size: str
    seconds: int = 0
    sound: bool | None = None
    style: str | None = None
    style_prompt: str | None = None
    avoid: str | None = None


@dataclass(frozen=True)
class PaidTool:
    """One paid tool.

    Attributes:
        name: Its name for the model; the module and its function have the same.
        makes: The kind of its orders: which provider makes them, and how they are delivered.
        arguments: The strict model of its arguments; other keys are ignored.
        wanted: Returns what arguments order, from settled ones. It must not depend on anything else.
        text: Returns what the content policy reads.
        noun: What one order makes, in words for the model: `One still of 1024x1024`.
        settle: Replaces the arguments by those that the call is made with; None: they are used as they came.
    """

    name: str
    makes: OrderKind
    arguments: type[BaseModel]
    wanted: Callable[[Any], Wanted]
    text: Callable[[Any], str]
    noun: Callable[[Video], str]
    settle: Callable[[RunContext, Any], Awaitable[Any]] | None = None

    def price(self, offer: Offer, settled: Any) -> Money:
        """Return the quote of one order.

        Raises:
            ValueError: It is not on offer; the message names what is.
        """
        wanted = self.wanted(settled)
        return offer.price(wanted.seconds, wanted.size, sound=wanted.sound is not False)

    def guard_spec(self, policy: GuardPolicy, offer: Offer) -> GuardSpec:
        """Return what the guard must know of this tool."""

        async def asks(run: RunContext, settled: Any) -> bool:
            return await run.asks(self.price(offer, settled), self.name)

        return GuardSpec(
            tool=self.name,
            arguments=self.arguments,
            limits=limits_of(policy),
            price=lambda one: self.price(offer, one),
            text=None if policy.content is None else self.text,
            decides=self.name == GENERATE_VIDEO,
            asks=asks,
            settle=self.settle,
        )

    async def recorded(self, ledger: Ledger, request_id: str) -> str | None:
        """Return this request's one order, worded for the model; None if it is not written yet."""
        found = await requests.find_with_video(ledger, order_id(request_id, self.name))
        return None if found is None or found[1] is None else self.describe(found[1])

    def describe(self, order: Video) -> str:
        """Return the state of an order, worded for the model. It never contains text of a provider."""
        what, thing = f"{self.noun(order)} for {order.quote}", _THINGS[self.makes]
        if order.state is VideoState.AWAITING_APPROVAL:
            return f"{what} waits for the user's tap on [Make it]. There is nothing to repeat; {STOP}"
        if order.state is VideoState.DELIVERED:
            return f"{what} was ordered for this request and has been delivered. There is nothing to repeat."
        if order.state in _NOT_MADE:
            return f"This request's one order has ended without a {thing} and was not charged. {STOP}"
        if order.state is VideoState.FAILED_PAID:
            return f"This request's one order was charged and failed. {STOP}"
        return (
            f"{what} is ordered. It is being made, is not finished, and will arrive in this chat by itself. "
            "There is nothing to check and nothing to repeat."
        )

    def failed(self, context: RunContextWrapper[Any], error: Exception) -> str:
        """Answer a failed call. The SDK's own text would invite the model to try again."""
        run: RunContext = context.context
        log.error("order failed", tool=self.name, request=run.request_id, error=type(error).__name__)
        if self.name == GENERATE_VIDEO:
            run.refusals.append(Decision("closed", "ledger", why=type(error).__name__))
        # Not "nothing was made": a commit whose answer was lost may have succeeded, and then it is made.
        return f"The ledger did not answer. The request is kept and continues by itself. {STOP}"

    async def call(self, run: RunContext, given: Mapping[str, Any]) -> str:
        """Order what the arguments say, or get the recorded order back; return the answer for the model."""
        try:
            wanted: Any = check_arguments(dict(given), self.arguments)
            if self.settle is not None:
                wanted = await self.settle(run, wanted)
            price = self.price(run.offer_of(self.name), wanted)
        except ValueError as error:
            return f"The arguments cannot be used: {error}. {NOTHING_PAID} Correct them in one new call."
        log.info(
            "executing", tool=self.name, request=run.request_id, layer="body", arguments=self._argument_names
        )
        order = self.order(
            run.request_id, run.offer_of(self.name), wanted, price, asks=await run.asks(price, self.name)
        )
        result = await orders.place(run.ledger, order, run.limits_of(self.name))
        if isinstance(result, LimitExceeded):
            return await self._denied(run, result)
        return await self._placed(run, result)

    def order(self, request_id: str, offer: Offer, settled: Any, price: Money, *, asks: bool) -> Order:
        """Return the order of these settled arguments; with `asks` it is an offer that waits for a tap."""
        wanted = self.wanted(settled)
        own = None  # a video's order stands under the user's request, which has one
        if self.name != GENERATE_VIDEO:
            own = request_traceparent(provider_key(order_id(request_id, self.name)))
        return Order(
            request_id, offer.provider, offer.model, wanted.prompt, wanted.seconds, wanted.size, price,
            style=wanted.style, style_prompt=wanted.style_prompt, sound=wanted.sound, avoid=wanted.avoid,
            account=offer.account,
            approval_nonce=new_nonce() if asks else None,
            valid_s=APPROVAL_TIMEOUT_S if asks else ORDER_TIMEOUT_S,
            credit_nonce=new_nonce(),
            offer_valid_s=APPROVAL_TIMEOUT_S,
            tool=self.name,
            traceparent=own,
        )  # fmt: skip

    @property
    def _argument_names(self) -> list[str]:
        return [name for name, field in self.arguments.model_fields.items() if field.is_required()]

    async def _denied(self, run: RunContext, denied: LimitExceeded) -> str:
        """Refuse an order that the recount in SQL denies after admission; release its reservation."""
        decision = self._decision_of(run, denied)
        if self.name == GENERATE_VIDEO:  # what becomes of the request is decided by its video
            run.refusals.append(decision)
        layer = decision.layer
        trace_body_decision(run, self.name, decision, denied.verdict)
        log.warning(
            "order refused", tool=self.name, request=run.request_id, verdict=denied.verdict, layer=layer
        )
        await history.record_refused_call(
            run.ledger, run.request_id, self.name, denied.verdict, layer, self._argument_names
        )
        await run.admission.release(self.name, run.request_id, run.user_id, "all")
        return explain(decision)

    def _decision_of(self, run: RunContext, denied: LimitExceeded) -> Decision:
        if denied.verdict == "content":
            return Decision("content", "content", why=run.content_refusals.get(self.name, "other"))
        return Decision(denied.verdict, "ledger", denied.until, denied.used, denied.limit, at=denied.at)

    async def _placed(self, run: RunContext, placed: Placed) -> str:
        order = placed.video
        run.keep_order(order)
        if placed.created:
            await failpoint("ordered")
            if order.state is VideoState.AWAITING_APPROVAL:
                # Where the guard counted it as an order, it became an offer of a credit: that counts nothing.
                if order.credit == Credit.OFFERED:
                    await run.admission.release(
                        self.name, run.request_id, run.user_id, "offer", order.version
                    )
                # A newer command may have come meanwhile.
                order = await offers.withdraw_superseded(run.ledger, order.request_id) or order
                run.keep_order(order)
            if placed.is_due:
                await run.enqueue("submit", order.request_id)
        else:
            await self._replayed(run)
        return self.describe(order)

    async def _replayed(self, run: RunContext) -> None:
        names = self._argument_names
        log.warning(
            "DUPLICATE CALL PREVENTED",
            tool=self.name, request=run.request_id, layer="ledger", arguments=names,
        )  # fmt: skip
        trace_body_decision(run, self.name, Decision("replay", "ledger"), "replay")
        record_duplicate(run, self.name, "ledger", recorded=True)
        await history.record_refused_call(run.ledger, run.request_id, self.name, "replay", "ledger", names)
        log.info("replayed", tool=self.name, request=run.request_id, recorded=True)


_THINGS: Final[Mapping[OrderKind, str]] = {"video": "video", "image": "still"}
