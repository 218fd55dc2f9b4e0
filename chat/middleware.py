"""Access control, outage replies, tracing of updates and Bot API calls."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiogram import BaseMiddleware, Bot
from aiogram.client.session.middlewares.base import BaseRequestMiddleware, NextRequestMiddlewareType
from aiogram.exceptions import TelegramBadRequest
from aiogram.methods import Response, TelegramMethod
from aiogram.methods.base import TelegramType
from aiogram.types import CallbackQuery, Message, TelegramObject, Update, User
from opentelemetry import trace
from opentelemetry.trace import Span, SpanContext, SpanKind
from sqlalchemy.exc import SQLAlchemyError

from chat.context import ChatContext
from chat.i18n import Translator, translator
from chat.keyboards import offer_nonce
from chat.polling import LEDGER_UNAVAILABLE
from chat.replies import answer, answer_tap
from chat.updates import NOT_MODIFIED, request_id_of
from ledger import notifications, pending_work, requests, transitions
from ledger.database import Ledger
from ledger.models import Request
from telemetry import semconv, tracing
from telemetry.metrics import DELIVERIES, REDELIVERIES

NextHandler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]

_POSTPONED_AFTER_S: Final = 86_400
"""What is put off for longer than this is parked; for less, Telegram or the network asked to wait."""

_OUTAGE_NOTICE_S: Final = 600
"""An outage is told to one person once in this time, however often their updates come again."""

_QUIET: Final = frozenset({"getUpdates", "editMessageText", "getMe"})
"""Calls that come again and again, and say nothing that the ledger's states do not say."""

_DELIVERS: Final = {"sendVideo": "send", "editMessageMedia": "edit"}


class AccessMiddleware(BaseMiddleware):
    """Turns strangers away in words, hands the user's language on, and takes up parked deliveries."""

    def __init__(self, ctx: ChatContext) -> None:
        self._desk = ctx

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        user: User | None = data.get("event_from_user")
        t = translator((user.language_code if user else None) or "en")
        if user is not None and not self._desk.may_use(user.id):
            await self._refuse(event, user, t("not_allowed", user_id=user.id))
            return None
        try:
            if user is not None:
                await self._resume_postponed(user.id)
            return await handler(event, {**data, "ctx": self._desk, "t": t})
        except LEDGER_UNAVAILABLE:
            await self._reply_unavailable(event, user, t)
            raise  # the update was not handled: it comes again

    async def _reply_unavailable(self, event: TelegramObject, user: User | None, t: Translator) -> None:
        """What a person asked for waits until the ledger is back; they hear so once, not at every try."""
        if isinstance(event, CallbackQuery):
            if self._desk.throttle.allow("away", event.id, seconds=_OUTAGE_NOTICE_S):
                await answer_tap(event, t("tap_away"), alert=True)
        elif isinstance(event, Message) and user is not None and _is_addressed(event):
            what = ("away", event.chat.id, user.id)
            if self._desk.throttle.allow(*what, seconds=_OUTAGE_NOTICE_S) and not await answer(
                event, t("away")
            ):
                self._desk.throttle.reset(*what)

    async def _resume_postponed(self, user_id: int) -> None:
        """A user who had blocked the bot is back: what was put off for them is told now."""
        ledger = self._desk.ledger
        for request_id in await pending_work.postponed(ledger, user_id):
            request = await requests.find(ledger, request_id)
            async with ledger.read() as conn:
                late = await ledger.now(conn) + _POSTPONED_AFTER_S * 1000
            if request is not None and request.told_after > late:
                await notifications.postpone_notification(ledger, request_id, 0)
                await self._desk.queue.wake("notify", request_id)

    async def _refuse(self, event: TelegramObject, user: User, words: str) -> None:
        """In words, but not for every message; and in a group only if the bot was clearly meant."""
        if isinstance(event, CallbackQuery):
            await answer_tap(event, words)
        elif (
            isinstance(event, Message)
            and _is_addressed(event)
            and self._desk.throttle.allow("stranger", event.chat.id, user.id)
        ):
            await answer(event, words)


def _is_addressed(message: Message) -> bool:
    """Say whether the bot was clearly meant: everything in private, a command of ours in a group."""
    return message.chat.type == "private" or (message.text or "").lower().startswith("/create")


class UpdateTraces(BaseMiddleware):
    """Begins a trace with each update; a command that comes again goes on in the first one's trace, and a tap
    that decides about an offer in that of its request.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        word = update_kind(event)
        before = await self._before(event, word, data["bot"]) if isinstance(event, Update) else None
        span = tracing.begin_span(f"telegram {word}", before, kind=SpanKind.SERVER)
        if before is not None and word == "/create":
            span.set_attribute(semconv.REDELIVERED, value=True)
            REDELIVERIES.add(kind="update")
        with tracing.span_scope(span):
            return await handler(event, data)

    async def _before(self, update: Update, word: str, bot: Bot) -> SpanContext | None:
        """Return where its request was first received; a ledger that is away fails the handler, not this."""
        try:
            request = await self._request(update, word, bot)
        except (SQLAlchemyError, OSError):
            return None
        return None if request is None else tracing.parse_traceparent(request.traceparent)

    async def _request(self, update: Update, word: str, bot: Bot) -> Request | None:
        if word == "/create" and update.message is not None:
            return await requests.find(self._ledger, request_id_of(update.message, bot.id))
        tap = offer_nonce(update.callback_query.data) if update.callback_query is not None else None
        video = await transitions.find_by_nonce(self._ledger, tap) if tap else None
        return None if video is None else await requests.find(self._ledger, video.request_id)


def update_kind(event: TelegramObject) -> str:
    """Return what an update is, as one of few words: `/create`, `message`, `callback`, `other`."""
    if not isinstance(event, Update):
        return "other"
    if event.callback_query is not None:
        return "callback"
    if event.message is None:
        return "other"
    first = ((event.message.text or event.message.caption or "").split(maxsplit=1) or [""])[0]
    command = first.partition("@")[0].lower()
    return command if command.startswith("/") and command[1:] in semconv.COMMANDS else "message"


class CallTraces(BaseRequestMiddleware):
    """Traces the calls of the Bot API that a request leads to: the method and how it ended, nothing else."""

    async def __call__(
        self,
        make_request: NextRequestMiddlewareType[TelegramType],
        bot: Bot,
        method: TelegramMethod[TelegramType],
    ) -> Response[TelegramType]:
        name = method.__api_method__
        if name in _QUIET or not trace.get_current_span().get_span_context().is_valid:
            return await make_request(bot, method)
        span = tracing.TRACER.start_span(f"telegram {name}", kind=SpanKind.CLIENT)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            outcome = "failed"
            try:
                answer = await make_request(bot, method)
                outcome = "ok"
            except TelegramBadRequest as error:
                outcome = "ok" if NOT_MODIFIED in error.message else "refused"
                raise
            finally:
                _note(name, span, outcome)
        return answer


def _note(name: str, span: Span, outcome: str) -> None:
    if outcome != "ok":
        tracing.mark_failed(span, outcome)
    if name in _DELIVERS:
        DELIVERIES.add(way=_DELIVERS[name], outcome=outcome)
