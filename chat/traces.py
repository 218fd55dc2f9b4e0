"""Telegram in traces: a span for what a user did, and one for each call of the Bot API that follows."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiogram import BaseMiddleware, Bot
from aiogram.client.session.middlewares.base import BaseRequestMiddleware, NextRequestMiddlewareType
from aiogram.exceptions import TelegramBadRequest
from aiogram.methods import Response, TelegramMethod
from aiogram.methods.base import TelegramType
from aiogram.types import TelegramObject, Update
from opentelemetry import trace
from opentelemetry.trace import Span, SpanContext, SpanKind
from sqlalchemy.exc import SQLAlchemyError

from chat.identity import request_id_of
from chat.keyboards import offered
from ledger import requests, transitions
from ledger.database import Ledger
from ledger.models import Request
from telemetry import semconv, tracing
from telemetry.instruments import DELIVERIES, REDELIVERIES

Handler = Callable[[TelegramObject, dict[str, Any]], Awaitable[Any]]

_QUIET: Final = frozenset({"getUpdates", "editMessageText", "getMe"})
"""Calls that come again and again, and say nothing that the ledger's states do not say."""

_DELIVERS: Final = {"sendVideo": "send", "editMessageMedia": "edit"}
NOT_MODIFIED: Final = "message is not modified"


class UpdateTraces(BaseMiddleware):
    """Begins a trace with each update; a command that comes again goes on in the first one's trace, and a tap
    that decides about an offer in that of its request.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def __call__(self, handler: Handler, event: TelegramObject, data: dict[str, Any]) -> Any:
        word = update_word(event)
        before = await self._before(event, word, data["bot"]) if isinstance(event, Update) else None
        span = tracing.begin(f"telegram {word}", before, kind=SpanKind.SERVER)
        if before is not None and word == "/create":
            span.set_attribute(semconv.REDELIVERED, value=True)
            REDELIVERIES.add(kind="update")
        with tracing.spanned(span):
            return await handler(event, data)

    async def _before(self, update: Update, word: str, bot: Bot) -> SpanContext | None:
        """Return where its request was first received; a ledger that is away fails the handler, not this."""
        try:
            request = await self._request(update, word, bot)
        except (SQLAlchemyError, OSError):
            return None
        return None if request is None else tracing.read_traceparent(request.traceparent)

    async def _request(self, update: Update, word: str, bot: Bot) -> Request | None:
        if word == "/create" and update.message is not None:
            return await requests.find(self._ledger, request_id_of(update.message, bot.id))
        tap = offered(update.callback_query.data) if update.callback_query is not None else None
        video = await transitions.by_nonce(self._ledger, tap) if tap else None
        return None if video is None else await requests.find(self._ledger, video.request_id)


def update_word(event: TelegramObject) -> str:
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
        tracing.fail(span, outcome)
    if name in _DELIVERS:
        DELIVERIES.add(way=_DELIVERS[name], outcome=outcome)
