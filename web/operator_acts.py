"""What an operator can do on the pages: correct, try a delivery again, give credits, ban. Each asks first."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final
from urllib.parse import quote

from aiohttp import web

from ledger import corrections, members, notifications, operator_alerts, star_payments, video_credits
from ledger.corrections import Correction, NotCorrected, parse_correction
from ledger.members import find as find_member
from ledger.transitions import HoldNotResolved, JobTaken, Resolution
from ledger.video_credits import MAX_GRANT, Grant
from telemetry.logs import get_logger
from telemetry.redaction import user_tag
from web.admin_context import Admin, Route, operator_name, parse_number, run_effects, unsure
from web.auth import Session
from web.login import LoginRoutes
from web.operator_pages import OperatorPages

log = get_logger(__name__)

_LEASE_S: Final = 180.0
"""Longer than the lease of any upload: one that is under way is left alone."""

_BIGGEST: Final = 2**31 - 1
"""PostgreSQL refuses to compare an integer column with more."""


def add_acts(app: web.Application, admin: Admin, login: LoginRoutes, safe: Callable[[Route], Route]) -> None:
    """Mount them; `safe` answers 503 while the ledger is unavailable."""
    acts = _Acts(admin, login)
    for name in ("acknowledge", "correct", "redeliver", "grant", "ban", "unban"):
        app.router.add_post(f"/admin/{name}", safe(getattr(acts, name)))


class _Acts:
    def __init__(self, admin: Admin, login: LoginRoutes) -> None:
        self._admin, self._login, self._ledger = admin, login, admin.ledger
        self._pages = OperatorPages(admin, login)

    async def correct(self, request: web.Request) -> web.Response:
        """Correct an amount or an end, by the same way as `python -m bot correct`."""
        session, form = await self._login.form(request)
        wanted, source = form.get("request", ""), _source(form)
        back = f"/admin/request?id={quote(wanted)}"
        if form.get("sure") == "yes" and await corrections.is_done(self._ledger, source):
            raise web.HTTPSeeOther(f"{back}&said=again")
        try:
            found = _read_correction(form)
            video = await corrections.find_order(self._ledger, wanted)
            if found.end == "paid":
                await self._admin.worker.check_job(video, Resolution("paid", found.job_id))
            planned = await corrections.plan(self._ledger, video.request_id, found)
            text = f"{planned.sentence} Why: {found.why}"
            seen = form | {"seen": planned.seen}
            if question := unsure(request, session, seen, "Correct what is booked?", text, back):
                return question
            answered = replace(planned, seen=form.get("seen", ""))
            done = await corrections.correct(self._ledger, answered, operator_name(session), source)
        except (NotCorrected, HoldNotResolved, JobTaken) as error:
            return await self._pages.show_request(request, session, wanted, str(error))
        if done.new:
            log.warning("ledger corrected by operator", request=video.request_id, kind=found.kind)
            await run_effects(self._admin.worker.apply_correction(done))
        raise web.HTTPSeeOther(f"{back}&said={'corrected' if done.new else 'again'}")

    async def acknowledge(self, request: web.Request) -> web.Response:
        """Take an alert on: it is not repeated, and everyone reads the name. It asks nothing first."""
        session, form = await self._login.form(request)
        who, alert_id = operator_name(session), parse_number(form.get("alert", ""))
        found = None
        if 0 < alert_id <= _BIGGEST:
            found = await operator_alerts.acknowledge(self._ledger, alert_id, who)
        if found is None:
            raise web.HTTPNotFound(text="There is no such alert.\n")
        log.info("alert taken on", alert=alert_id, who=found.ack_who)
        raise web.HTTPSeeOther(f"/admin?said={'taken' if found.ack_who == who else 'taken_before'}")

    async def redeliver(self, request: web.Request) -> web.Response:
        """Let a video that could not be delivered be tried now."""
        session, form = await self._login.form(request)
        wanted = form.get("request", "")
        text = "The video is sent once more to its user. Nothing is paid."
        if question := unsure(request, session, form, "Try to deliver it now?", text, "/admin/requests"):
            return question
        who, source = operator_name(session), _source(form)
        if not await notifications.deliver_again(self._ledger, wanted, who, source, _LEASE_S):
            text = "no video of this request waits to be delivered"
            return await self._pages.show_request(request, session, wanted, text)
        log.warning("delivery tried again by operator", request=wanted, who=who)
        await run_effects(self._admin.worker.deliver_again(wanted))
        raise web.HTTPSeeOther(f"/admin/request?id={quote(wanted)}&said=redelivered")

    async def grant(self, request: web.Request) -> web.Response:
        """Give a user credits, once for each form."""
        session, form, user_id, why = await self._about_user(request)
        count = parse_number(form.get("credits", ""))
        if not why or not 1 <= count <= MAX_GRANT:
            text = f"give 1 to {MAX_GRANT} credits, and say why: their user reads it"
            return await self._pages.show_users(request, session, user_id, text)
        question = f"Give user {user_id} {count} credits?"
        text = f"Each is one video above the quota. They read: {why}"
        if asked := unsure(request, session, form, question, text, f"/admin/users?user={user_id}"):
            return asked
        known = (await find_member(self._ledger, user_id)).language
        given = Grant(
            f"web:{form.get('once', '')[:64]}", self._admin.bot_id, user_id, count, operator_name(session),
            why,
            known or await star_payments.language_of(self._ledger, user_id),
        )  # fmt: skip
        new = await video_credits.grant(self._ledger, given)
        log.warning("credits granted", new=new, credits=count, who=given.who)
        raise web.HTTPSeeOther(f"/admin/users?user={user_id}&said={'granted' if new else 'again'}")

    async def ban(self, request: web.Request) -> web.Response:
        """End a user's access; workers end what they have not paid for."""
        session, form, user_id, why = await self._about_user(request)
        wrong = "an operator cannot be banned" if user_id in self._admin.admins else "" if why else "say why"
        if wrong:
            return await self._pages.show_users(request, session, user_id, wrong)
        text = f"They cannot use the bot, and what is not paid yet is cancelled. Why: {why}"
        if asked := unsure(
            request, session, form, f"Ban user {user_id}?", text, f"/admin/users?user={user_id}"
        ):
            return asked
        new = await members.ban(self._ledger, user_id, operator_name(session), why)
        log.warning("user banned", user=user_tag(user_id), who=operator_name(session), new=new)
        raise web.HTTPSeeOther(f"/admin/users?user={user_id}&said={'banned' if new else 'unchanged'}")

    async def unban(self, request: web.Request) -> web.Response:
        """Lift a ban."""
        session, form, user_id, why = await self._about_user(request)
        text = "They may use the bot again, if they might before."
        back = f"/admin/users?user={user_id}"
        if asked := unsure(request, session, form, f"Lift the ban of user {user_id}?", text, back):
            return asked
        lifted = await members.unban(self._ledger, user_id, operator_name(session), why)
        log.warning("ban lifted", user=user_tag(user_id), who=operator_name(session), lifted=lifted)
        raise web.HTTPSeeOther(f"{back}&said={'unbanned' if lifted else 'unchanged'}")

    async def _about_user(self, request: web.Request) -> tuple[Session, dict[str, str], int, str]:
        session, form = await self._login.form(request)
        user_id = parse_number(form.get("user", ""))
        if not 0 < user_id < 2**52:
            raise web.HTTPBadRequest(text="user is a Telegram user id, a positive number\n")
        return session, form, user_id, form.get("why", "").strip()


def _read_correction(form: dict[str, str]) -> Correction:
    job_id = form.get("job", "").strip()
    return parse_correction(
        form.get("kind", ""), form.get("amount", ""), job_id, form.get("end", ""), form.get("why", "")
    )


def _source(form: dict[str, str]) -> str:
    """Return what names this form: sent again, it is the same act."""
    return f"web:{form.get('form', '')[:16]}:{form.get('once', '')[:64]}"
