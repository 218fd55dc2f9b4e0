"""Access control, outage replies, tracing of updates and Bot API calls."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from aiogram import BaseMiddleware, Bot
from aiogram.client.session.middlewares.base import BaseRequestMiddleware, NextRequestMiddlewareType
from aiogram.enums import ChatType
from aiogram.exceptions import (
    AiogramError,
    ClientDecodeError,
    RestartingTelegram,
    TelegramBadRequest,
    TelegramConflictError,
    TelegramEntityTooLarge,
    TelegramForbiddenError,
    TelegramMigrateToChat,
    TelegramNotFound,
    TelegramRetryAfter,
    TelegramServerError,
    TelegramUnauthorizedError,
)
from aiogram.methods import Response, TelegramMethod
from aiogram.methods.base import TelegramType
from aiogram.types import CallbackQuery, InlineQuery, Message, TelegramObject, Update, User
from opentelemetry import trace
from opentelemetry.trace import Span, SpanContext, SpanKind

from chat.access import INVITE_START, Standing
from chat.context import ChatContext
from chat.conversations import Conversations
from chat.i18n import Translator, translator
from chat.ideas import idea_in
from chat.keyboards import offer_nonce
from chat.message_checks import NextHandler, answer_without_account, within_free_limit
from chat.replies import TAP_CHARACTERS, answer, answer_tap, send_once
from chat.updates import NOT_MODIFIED, parse_sent_message, request_id_of, user_of
from ledger import members, notifications, offers, operator_alerts, pending_work, requests
from ledger.database import Ledger
from ledger.pending_work import Arrival
from telemetry import semconv, tracing
from telemetry.logs import get_logger
from telemetry.metrics import DELIVERIES, REDELIVERIES
from telemetry.redaction import user_tag
from tools.text import plain_text
from worker.outages import is_outage

log = get_logger(__name__)

_POSTPONED_AFTER_S: Final = 86_400
"""A longer postponement means that the user blocked the bot; a shorter one is a retry delay."""

_OUTAGE_NOTICE_S: Final = 600
"""One outage reply per message in this time, however often it is delivered."""

_REFUSED_AGAIN_S: Final = 10
"""Between two refusals of one person in a group."""

_BANNED_NOTICE_S: Final = 3600
"""A person who is banned is told so once in this time."""

_ALERTS_AGAIN_S: Final = 2
"""Between two questions of what an admin has missed."""

_ARRIVAL: Final = "arrival"
"""Name under which `UpdateTraces` leaves what it read to `AccessMiddleware`, so that it is read once."""

_UNTRACED_CALLS: Final = frozenset({"getUpdates", "editMessageText", "getMe"})
"""Frequent calls that show nothing beyond the states in the ledger."""

_DELIVERY_CALLS: Final = {"sendVideo": "send", "editMessageMedia": "edit"}


class AccessMiddleware(BaseMiddleware):
    """Refuses unauthorized users and gives handlers their `ctx` and `t`, by name.

    It also resumes notifications that were postponed because the user had blocked the bot. While the ledger
    is unavailable it replies so once and raises: the update was not handled and is delivered again.
    """

    def __init__(self, ctx: ChatContext) -> None:
        self._ctx = ctx

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        user: User | None = data.get("event_from_user")
        try:
            standing = None if user is None else await self._ctx.access.of(user.id)
            t = await self._translator(user)
            if user is not None and standing and not await self._lets_in(event, user, standing, t):
                return None
            if user is not None:
                await self._resume_postponed(user.id, data.get(_ARRIVAL))
                await self._resume_alerts(event, user)
            return await handler(event, {**data, "ctx": self._ctx, "t": t})
        except Exception as error:
            if is_outage(error):
                await self._reply_unavailable(event, user, await self._translator(user))
            raise  # the update was not handled and is delivered again

    async def _lets_in(self, event: TelegramObject, user: User, standing: Standing, t: Translator) -> bool:
        """Return whether this person may use the bot; else answer. An invitation that they open is used."""
        if isinstance(event, Message) and user_of(event) is None and event.chat.type != ChatType.PRIVATE:
            # Of an anonymous admin or a channel nobody is known, so a list of people decides nothing.
            if not self._ctx.access.is_open and _is_addressed(event):
                await answer_without_account(event, self._ctx.bot, t)
            return self._ctx.access.is_open
        if is_money(event):
            return True  # it was taken before, and is booked for banned people too
        if standing == "stranger" and (token := _invite_token(event)):
            outcome = await members.join(self._ctx.ledger, token, user.id)
            if outcome in ("joined", "already"):
                self._ctx.access.set(user.id, "member")
                log.info("invitation used", user=user_tag(user.id), outcome=outcome)
                return True
            await self._refuse(event, user, t, t("banned" if outcome == "banned" else f"invite_{outcome}"))
            return False
        if standing == "banned":
            await self._resume_postponed(user.id, None)  # what they paid for is theirs
            await self._refuse(event, user, t, t("banned"), every_s=_BANNED_NOTICE_S)
        elif standing == "stranger":
            name = "not_invited" if self._ctx.access.mode == "invite" else "not_allowed"
            await self._refuse(event, user, t, t(name, user_id=user.id))
        return standing == "allowed"

    async def _translator(self, user: User | None) -> Translator:
        """Return the texts in the language that a person has chosen, else in that of their Telegram."""
        if user is None:
            return translator("en")
        return translator(await self._ctx.languages.of(user.id) or user.language_code or "en")

    async def _reply_unavailable(self, event: TelegramObject, user: User | None, t: Translator) -> None:
        """Reply that the message waits for the ledger, once and not at every try."""
        if isinstance(event, CallbackQuery):
            if self._ctx.throttle.allow("outage", event.id, seconds=_OUTAGE_NOTICE_S):
                await answer_tap(event, t("tap_away"), alert=True)
        elif isinstance(event, Message) and user is not None and _is_addressed(event):
            key = ("outage", request_id_of(event, self._ctx.bot.id))
            if self._ctx.throttle.allow(*key, seconds=_OUTAGE_NOTICE_S) and not await answer(
                event, t("away")
            ):
                self._ctx.throttle.reset(*key)

    async def _resume_postponed(self, user_id: int, arrival: Arrival | None) -> None:
        """Notify a user who had blocked the bot and is back of what was postponed for them."""
        if arrival is None:
            postponed = await pending_work.postponed(self._ctx.ledger, user_id, _POSTPONED_AFTER_S)
        else:
            postponed = arrival.postponed
        if postponed:
            await notifications.resume(self._ctx.ledger, postponed, _POSTPONED_AFTER_S)
            await self._ctx.queue.wake("notify", postponed[0])
            await self._ctx.queue.wake("deliver", postponed[0])

    async def _resume_alerts(self, event: TelegramObject, user: User) -> None:
        """Let an admin who is here hear now what they could not be told before."""
        private = isinstance(event, Message) and event.chat.type == ChatType.PRIVATE
        if not private or user.id not in self._ctx.admins:
            return
        if self._ctx.throttle.allow("alerts", user.id, seconds=_ALERTS_AGAIN_S):
            await operator_alerts.make_due(self._ctx.ledger, user.id)

    async def _refuse(
        self, event: TelegramObject, user: User, t: Translator, text: str, every_s: float = 0
    ) -> None:
        """Reply; in a group only if the bot was clearly addressed, and not to every message.

        With `every_s`, messages are answered once in this time; a tap always is: its app waits for that.
        """
        if isinstance(event, CallbackQuery):
            await answer_tap(event, plain_text(text, TAP_CHARACTERS), alert=True)
        elif isinstance(event, Message) and _is_addressed(event):
            private = event.chat.type == ChatType.PRIVATE
            pause_s = every_s or (0 if private else _REFUSED_AGAIN_S)
            key = ("unauthorized", event.chat.id, user.id)
            if pause_s and not self._ctx.throttle.allow(*key, seconds=pause_s):
                return
            if await within_free_limit(self._ctx, event, t):
                await answer(event, text)
        elif isinstance(event, InlineQuery):
            await send_once(self._ctx.bot, event.answer([], cache_time=0, is_personal=True))


def is_money(event: TelegramObject) -> bool:
    """Return whether this tells of money that has moved: it is written for banned people too."""
    return isinstance(event, Message) and bool(event.successful_payment or event.refunded_payment)


class ConversationMiddleware(BaseMiddleware):
    """Drops further parts of an album or a long text, and what was answered before; forgets a question at a
    command or a tap.
    """

    def __init__(self, conversations: Conversations) -> None:
        self._conversations = conversations

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        if isinstance(event, CallbackQuery) and event.message is not None:
            await self._conversations.end(event.message.chat.id, event.from_user.id)
        if not isinstance(event, Message):
            return await handler(event, data)
        kept = _is_kept_in_ledger(event)
        if not kept and await self._conversations.is_answered(event):
            return None
        await self._end_question(event)
        private = event.chat.type == ChatType.PRIVATE
        further = private and await self._conversations.is_further_part(event)
        result = None if further else await handler(event, data)
        if not kept:
            await self._conversations.set_answered(event)
        return result

    async def _end_question(self, message: Message) -> None:
        if (message.text or message.caption or "").startswith("/") and message.from_user is not None:
            await self._conversations.end(message.chat.id, message.from_user.id)


def _is_kept_in_ledger(message: Message) -> bool:
    """Return whether the ledger knows a message when it comes again: a /create with an idea, a payment."""
    if is_money(message):
        return True
    text = message.text or ""
    return text.lower().startswith("/create") and bool(idea_in(message))


def _invite_token(event: TelegramObject) -> str:
    """Return the token of an invitation that this message opens; empty if it opens none."""
    if not isinstance(event, Message) or event.chat.type != ChatType.PRIVATE or event.forward_origin:
        return ""
    command, _, word = (event.text or "").partition(" ")
    return word.strip().removeprefix(INVITE_START) if command == "/start" and INVITE_START in word else ""


def _is_addressed(message: Message) -> bool:
    """Return whether the bot was clearly addressed: anything in a private chat, `/create` in a group."""
    return message.chat.type == "private" or (message.text or "").lower().startswith("/create")


class UpdateTraces(BaseMiddleware):
    """Starts a trace for each update.

    A redelivered command continues the trace of its first delivery, a tap on an offer that of its request.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def __call__(self, handler: NextHandler, event: TelegramObject, data: dict[str, Any]) -> Any:
        kind, parent = update_kind(event), None
        if isinstance(event, Update) and _is_chatter(event, kind, data["bot"].id):
            return await handler(event, data)
        if isinstance(event, Update):
            parent = await self._parent_context(event, kind, data)
        span = tracing.begin_span(f"telegram {kind}", parent, kind=SpanKind.SERVER)
        if parent is not None and kind == "/create":
            span.set_attribute(semconv.REDELIVERED, value=True)
            REDELIVERIES.add(kind="update")
        with tracing.span_scope(span):
            return await handler(event, data)

    async def _parent_context(self, update: Update, kind: str, data: dict[str, Any]) -> SpanContext | None:
        """Return the span in which the request was first received; None while the ledger is unavailable."""
        try:
            return tracing.parse_traceparent(await self._find_traceparent(update, kind, data))
        except Exception as error:
            if not is_outage(error):
                raise
            return None

    async def _find_traceparent(self, update: Update, kind: str, data: dict[str, Any]) -> str | None:
        """Return the traceparent of the request; what was read for a command is left in `data` as well."""
        if kind == "/create" and update.message is not None and update.message.from_user is not None:
            key = request_id_of(update.message, data["bot"].id)
            found = await pending_work.arrival(
                self._ledger, key, update.message.from_user.id, _POSTPONED_AFTER_S
            )
            data[_ARRIVAL] = found
            return found.traceparent
        nonce = offer_nonce(update.callback_query.data) if update.callback_query is not None else None
        video = await offers.find(self._ledger, nonce) if nonce else None
        request = None if video is None else await requests.find(self._ledger, video.request_id)
        return None if request is None else request.traceparent


def _is_chatter(update: Update, kind: str, bot_id: int) -> bool:
    """Return whether an update is what people in a group say to each other: it leaves no trace."""
    message = update.message
    if kind != "message" or message is None or message.chat.type == ChatType.PRIVATE:
        return False
    answered = message.reply_to_message
    return answered is None or answered.from_user is None or answered.from_user.id != bot_id


def update_kind(event: TelegramObject) -> str:
    """Return a known command such as `/create`, else `message`, `callback` or `other`."""
    if not isinstance(event, Update):
        return "other"
    if event.callback_query is not None:
        return "callback"
    if event.message is None:
        return "other"
    first = ((event.message.text or event.message.caption or "").split(maxsplit=1) or [""])[0]
    command = first.partition("@")[0].lower()
    return command if command.startswith("/") and command[1:] in semconv.COMMANDS else "message"


class NewerAnswers(BaseRequestMiddleware):
    """Reads the message of an answer that aiogram cannot parse: it was sent, and must not be sent again."""

    async def __call__(
        self,
        make_request: NextRequestMiddlewareType[TelegramType],
        bot: Bot,
        method: TelegramMethod[TelegramType],
    ) -> Any:
        try:
            return await make_request(bot, method)
        except ClientDecodeError as error:
            sent = parse_sent_message(error.data, bot)
            if sent is None:
                raise
            return sent


class CallTraces(BaseRequestMiddleware):
    """Traces Bot API calls: the method and its outcome, nothing else."""

    async def __call__(
        self,
        make_request: NextRequestMiddlewareType[TelegramType],
        bot: Bot,
        method: TelegramMethod[TelegramType],
    ) -> Response[TelegramType]:
        name = method.__api_method__
        if name in _UNTRACED_CALLS or not trace.get_current_span().get_span_context().is_valid:
            return await make_request(bot, method)
        attributes = {semconv.TELEGRAM_METHOD: name}
        span = tracing.TRACER.start_span(f"telegram {name}", kind=SpanKind.CLIENT, attributes=attributes)
        with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            outcome = "failed"
            try:
                response = await make_request(bot, method)
                outcome = "ok"
            except AiogramError as error:
                outcome = _outcome_of(error)
                _describe_error(span, error)
                raise
            finally:
                _record_outcome(name, span, outcome)
        return response


def _outcome_of(error: AiogramError) -> str:
    if isinstance(error, TelegramRetryAfter):
        return "throttled"
    if isinstance(error, TelegramBadRequest):
        return "ok" if NOT_MODIFIED in error.message else "refused"
    return "failed"


_ERROR_CODES: Final[Mapping[type[AiogramError], int]] = MappingProxyType(
    {
        TelegramRetryAfter: 429, TelegramMigrateToChat: 400, TelegramBadRequest: 400,
        TelegramUnauthorizedError: 401, TelegramForbiddenError: 403, TelegramNotFound: 404,
        TelegramConflictError: 409,
        TelegramEntityTooLarge: 413, RestartingTelegram: 500, TelegramServerError: 500,
    }
)  # fmt: skip
"""The HTTP status by which aiogram chose the class of an error; it keeps no other mark of it."""


def _describe_error(span: Span, error: AiogramError) -> None:
    code = next((_ERROR_CODES[one] for one in type(error).__mro__ if one in _ERROR_CODES), None)
    if code is not None:
        span.set_attribute(semconv.TELEGRAM_ERROR, code)
    if isinstance(error, TelegramRetryAfter):
        span.set_attribute(semconv.TELEGRAM_RETRY, error.retry_after)


class KeptResponses(BaseRequestMiddleware):
    """Keeps the models by which answers of the Bot API are read.

    aiogram asks pydantic for `Response[Message]` at every answer. pydantic keeps such a model only while
    something refers to it, and building it again after a garbage collection takes 0.1 s of CPU.
    """

    def __init__(self) -> None:
        self._kept: dict[type[TelegramMethod[Any]], type[Response[Any]]] = {}

    async def __call__(
        self,
        make_request: NextRequestMiddlewareType[TelegramType],
        bot: Bot,
        method: TelegramMethod[TelegramType],
    ) -> Response[TelegramType]:
        kind = type(method)
        if kind not in self._kept:
            self._kept[kind] = Response[method.__returning__]  # type: ignore[name-defined]  # aiogram does this
        return await make_request(bot, method)


def _record_outcome(name: str, span: Span, outcome: str) -> None:
    span.set_attribute(semconv.TELEGRAM_STATUS, outcome)
    if outcome != "ok":
        tracing.mark_failed(span, outcome, _CALL_ERRORS[outcome])
    if name in _DELIVERY_CALLS:
        known = "failed" if outcome == "throttled" else outcome
        DELIVERIES.add(way=_DELIVERY_CALLS[name], outcome=known)


_CALL_ERRORS: Final = {
    "refused": "Telegram refused the call",
    "throttled": "Telegram asked to wait",
    "failed": "the call failed",
}
