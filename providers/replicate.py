"""Adapter of replicate.com: its answers and its list of predictions.

Replicate documents no idempotency key: a POST with an unknown outcome is never replayed. Its list shows a
prediction at once, with its input for one hour.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx2

from guardrails.money import Money
from providers.accounts import account_of
from providers.base import (
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
)
from providers.download import download_video, web_address
from providers.hosted import check_key, hosted_capabilities, iso_time
from providers.http import PROBE_S, HttpClient, Reply, dig
from providers.job_matching import JobPage, Window, match_job, reaches_back, read_pages
from providers.pricing import (
    REPLICATE_PRICES,
    REPLICATE_RECIPE,
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

REFUSALS: Mapping[int, RejectedFor] = MappingProxyType(
    {401: "auth", 402: "funds", 404: "invalid", 422: "invalid"}
)
PAUSE_S = 60.0  # if a throttled answer names no time; limits are counted per minute
_PREDICTION_ID = re.compile(r"[A-Za-z0-9]{8,64}")
_MODERATED = re.compile(r"\bE005\b|flagged as sensitive", re.IGNORECASE)
_RESETS = re.compile(r"resets in ~?(\d{1,4})\s?s\b")
_SECONDS = re.compile(r"\d{1,4}(\.\d{1,3})?")


def is_prediction_id(prediction_id: object) -> bool:
    """Return whether this is a prediction id, fit for one segment of a path."""
    return isinstance(prediction_id, str) and _PREDICTION_ID.fullmatch(prediction_id) is not None


@dataclass(frozen=True, slots=True)
class ReplicateReader:
    """Reads Replicate's answers. `scrub` makes text of the provider fit for an error message."""

    scrub: Callable[[str], str]

    def accepted(self, reply: Reply) -> Job:
        """Read the answer to the POST.

        Raises:
            Rejected, Throttled: A documented refusal in Replicate's own format: there is no prediction.
            InDoubt: Any other answer.
        """
        data = reply.json() or {}
        if 200 <= reply.status < 300:
            if not is_prediction_id(data.get("id")):
                raise InDoubt(f"the POST was answered {reply.status} without a prediction id")
            return Job(data["id"])
        words = [data[name] for name in ("title", "detail") if isinstance(data.get(name), str)]
        if not words:
            raise InDoubt(f"the POST was answered {reply.status}: no words that we know")
        said = f"refused with {reply.status}: {self.scrub(': '.join(words))}"
        if reply.status == 429:
            raise Throttled(said, _pause(reply, data))
        if (reason := REFUSALS.get(reply.status)) is None:
            raise InDoubt(f"the POST was {said}")
        raise Rejected(said, reason)

    def status(self, data: Mapping[str, Any]) -> Status:
        """Return the state of a prediction.

        Replicate does not document whether a failed or cancelled prediction of an official model is billed;
        an aborted one never started, and only active time costs.

        Raises:
            JobFailed, JobModerated: It ended without a video.
            Gone: It succeeded, and its output has been removed since.
        """
        if data.get("status") == "aborted":
            raise JobFailed("the prediction was given up before it started", "unbilled", "cancelled")
        ended = read_bad_end(data.get("status"))
        if ended in ("failed", "moderated"):
            error = data.get("error")
            said = self.scrub(error) if isinstance(error, str) else "no words that we know"
            if ended == "moderated" or (isinstance(error, str) and _MODERATED.search(error)):
                raise JobModerated(said, "unknown")
            raise JobFailed(said, "unknown")
        if ended is not None:
            raise JobFailed(f"the prediction is called {ended}", "unknown", ended)
        phase = read_phase(data.get("status"))
        if phase == "succeeded" and data.get("data_removed") is True:
            raise Gone("the output was removed, as it is after an hour", final=True)
        return Status(phase, progress=100 if phase == "succeeded" else None)


def _pause(reply: Reply, data: Mapping[str, Any]) -> float:
    """Return seconds to wait: from the header, the field `retry_after`, the documented text, or `PAUSE_S`."""
    resets = _RESETS.search(str(data.get("detail")))
    named = (reply.headers.get("retry-after", ""), data.get("retry_after", ""), resets[1] if resets else "")
    known = (str(value).strip() for value in named if not isinstance(value, bool))
    return next((float(value) for value in known if _SECONDS.fullmatch(value)), PAUSE_S)


NO_KEY = "replicate needs a token: make one at replicate.com/account/api-tokens and set VIDEO_API_KEY"
NOTES = (
    "Inputs vanish an hour after the order: an unknown outcome checked later needs manual review.",
    "Outputs vanish after an hour too: a video that was not downloaded by then is lost.",
)
_MODEL = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[0-9a-f]{64})?", re.ASCII)
# Without the header Prefer, the answer comes at once.
_HEADERS = {"Content-Type": "application/json", "Accept": "application/json"}


def from_config(config: ProviderConfig) -> "Replicate":
    """Build the adapter. Its prices have to be configured: they were never read from Replicate's own page."""
    return Replicate(config.api_key, config.prices_or(None))


class Replicate:
    """Text-to-video models on replicate.com.

    Args:
        api_token: As Replicate shows it, `r8_…`.
        prices: Prices of the models on offer: `owner/name`, or `owner/name:version` for a community model.
        recipes: The input of models that differ from `REPLICATE_RECIPE`.
        capabilities: Replaces the defaults, to set the times.
        base_url: Base URL of the API; another one is for tests.
        cap_bytes: Larger videos are not downloaded.
        fetch_timeout_s: Total time of one download.

    Raises:
        NotConfigured: There is no token, or a model's name is not one of Replicate.
    """

    name = "replicate"

    def __init__(
        self,
        api_token: str,
        prices: PriceList = REPLICATE_PRICES,
        *,
        recipes: Mapping[str, Recipe] | None = None,
        capabilities: Capabilities | None = None,
        base_url: str = "https://api.replicate.com/v1",
        cap_bytes: int = MAX_DOWNLOAD_BYTES,
        fetch_timeout_s: float = 300.0,
    ) -> None:
        header = f"Bearer {check_key(api_token, NO_KEY)}"
        if wrong := [model for model in prices.models if not _MODEL.fullmatch(model)]:
            raise NotConfigured(f"{wrong[0]!r} is not a model of Replicate; write owner/name[:version]")
        self._prices, self._recipes = prices, recipes or {}
        fields = [self._recipes.get(model, REPLICATE_RECIPE).picture_field for model in prices.models]
        self.capabilities = capabilities or hosted_capabilities(
            prices, self._recipes, NOTES, pictures=prices.take_pictures and all(fields),
            grace_s=30.0, settle_s=900.0, overdue_s=2400.0,
        )  # fmt: skip
        self.account = account_of(self.name, base_url, api_token)
        self._cap_bytes, self._fetch_timeout_s = cap_bytes, fetch_timeout_s
        self._http = HttpClient(base_url, header, (api_token,))
        self._read = ReplicateReader(self._http.scrub)
        self._secure = base_url.startswith("https:")

    def __repr__(self) -> str:
        return "Replicate()"

    @property
    def date(self) -> SeenDate | None:
        """The time that the provider's latest answer named."""
        return self._http.date

    def quote(self, model: str, seconds: int, size: str, *, sound: bool = True) -> Money:
        """See `Provider.quote`."""
        return self._prices.quote(model, seconds, size, sound=sound)

    async def check(self) -> None:
        """See `Provider.check`: asks for the list of predictions."""
        await self._http.probe("/predictions", {}, PROBE_S)

    async def submit(self, video_request: VideoRequest) -> Job:
        """See `Provider.submit`: one POST, never repeated, never redirected."""
        refuse_unpriced(self._prices, video_request)
        body: dict[str, Any] = {"input": model_input(video_request, self._recipe(video_request))}
        path = f"/models/{video_request.model}/predictions"
        if ":" in video_request.model:
            path, body = "/predictions", {"version": video_request.model, **body}
        timeout_s = self.capabilities.submit_timeout_s
        return self._read.accepted(await self._http.post_once(path, json_body(body), _HEADERS, timeout_s))

    async def state(self, job_id: str, links: JobLinks | None = None) -> Status:
        """See `Provider.state`."""
        del links  # its reference defines the path
        return self._read.status(await self._prediction(job_id))

    async def fetch(self, job_id: str, into: Path, links: JobLinks | None = None) -> Asset:
        """See `Provider.fetch`. The output is a URL or a list of URLs, of which the first is used."""
        del links
        data = await self._prediction(job_id)
        if (phase := self._read.status(data).phase) != "succeeded":
            raise Transient(f"there is no output yet ({phase})")
        output = data.get("output")
        url = dig(output, (0,)) if isinstance(output, list) else output
        address = web_address(url, secure=self._secure)
        return await download_video(self._http, address, into, self._cap_bytes, self._fetch_timeout_s)

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
        """See `Provider.lookup`: by the list, newest first, whose entries show their input for an hour."""
        del now  # its list shows a prediction at once
        window = Window.around(sent_at, self.capabilities.submit_timeout_s, until)

        async def ask(query: Mapping[str, str]) -> JobPage:
            return await self._page(video_request, query)

        try:
            jobs, complete = await read_pages(
                ask, {"created_after": iso_time(window.begin)}, lambda seen: reaches_back(seen, window.begin)
            )
        except ProviderError as error:
            return Unsure(str(error))
        ours = [job for job in jobs if job["model"] in (None, video_request.model.partition(":")[0])]
        return await match_job(ours, video_request, window, claimed, complete=complete)

    async def close(self) -> None:
        """Close connections."""
        await self._http.close()

    def _recipe(self, video_request: VideoRequest) -> Recipe:
        return self._recipes.get(video_request.model, REPLICATE_RECIPE)

    async def _prediction(self, job_id: str) -> dict[str, Any]:
        reply = await self._http.get(self._path(job_id))
        if reply.status in (404, 410):
            raise Gone(f"prediction {job_id} is not known there ({reply.status})", final=reply.status == 410)
        if reply.status in (401, 403):
            raise AccessRefused(f"the question about prediction {job_id} was refused ({reply.status})")
        data = reply.json()
        if data is None or reply.status != 200:
            raise Transient(f"prediction {job_id} was answered {reply.status}")
        return data

    async def _page(self, video_request: VideoRequest, query: Mapping[str, str]) -> JobPage:
        reply = await self._http.get("/predictions", query)
        whole = (reply.json() or {}) if reply.status == 200 else {}
        results = whole.get("results")
        if not isinstance(results, list):
            raise Transient(f"the list was answered {reply.status}")
        jobs = [
            {
                "id": one["id"],
                "model": one.get("model"),
                "created_at": one.get("created_at"),
                **listed_input(one.get("input"), video_request, self._recipe(video_request)),
            }
            for one in results
            if isinstance(one, dict) and is_prediction_id(one.get("id"))
        ]
        return JobPage(jobs, len(jobs) == len(results), _query_of(whole.get("next")))

    def _path(self, job_id: str) -> str:
        if not is_prediction_id(job_id):
            raise Gone(f"{self._http.scrub(job_id)!r} is not an id of a prediction", final=True)
        return f"/predictions/{job_id}"


def _query_of(next_url: object) -> Mapping[str, str] | None:
    """Return the query of the next page's URL. Only that is used: another host must not get the key."""
    if not isinstance(next_url, str) or not next_url:
        return None
    try:
        return dict(httpx2.URL(next_url).params)
    except httpx2.InvalidURL:
        raise Transient("the list names a next page that cannot be read") from None
