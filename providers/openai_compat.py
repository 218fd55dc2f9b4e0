"""Adapter of servers that speak OpenAI's `/v1/videos`, each in its dialect.

An unknown outcome is resolved by a replay if the dialect documents an idempotency key, else by the list.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

from guardrails.money import Money
from providers.accounts import account_of
from providers.base import (
    MAX_JOB_ID,
    AccessRefused,
    Asset,
    Capabilities,
    ClaimedCheck,
    EndedAs,
    Found,
    Gone,
    InDoubt,
    Job,
    JobFailed,
    JobLinks,
    JobModerated,
    KeyRefused,
    NotConfigured,
    NotSent,
    ProviderError,
    Reconciled,
    Rejected,
    RejectedFor,
    SeenDate,
    Status,
    Throttled,
    Transient,
    Unsure,
    VideoRequest,
    check_address,
    mark_not_sent,
)
from providers.download import download_video, web_address
from providers.gateways import count_sends, find_gateway, is_litellm_id, litellm_code, litellm_pause, refusal
from providers.http import PROBE_S, HttpClient, Reply, dig, is_final
from providers.job_matching import JobPage, Window, match_job, reaches_back, read_pages
from providers.openai_dialects import AUTH_CODES, DIALECTS, FUNDS_CODES, POLICY_CODES, Dialect, encode
from providers.pricing import SORA_2_PRICES, PriceList, capabilities_of, dollars, refuse_unpriced
from providers.registry import ProviderConfig
from providers.status_words import read_bad_end, read_phase
from providers.video_file import MAX_DOWNLOAD_BYTES

_JOB_ID = re.compile(rf"[A-Za-z0-9][\w.:~=+/-]{{0,{MAX_JOB_ID - 1}}}", re.ASCII)
_SECONDS = re.compile(r"\d{1,5}(\.\d{1,3})?")


@dataclass(frozen=True, slots=True)
class OpenAIReader:
    """Reads answers in one dialect. `scrub` makes text of the provider fit for an error message."""

    dialect: Dialect
    scrub: Callable[[str], str]

    def accepted(self, reply: Reply, gateway: str = "") -> Job:
        """Read the answer to the POST.

        Args:
            reply: The answer.
            gateway: The gateway that was noticed there before, if any.

        Raises:
            Rejected, Throttled: A documented refusal, in the provider's format.
            InDoubt: Any other answer: a 2xx without a job, or an error without a provider's body, which a
                gateway may have written after it had forwarded the request; and any error that came through
                a gateway which may have sent the order before.
        """
        data = reply.json() or {}
        if 200 <= reply.status < 300:
            if (job := readable_id(data)) is None:
                raise InDoubt(f"the POST was answered {reply.status} without a usable job id")
            return Job(job, self.billed(data), sends=count_sends(reply.headers))
        code, said = self.complaint(data)
        if doubt := self._why_no_proof(reply, code, gateway):
            raise InDoubt(f"the POST was answered {reply.status}, and {doubt}: {said}")
        if code is not None:
            self._refused(reply, data, code, f"refused with {reply.status}: {said}")
        raise InDoubt(f"the POST was answered {reply.status}: {said}")

    def status(self, data: Mapping[str, Any]) -> Status:
        """Return the state of a job.

        Raises:
            JobFailed, JobModerated: It ended without a video.
        """
        ended, billed = read_bad_end(data.get("status")), self.billed(data)
        if ended is not None:
            raise self._bad_end(ended, data, billed)
        progress = data.get("progress")
        known = type(progress) is int and 0 <= progress <= 100
        return Status(read_phase(data.get("status")), progress=progress if known else None, billed=billed)

    def _bad_end(self, ended: EndedAs, data: Mapping[str, Any], billed: Money | None) -> JobFailed:
        code, said = self.complaint(data)
        if ended == "moderated" or (ended == "failed" and code in POLICY_CODES):
            return JobModerated(said, "billed" if billed else self.dialect.moderated_billing, billed)
        # A job may be called expired that was made and whose file was then removed: no dialect says whether.
        usual = "unknown" if ended == "expired" else self.dialect.failed_billing
        words = said if ended == "failed" else f"the job is called {ended}: {said}"
        return JobFailed(words, "billed" if billed else usual, ended, billed)

    def billed(self, data: Mapping[str, Any]) -> Money | None:
        """Return the price that a job names; None if it names none that can be read without a doubt."""
        if not self.dialect.cost_path or dig(data, (*self.dialect.cost_path[:-1], "is_byok")) is True:
            return None  # with the caller's own key it is the fee of the server in between, not the price
        return dollars(dig(data, self.dialect.cost_path))

    def is_final(self, reply: Reply) -> bool:
        """Return whether an answer about one job is final, so that no retry could help."""
        return is_final(reply) or self.carries_failure(reply)

    def carries_failure(self, reply: Reply) -> bool:
        """Return whether an HTTP error carries a failed job, as some servers send it."""
        data = (self.dialect.failure_status and reply.json()) or {}
        return "id" in data and read_bad_end(data.get("status")) is not None

    def still_running(self, body: bytes) -> bool:
        """Return whether `body` is a job that is not done, sent in place of its video."""
        try:
            word = json.loads(body).get("status")
        except (ValueError, AttributeError, RecursionError):
            return False
        return read_phase(word) in ("queued", "running")

    def _why_no_proof(self, reply: Reply, code: str | None, gateway: str) -> str:
        """Return why an error may be the answer to the last of several POSTs; empty if it is to one."""
        here, ours = find_gateway(reply.headers), self.dialect.gateway
        if not ours:
            seen = here or gateway
            return f"{seen} may have sent it before" if seen else ""
        if here == ours:
            return f"{ours} has sent it before" if count_sends(reply.headers) > 1 else ""
        # LiteLLM does not mark its answer to a wrong key.
        return "" if reply.status == 401 or code in AUTH_CODES else f"it does not bear the marks of {ours}"

    def _refused(self, reply: Reply, data: Mapping[str, Any], code: str, words: str) -> None:
        reason = self.dialect.refusals.get(reply.status)
        if reply.status == 429 and self.dialect.throttles:
            if code in FUNDS_CODES:
                raise Rejected(words, "funds")
            if (pause := self._pause(reply, data)) is not None:
                raise Throttled(words, pause)
        if reason is not None:
            raise Rejected(words, _REASONS.get(code, reason))

    def _pause(self, reply: Reply, data: Mapping[str, Any]) -> float | None:
        """Return the seconds to wait; None for a date, which none of these servers documents."""
        value = reply.headers.get("retry-after", "")
        error = data.get("error")
        if self.dialect.gateway and isinstance(error, dict):
            value = litellm_pause(reply.headers, error)
        return float(value) if _SECONDS.fullmatch(value.strip()) else None

    def complaint(self, data: Mapping[str, Any]) -> tuple[str | None, str]:
        """Return code and text of an error; the code is None if the body is not in a provider's format."""
        error = data.get("error", data)
        if isinstance(error, str):
            error = {"message": error}
        if not isinstance(error, dict) or not error.keys() & {"code", "message", "detail"}:
            return None, "no words that we know"
        code = str(error.get("code") or error.get("type") or "")
        if self.dialect.gateway:
            code = litellm_code(error)
        return code, self.scrub(f"{code} {error.get('message') or error.get('detail') or ''}")


def readable_id(data: Mapping[str, Any]) -> str | None:
    """Return the job's id; None unless it fits into a path and a column."""
    found = data.get("id")
    return found if isinstance(found, str) and _JOB_ID.fullmatch(found) else None


def job_path(job: str, rest: str = "") -> str:
    """Return the path of a job; its id is quoted, so that it stays one segment."""
    return f"/videos/{quote(job, safe='')}{rest}"


_REASONS: Mapping[str, RejectedFor] = MappingProxyType(
    {
        **dict.fromkeys(POLICY_CODES, "policy"),
        **dict.fromkeys(FUNDS_CODES, "funds"),
        **dict.fromkeys(AUTH_CODES, "auth"),
    }
)
"""What a provider's own word means, whatever its status."""

LIST_LIMIT = 100


def from_config(config: ProviderConfig) -> "OpenAICompat":
    """Build the adapter; the dialect `openai` has OpenAI's last prices unless others are configured."""
    published = SORA_2_PRICES if config.dialect == "openai" else None
    return OpenAICompat(
        config.base_url,
        config.api_key,
        DIALECTS[config.dialect],
        config.prices_or(published),
        proxy_retries_off=config.proxy_retries_off,
    )


class OpenAICompat:
    """One server that speaks `/v1/videos`, in one dialect.

    Args:
        base_url: Base URL of the API, such as `https://host/v1`.
        api_key: The key (for Basic authentication: already in Base64); empty for an open server.
        dialect: What this server documents.
        prices: Its prices, from its operator or its page.
        proxy_retries_off: The operator states that the gateway in front sends nothing twice.
        capabilities: Replaces those that follow from dialect and prices, to set the times.
        cap_bytes: Larger videos are not downloaded.
        fetch_timeout_s: Total time of one download.

    Raises:
        NotConfigured: The address is missing or wrong, or no header can carry the key.
    """

    name = "openai_compat"

    def __init__(
        self,
        base_url: str,
        api_key: str,
        dialect: Dialect,
        prices: PriceList,
        *,
        proxy_retries_off: bool = False,
        capabilities: Capabilities | None = None,
        cap_bytes: int = MAX_DOWNLOAD_BYTES,
        fetch_timeout_s: float = 300.0,
    ) -> None:
        check_address(base_url, api_key)
        self.account = account_of(self.name, base_url, api_key, dialect.name)
        self.capabilities = capabilities or capabilities_of(dialect, prices)
        self._dialect, self._prices = dialect, prices
        self._cap_bytes, self._fetch_timeout_s = cap_bytes, fetch_timeout_s
        self._http = HttpClient(base_url, f"{dialect.auth} {api_key}" if api_key else "", (api_key,))
        self._read = OpenAIReader(dialect, self._http.scrub)
        self._secure = base_url.startswith("https:")
        # Whether the server has to be looked at before the first order, and was.
        self._vouched, self._checked = proxy_retries_off or bool(dialect.gateway), False

    def __repr__(self) -> str:
        return f"OpenAICompat({self._dialect.name})"

    @property
    def date(self) -> SeenDate | None:
        """The time that the provider's latest answer named."""
        return self._http.date

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        """See `Provider.quote`."""
        return self._prices.quote(model, seconds, size, sound=sound)

    async def check(self) -> None:
        """See `Provider.check`: asks for the list of videos.

        A gateway marks its answers to those only whose key it knows: no order follows on an answer that
        refuses the key, and after one that is neither a list nor "there is none" it is asked again before
        the next order.
        """
        timeout_s = min(PROBE_S, self.capabilities.submit_timeout_s / 4)
        reply = await self._http.probe("/videos", {"limit": "1"}, timeout_s)
        data = reply.json() or {}
        _, said = self._read.complaint(data)
        if dig(data, ("error", "type")) in AUTH_CODES:
            raise KeyRefused(f"VIDEO_API_KEY is not accepted there ({reply.status}): {said}")
        wanted = self._dialect.gateway
        if wanted and find_gateway(reply.headers) != wanted:
            raise NotConfigured(
                f"VIDEO_DIALECT is {self._dialect.name}, and what answers there ({reply.status}) does not "
                f"bear the marks of {wanted}"
            )
        self._refuse_gateway()
        self._checked = reply.status in (200, 404, 405)

    async def submit(self, video_request: VideoRequest) -> Job:
        """See `Provider.submit`: one POST, never repeated, never redirected."""
        deadline = time.monotonic() + self.capabilities.submit_timeout_s
        refuse_unpriced(self._prices, video_request)
        try:
            await self._look_first()
        except KeyRefused as error:
            raise Rejected(str(error), "auth") from None
        except NotConfigured as error:
            raise Rejected(str(error), "invalid") from None
        except ProviderError as error:
            raise NotSent(f"the server does not answer a free question: {error}") from None
        except asyncio.CancelledError as error:
            mark_not_sent(error)
            raise
        return self._accepted(await self._post(video_request, deadline - time.monotonic()))

    async def state(self, job_id: str, links: JobLinks | None = None) -> Status:
        """See `Provider.state`."""
        del links  # the protocol defines its paths
        return self._read.status(await self._job(job_id))

    async def fetch(self, job_id: str, into: Path, links: JobLinks | None = None) -> Asset:
        """See `Provider.fetch`."""
        del links
        address = job_path(job_id, "/content")
        if self._dialect.result_path:
            address = self._result_url(await self._job(job_id))
        return await download_video(
            self._http,
            address,
            into,
            self._cap_bytes,
            self._fetch_timeout_s,
            waits=self._dialect.content_waits,
            running=self._read.still_running,
        )

    async def reconcile(
        self, video_request: VideoRequest, sent_at: float, claimed: ClaimedCheck, now: float | None = None
    ) -> Reconciled:
        """See `Provider.reconcile`: a replay if the key is documented and young, else the list."""
        young = (time.time() if now is None else now) - sent_at < self._dialect.replay_for_s
        if not (self._dialect.idempotency_header and young):
            return await self.lookup(video_request, sent_at, claimed, now)
        try:
            return await self._replay(video_request, claimed)
        except (ProviderError, NotConfigured) as error:
            return Unsure(str(error))  # a refusal of the second POST says nothing about the first

    async def lookup(
        self,
        video_request: VideoRequest,
        sent_at: float,
        claimed: ClaimedCheck,
        now: float | None = None,
        *,
        until: float | None = None,
    ) -> Reconciled:
        """See `Provider.lookup`: by the list alone."""
        del now  # its list shows a job at once
        if not self._dialect.listing:
            return Unsure("cannot be asked")
        window = Window.around(sent_at, self.capabilities.submit_timeout_s, until)
        try:
            jobs, complete = await read_pages(
                self._page,
                {"limit": str(LIST_LIMIT), "order": "desc"},
                lambda seen: reaches_back(seen, window.begin),
            )
        except ProviderError as error:
            return Unsure(str(error))
        return await match_job(jobs, video_request, window, claimed, complete=complete)

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()

    async def _look_first(self) -> None:
        """Refuse to order through a gateway: ask before this process's first order, then remember."""
        if not (self._vouched or self._checked):
            await self.check()
        self._refuse_gateway()

    def _refuse_gateway(self) -> None:
        if self._http.gateway and not self._vouched:
            raise NotConfigured(refusal(self._http.gateway))

    def _accepted(self, reply: Reply) -> Job:
        return self._read.accepted(reply, self._http.gateway)

    async def _post(self, video_request: VideoRequest, total_s: float) -> Reply:
        body, kind = encode(video_request, self._dialect)
        headers = {"Content-Type": kind, "Accept": "application/json"}
        if self._dialect.idempotency_header:
            headers[self._dialect.idempotency_header] = video_request.key
        return await self._http.post_once("/videos", body, headers, total_s)

    async def _replay(self, video_request: VideoRequest, claimed: ClaimedCheck) -> Reconciled:
        await self._look_first()
        job = self._accepted(await self._post(video_request, self.capabilities.submit_timeout_s))
        taken = await claimed([job.job_id])
        return Unsure("the replay met another request's job") if taken else Found(job)

    async def _job(self, job_id: str) -> dict[str, Any]:
        try:
            reply = await self._http.get(job_path(job_id), enough=self._read.is_final)
        except Transient as error:
            raise Transient(f"{error}{self._odd_id(job_id)}") from None
        if reply.status in (404, 410) and not self._read.carries_failure(reply):
            raise Gone(f"job {job_id} is not known there ({reply.status})", final=reply.status == 410)
        if reply.status in (401, 403):
            raise AccessRefused(f"the question about job {job_id} was refused ({reply.status})")
        data = reply.json()
        if data is None or not (reply.status == 200 or self._read.carries_failure(reply)):
            raise Transient(f"job {job_id} was answered {reply.status}{self._odd_id(job_id)}")
        return data

    def _odd_id(self, job_id: str) -> str:
        odd = self._dialect.gateway and not is_litellm_id(job_id)
        return "; LiteLLM answers for its own ids, video_ and some 230 characters" if odd else ""

    async def _page(self, query: Mapping[str, str]) -> JobPage:
        reply = await self._http.get("/videos", query)
        whole = (reply.json() or {}) if reply.status == 200 else {}
        page = whole.get("data")
        if not isinstance(page, list):
            raise Transient(f"the list was answered {reply.status}")
        jobs = {job["id"]: job for job in page if isinstance(job, dict) and readable_id(job)}
        more = jobs and whole.get("has_more") is not False
        after = {**query, "after": next(reversed(jobs))} if more else None
        return JobPage(list(jobs.values()), len(jobs) == len(page), after)

    def _result_url(self, data: dict[str, Any]) -> str:
        phase, found = self._read.status(data).phase, dig(data, self._dialect.result_path)
        if phase != "succeeded" or not isinstance(found, str):
            raise Transient(f"there is no result URL yet ({phase})")
        return web_address(found, secure=self._secure)
