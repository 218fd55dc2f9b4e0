"""Adapter of fal.ai: its queue, its answers, its request list.

fal documents no idempotency key, and its list shows a request only once it has ended: a POST with an unknown
outcome is never replayed, and "absent" is believed only after the longest time that a request may take.
"""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from guardrails.money import Money
from providers.accounts import account_of
from providers.base import (
    Absent,
    AccessRefused,
    Asset,
    Capabilities,
    ClaimedCheck,
    Gone,
    InDoubt,
    Job,
    JobFailed,
    JobLinks,
    JobModerated,
    NotConfigured,
    Phase,
    ProviderError,
    Reconciled,
    Rejected,
    RejectedFor,
    SeenDate,
    Status,
    Transient,
    Unsure,
    VideoRequest,
)
from providers.download import download_video, web_address
from providers.hosted import check_key, hosted_capabilities, iso_time
from providers.http import PROBE_S, HttpClient, Reply, dig, is_final
from providers.job_matching import JobPage, Window, match_job, read_pages
from providers.pricing import (
    FAL_PRICES,
    FAL_RECIPE,
    FAL_RECIPES,
    PriceList,
    Recipe,
    json_body,
    listed_input,
    model_input,
    refuse_unpriced,
)
from providers.registry import ProviderConfig
from providers.status_words import read_bad_end, read_phase
from providers.video_file import MAX_DOWNLOAD_BYTES

POLICY = "content_policy_violation"
LOCKED_FUNDS = "exhausted balance"
REFUSALS: Mapping[int, RejectedFor] = MappingProxyType(
    {401: "auth", 403: "auth", 404: "invalid", 422: "invalid"}
)
_MOST_LINK = 500
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,63}")


def is_request_id(request_id: object) -> bool:
    """Return whether this is a request id of fal, fit for one segment of a path."""
    return isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id) is not None


@dataclass(frozen=True, slots=True)
class FalReader:
    """Reads fal's answers. `scrub` makes text of the provider fit for an error message."""

    scrub: Callable[[str], str]

    def accepted(self, reply: Reply, model: str) -> Job:
        """Read the answer to the POST. A job's id is `{model}/{request_id}`: fal asks for both.

        Raises:
            Rejected: A documented refusal in fal's own format: nothing entered the queue.
            InDoubt: Any other answer; also a 429, which fal documents only for a header that we never send.
        """
        data = reply.json() or {}
        if 200 <= reply.status < 300:
            if not is_request_id(data.get("request_id")):
                raise InDoubt(f"the POST was answered {reply.status} without a request id")
            return Job(f"{model}/{data['request_id']}", links=_links(data))
        kinds, said = self._complaint(data)
        reason = REFUSALS.get(reply.status)
        if kinds is None or reason is None:
            raise InDoubt(f"the POST was answered {reply.status}: {said}")
        if LOCKED_FUNDS in said.lower():
            reason = "funds"
        raise Rejected(f"refused with {reply.status}: {said}", "policy" if POLICY in kinds else reason)

    def phase(self, data: Mapping[str, Any]) -> Phase:
        """Return the phase of a status answer. COMPLETED means that the work ended, not that it succeeded.

        Raises:
            JobFailed, JobModerated: The queue names a bad end, which it does not document.
        """
        ended = read_bad_end(data.get("status"))
        if ended == "moderated":
            raise JobModerated("the queue calls it moderated", "unknown")
        if ended is not None:
            raise JobFailed(f"the queue calls it {ended}", "unknown", ended)
        return read_phase(data.get("status"))

    def ended(self, status: Mapping[str, Any], reply: Reply) -> bool:
        """Return whether the answer about a result is final, so that no retry could help."""
        return is_final(reply) or (_status_names_failure(status) and reply.status != 429)

    def result(self, status: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
        """Read the result of a request whose status answer, `status`, was COMPLETED.

        A 422 may be billed if a runner spent time on it; 5xx errors of fal itself are never charged.

        Raises:
            JobModerated, JobFailed: The model or the queue reports a failure.
            Gone: The result is no longer stored.
            Transient: This answer says nothing about the work.
        """
        data = reply.json()
        if reply.status == 200 and data is not None:
            return data
        kinds, said = self._complaint(data or {})
        if kinds is not None and POLICY in kinds and reply.status < 500:
            raise JobModerated(said, "unknown")
        if kinds is not None and reply.status in (400, 422):
            raise JobFailed(said, "unknown")
        if _status_names_failure(status):
            # Both answers have to name the same error of fal; the 5xx of a gateway in between proves nothing.
            kind = str(status.get("error_type") or "")
            unbilled = reply.status >= 500 and kind != "" and kind in (kinds or ())
            words = self.scrub(f"{status.get('error_type') or ''} {status.get('error') or said}")
            raise JobFailed(words, "unbilled" if unbilled else "unknown")
        if reply.status in (404, 410):
            raise Gone(f"the result is not kept there ({reply.status})", final=reply.status == 410)
        if reply.status in (401, 403):
            raise AccessRefused(f"the question about the result was refused ({reply.status})")
        raise Transient(f"the result was answered {reply.status}")

    def _complaint(self, data: Mapping[str, Any]) -> tuple[frozenset[str] | None, str]:
        """Return the types and the text of an error; the types are None if the body is not in fal's format.

        Only type and message are quoted: an error object repeats the input, which holds the prompt.
        """
        detail = data.get("detail")
        if isinstance(detail, str):
            kind = str(data.get("error_type") or "")
            return frozenset({kind}), self.scrub(f"{kind} {detail}")
        errors = [one for one in detail if isinstance(one, dict)] if isinstance(detail, list) else []
        if not errors:
            return None, "no words that we know"
        kinds = frozenset(str(one.get("type")) for one in errors)
        return kinds, self.scrub("; ".join(f"{one.get('type')}: {one.get('msg')}" for one in errors[:3]))


def _links(data: Mapping[str, Any]) -> JobLinks | None:
    """Return the addresses that fal gives; None if they are missing or too long for a column."""
    status, result = data.get("status_url"), data.get("response_url")
    if not isinstance(status, str) or not isinstance(result, str):
        return None
    return JobLinks(status, result) if max(len(status), len(result)) <= _MOST_LINK else None


def _status_names_failure(status: Mapping[str, Any]) -> bool:
    return bool(status.get("error") or status.get("error_type"))


NO_KEY = "fal needs a key: make one at fal.ai/dashboard/keys (preset API) and set VIDEO_API_KEY"
START_S = 900  # fal drops a request that no runner has started by then, unbilled
RUN_S = 3600  # assumed maximum duration of a video once it has started
KEPT_S = 7 * 86400
NOTES = (
    "Its request list shows only requests that have ended: 'absent' is believed after 75 minutes.",
    "The account must keep payloads, as it does by default: a lost request is recognised by its input.",
    f"We ask fal to drop the finished file after {KEPT_S // 86400} days.",
)
_MODEL = re.compile(r"(?!(?:workflows|comfy)/)[\w-][\w.-]*(/[\w-][\w.-]*){1,6}", re.ASCII)
_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json",
    "X-Fal-Request-Timeout": str(START_S),
    "X-Fal-No-Retry": "1",  # fal repeats a queued request up to ten times by itself; we make one video of one
    "X-Fal-Object-Lifecycle-Preference": f'{{"expiration_duration_seconds":{KEPT_S}}}',
}


def from_config(config: ProviderConfig) -> "Fal":
    """Build the adapter, with fal's published prices unless others are configured."""
    return Fal(config.api_key, config.prices_or(FAL_PRICES))


class Fal:
    """Text-to-video models on fal.ai.

    Args:
        api_key: As fal shows it, `id:secret`.
        prices: Prices of the models on offer; their names are fal's endpoint ids.
        recipes: The input of models that differ from `FAL_RECIPE`.
        capabilities: Replaces the defaults, to set the times.
        queue_url, api_url: Base URLs of the queue and of the platform API; others are for tests.
        absent_after_s: How long after its POST a request that is not listed may still be running.
        cap_bytes: Larger videos are not downloaded.
        fetch_timeout_s: Total time of one download.

    Raises:
        NotConfigured: There is no key, or a model's name is not an endpoint id of fal.
    """

    name = "fal"

    def __init__(
        self,
        api_key: str,
        prices: PriceList = FAL_PRICES,
        *,
        recipes: Mapping[str, Recipe] = FAL_RECIPES,
        capabilities: Capabilities | None = None,
        queue_url: str = "https://queue.fal.run",
        api_url: str = "https://api.fal.ai/v1",
        absent_after_s: float = START_S + RUN_S,
        cap_bytes: int = MAX_DOWNLOAD_BYTES,
        fetch_timeout_s: float = 300.0,
    ) -> None:
        header = f"Key {check_key(api_key, NO_KEY)}"
        if wrong := [model for model in prices.models if not _MODEL.fullmatch(model)]:
            raise NotConfigured(f"{wrong[0]!r} is not a model of fal; write owner/app or owner/app/path")
        self.capabilities = capabilities or hosted_capabilities(
            prices, recipes, NOTES, grace_s=60.0, settle_s=START_S + RUN_S + 600.0, overdue_s=START_S + RUN_S
        )
        self.account = account_of(self.name, queue_url, api_key)
        self._prices, self._recipes = prices, recipes
        self._absent_after_s = absent_after_s
        self._cap_bytes, self._fetch_timeout_s = cap_bytes, fetch_timeout_s
        secrets = (api_key, api_key.partition(":")[2])
        self._queue, self._api = HttpClient(queue_url, header, secrets), HttpClient(api_url, header, secrets)
        self._read = FalReader(self._queue.scrub)
        self._secure = queue_url.startswith("https:")

    def __repr__(self) -> str:
        return "Fal()"

    @property
    def date(self) -> SeenDate | None:
        """The time that the provider's latest answer named."""
        return self._queue.date or self._api.date

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        """See `Provider.quote`."""
        return self._prices.quote(model, seconds, size, sound=sound)

    async def check(self) -> None:
        """See `Provider.check`: asks for the list of requests."""
        query = {"endpoint_id": self.capabilities.models[0], "start": iso_time(time.time()), "limit": "1"}
        await self._api.probe("/models/requests/by-endpoint", query, PROBE_S)

    async def submit(self, video_request: VideoRequest) -> Job:
        """See `Provider.submit`: one POST, never repeated, never redirected."""
        refuse_unpriced(self._prices, video_request)
        body = json_body(model_input(video_request, self._recipe(video_request)))
        timeout_s = self.capabilities.submit_timeout_s
        reply = await self._queue.post_once(f"/{video_request.model}", body, _HEADERS, timeout_s)
        return self._read.accepted(reply, video_request.model)

    async def state(self, job_id: str, links: JobLinks | None = None) -> Status:
        """See `Provider.state`. Only the result of a request that ended says whether it succeeded."""
        asked = self._addresses(job_id, links)
        status = await self._status_answer(asked)
        phase = self._read.phase(status)
        if phase == "succeeded":
            await self._result(asked, status)
        return Status(phase, progress=100 if phase == "succeeded" else None)

    async def fetch(self, job_id: str, into: Path, links: JobLinks | None = None) -> Asset:
        """See `Provider.fetch`."""
        asked = self._addresses(job_id, links)
        status = await self._status_answer(asked)
        if (phase := self._read.phase(status)) != "succeeded":
            raise Transient(f"there is no result yet ({phase})")
        url = dig(await self._result(asked, status), ("video", "url"))
        address = web_address(url, secure=self._secure)
        return await download_video(self._queue, address, into, self._cap_bytes, self._fetch_timeout_s)

    async def reconcile(
        self, video_request: VideoRequest, sent_at: float, claimed: ClaimedCheck, now: float | None = None
    ) -> Reconciled:
        """See `Provider.reconcile`: by the list."""
        return await self.lookup(video_request, sent_at, claimed, now)

    async def lookup(
        self,
        video_request: VideoRequest,
        sent_at: float,
        claimed: ClaimedCheck,
        now: float | None = None,
        *,
        until: float | None = None,
    ) -> Reconciled:
        """See `Provider.lookup`: by the list, which shows a request once it has ended."""
        window = Window.around(sent_at, self.capabilities.submit_timeout_s, until)
        first = {
            "endpoint_id": video_request.model,
            "start": iso_time(window.begin),
            "limit": "50",
            "expand": "payloads",
        }

        async def ask(query: Mapping[str, str]) -> JobPage:
            return await self._page(video_request, {**first, **query})

        try:
            jobs, complete = await read_pages(ask, first)
        except ProviderError as error:
            return Unsure(str(error))
        found = await match_job(jobs, video_request, window, claimed, complete=complete)
        under_way = (time.time() if now is None else now) < sent_at + self._absent_after_s
        if isinstance(found, Absent) and under_way:
            return Unsure("not in the list, which shows only requests that have ended")
        return found

    async def close(self) -> None:
        """Close connections."""
        await self._queue.close()
        await self._api.close()

    def _recipe(self, video_request: VideoRequest) -> Recipe:
        return self._recipes.get(video_request.model, FAL_RECIPE)

    async def _status_answer(self, asked: JobLinks) -> dict[str, object]:
        reply = await self._queue.get(asked.status)
        if reply.status in (404, 410):
            raise Gone(f"the request is not known there ({reply.status})", final=reply.status == 410)
        if reply.status in (401, 403):
            raise AccessRefused(f"the question about the request was refused ({reply.status})")
        data = reply.json()
        if data is None or reply.status not in (200, 202):
            raise Transient(f"the request was answered {reply.status}")
        return data

    async def _result(self, asked: JobLinks, status: Mapping[str, object]) -> dict[str, object]:
        reply = await self._queue.get(asked.result, enough=lambda one: self._read.ended(status, one))
        return self._read.result(status, reply)

    async def _page(self, video_request: VideoRequest, query: Mapping[str, str]) -> JobPage:
        reply = await self._api.get("/models/requests/by-endpoint", query)
        whole = (reply.json() or {}) if reply.status == 200 else {}
        items = whole.get("items")
        if not isinstance(items, list):
            raise Transient(f"the request list was answered {reply.status}")
        jobs = [
            {
                "id": f"{video_request.model}/{item['request_id']}",
                "created_at": item.get("sent_at"),
                **listed_input(item.get("json_input"), video_request, self._recipe(video_request)),
            }
            for item in items
            if isinstance(item, dict) and is_request_id(item.get("request_id"))
        ]
        cursor = whole.get("next_cursor") if whole.get("has_more") is not False else None
        more = {"cursor": cursor} if isinstance(cursor, str) and cursor else None
        return JobPage(jobs, len(jobs) == len(items), more)

    def _addresses(self, job_id: str, links: JobLinks | None) -> JobLinks:
        """Return the paths at which a request is asked about: fal's own, else those built from its id.

        fal asks not to build them. They are built for a job that a list or a person named, and in place of
        an address on another host, which must not get the key.

        Raises:
            Gone: The id is none of fal.
        """
        built = self._path(job_id)
        request_id = job_id.rpartition("/")[2]
        paths = [self._queue.own_path(url) for url in (links.status, links.result)] if links else []
        status, result = (path if path and request_id in path else "" for path in paths or ("", ""))
        return JobLinks(status or f"{built}/status", result or built)

    def _path(self, job_id: str) -> str:
        """Return the queue's path of a request, which holds only owner and app of the model's name."""
        model, _, request_id = job_id.rpartition("/")
        if not _MODEL.fullmatch(model) or not is_request_id(request_id):
            raise Gone(
                f"{self._queue.scrub(job_id)!r} is not model/request_id, as fal's jobs are called here",
                final=True,
            )
        owner, app = model.split("/")[:2]
        return f"/{owner}/{app}/requests/{request_id}"
