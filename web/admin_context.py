"""What all admin routes share: their parts, the question before an act, and outages as 503."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from aiohttp import web

from guardrails.limits import Limits
from ledger.corrections import Corrected
from ledger.database import Ledger
from ledger.models import Video
from ledger.transitions import Resolution
from telemetry.logs import get_logger
from web.auth import Session, TokenAuth
from web.pages import Frame, page
from web.revocations import Revocations
from worker.outages import is_outage

log = get_logger(__name__)

Route = Callable[[web.Request], Awaitable[web.StreamResponse]]


class WorkerEffects(Protocol):
    """The part of `WorkerContext` around a manual change: asks before it, enqueues the next tasks after."""

    async def apply_effects(self, video: Video | None) -> None: ...

    async def apply_correction(self, done: Corrected) -> None: ...

    async def check_job(self, video: Video, found: Resolution) -> None: ...

    async def deliver_again(self, request_id: str) -> None: ...

    def asset_path(self, video: Video) -> Path: ...

    async def breaker_closed(self) -> None: ...

    async def breaker_opened(self) -> None: ...


@dataclass(frozen=True)
class Admin:
    """What the admin routes need.

    Attributes:
        ledger: Read for every figure; written by what operators do on the pages.
        auth: Checks tokens and sessions.
        revocations: The sessions that were logged out.
        worker: Wakes what follows a change; a worker finds in the ledger what it missed.
        jaeger: Base URL of Jaeger for links to traces; empty for none.
        limits: The declared limits, for what is left to a user.
        admins: They cannot be banned.
        bot_id: The bot that tells a user of granted credits.
    """

    ledger: Ledger
    auth: TokenAuth
    revocations: Revocations
    worker: WorkerEffects
    jaeger: str = ""
    limits: Limits = field(default_factory=Limits)
    admins: frozenset[int] = frozenset()
    bot_id: int = 0


def ledger_errors_as_503(route: Route) -> Route:
    """Answer 503 with one sentence if the ledger is unavailable."""

    async def call(request: web.Request) -> web.StreamResponse:
        try:
            return await route(request)
        except Exception as error:
            if not is_outage(error):
                raise
            log.error("ledger unavailable for admin", error=type(error).__name__)
            raise web.HTTPServiceUnavailable(text="The ledger is unavailable at the moment.\n") from error

    return call


def unsure(
    request: web.Request, session: Session, form: Mapping[str, str], question: str, sentence: str,
    back: str = "/admin",
) -> web.Response | None:  # fmt: skip
    """Return the page that asks before a form is carried out; None once it was answered with yes.

    Args:
        request: The form's.
        session: Whose page it is.
        form: Its fields, which the answer sends again.
        question: What would be done.
        sentence: What that changes.
        back: Where no leads.
    """
    if form.get("sure") == "yes":
        return None
    text = page(
        "confirm.html", Frame(session), back, question=question, sentence=sentence, path=request.path,
        fields=dict(form), back=back,
    )  # fmt: skip
    return web.Response(text=text, content_type="text/html")


async def run_effects(effects: Coroutine[Any, Any, None]) -> None:
    """Enqueue what follows a change; a failure is only logged, because the change is committed."""
    try:
        await effects
    except Exception as error:  # noqa: BLE001 - a worker finds in the ledger what was not woken
        log.warning("effects not applied, left to the workers", error=type(error).__name__)


def operator_name(session: Session) -> str:
    return f"web:{session.who}"


def parse_number(text: str) -> int:
    """Parse a number that our own page wrote; -1 for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else -1
