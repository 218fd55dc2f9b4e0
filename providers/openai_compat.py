"""The `/v1/videos` protocol, which outlived the service that it was made for."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ledger.money import Money
from providers.base import (
    Asset,
    ClaimedCheck,
    Found,
    Gone,
    Job,
    NotSent,
    ProviderError,
    Reconciled,
    Rejected,
    Status,
    Take,
    Transient,
    Unsure,
)
from providers.http import Reply, Wire
from providers.job_matching import Window, settle
from providers.openai_dialects import Dialect, encode
from providers.pricing import PriceList, capabilities_of
from tools.studio.providers.address import CLOSED, NotConfigured, check_address
from tools.studio.providers.answers import Reader, dig, job_path, reaches_back, readable_id
from tools.studio.providers.capabilities import Capabilities
from tools.studio.providers.outputs import bring, web_address
from tools.studio.providers.pages import Page, walk

__all__ = ["CLOSED", "LITELLM", "NotConfigured", "OpenAICompat"]

LITELLM = (
    "a LiteLLM proxy stands in front: it sends the paid POST again by itself and drops the Idempotency-Key, "
    "so one order may be charged several times; go to the server itself, or switch its retries off "
    "(num_retries: 0) and state so with proxy_retries_off"
)
LIST_LIMIT = 100


class OpenAICompat:
    """One server that speaks `/v1/videos`, in one dialect.

    Args:
        base_url: Where the API begins, such as `https://host/v1`.
        api_key: The key (for Basic authentication: already in Base64); empty for an open server.
        dialect: What this server documents.
        prices: What it asks, as its owner or its page says.
        proxy_retries_off: The owner states that a LiteLLM proxy in front sends nothing twice.
        capabilities: In place of those that follow from dialect and prices, to set the times.
        cap_bytes: Larger videos are refused; Telegram takes 50 MB.
        fetch_timeout_s: Total time of one download.

    Raises:
        NotConfigured: There is no server to talk to, or an address or key that no request could carry.
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
        cap_bytes: int = 50_000_000,
        fetch_timeout_s: float = 300.0,
    ) -> None:
        check_address(base_url, api_key)
        self.capabilities = capabilities or capabilities_of(dialect, prices)
        self._dialect, self._prices = dialect, prices
        self._cap_bytes, self._fetch_timeout_s = cap_bytes, fetch_timeout_s
        self._wire = Wire(base_url, f"{dialect.auth} {api_key}" if api_key else "", (api_key,))
        self._read = Reader(dialect, self._wire.scrub)
        self._secure = base_url.startswith("https:")
        self._vouched, self._looked = proxy_retries_off, False

    def __repr__(self) -> str:
        return f"OpenAICompat({self._dialect.name})"

    def quote(self, model: str, seconds: int, size: str) -> Money:
        """See `Provider.quote`."""
        return self._prices.quote(model, seconds, size)

    async def check(self) -> None:
        """Look once whether a LiteLLM proxy answers. Free; the first `submit` does it where nobody did.

        Raises:
            NotConfigured: One does, and nobody stated that its retries are off.
            Transient: Nothing answered.
        """
        if not (self._looked or self._vouched):
            # Not `/health`: LiteLLM answers that one by calling every model it has.
            timeout_s = min(5.0, self.capabilities.submit_timeout_s / 4)
            reply = await self._wire.health("/health/readiness", timeout_s)
            self._wire.litellm |= "litellm_version" in (reply.json() or {})
            self._looked = True
        if self._wire.litellm and not self._vouched:
            raise NotConfigured(LITELLM)

    async def submit(self, take: Take) -> Job:
        """See `Provider.submit`: one POST, never repeated, never redirected."""
        deadline = time.monotonic() + self.capabilities.submit_timeout_s
        try:
            await self.check()
        except NotConfigured as error:
            raise Rejected(str(error), "invalid") from None
        except Transient as error:
            raise NotSent(f"nobody answers there: {error}") from None
        return self._read.accepted(await self._post(take, deadline - time.monotonic()))

    async def state(self, job_id: str) -> Status:
        """See `Provider.state`."""
        return self._read.status(await self._job(job_id))

    async def fetch(self, job_id: str, into: Path) -> Asset:
        """See `Provider.fetch`."""
        address = job_path(job_id, "/content")
        if self._dialect.result_path:
            address = self._result_url(await self._job(job_id))
        return await bring(
            self._wire,
            address,
            into,
            self._cap_bytes,
            self._fetch_timeout_s,
            waits=self._dialect.content_waits,
            running=self._read.still_running,
        )

    async def reconcile(
        self, take: Take, sent_at: float, claimed: ClaimedCheck, now: float | None = None
    ) -> Reconciled:
        """See `Provider.reconcile`: replay where the key is documented and young, else the list."""
        young = (time.time() if now is None else now) - sent_at < self._dialect.replay_for_s
        if not (self._dialect.idempotency_header and young):
            return await self.lookup(take, sent_at, claimed, now)
        try:
            return await self._replay(take, claimed)
        except (ProviderError, NotConfigured) as error:
            return Unsure(str(error))  # a refusal of the second POST says nothing about the first

    async def lookup(
        self,
        take: Take,
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
            jobs, complete = await walk(
                self._page,
                {"limit": str(LIST_LIMIT), "order": "desc"},
                lambda seen: reaches_back(seen, window.begin),
            )
        except ProviderError as error:
            return Unsure(str(error))
        return settle(jobs, take, window, claimed, complete=complete)

    async def cancel(self, job_id: str) -> bool:
        """See `Provider.cancel`."""
        how = self._dialect.cancel
        try:
            if how == "post":
                reply = await self._wire.tell("POST", job_path(job_id, "/cancel"))
                word = self._dialect.words.get(str((reply.json() or {}).get("status")))
                return reply.status == 200 and word == "cancelled"
            # DELETE also removes a finished video, which somebody paid for.
            if how == "delete" and (await self.state(job_id)).phase in ("queued", "running"):
                reply = await self._wire.tell("DELETE", job_path(job_id))
                return reply.status == 200 and (reply.json() or {}).get("deleted") is True
        except ProviderError:
            return False
        return False

    async def close(self) -> None:
        """Close connections."""
        await self._wire.close()

    async def _post(self, take: Take, total_s: float) -> Reply:
        body, kind = encode(take, self._dialect)
        headers = {"Content-Type": kind, "Accept": "application/json"}
        if self._dialect.idempotency_header:
            headers[self._dialect.idempotency_header] = take.key
        return await self._wire.post_once("/videos", body, headers, total_s)

    async def _replay(self, take: Take, claimed: ClaimedCheck) -> Reconciled:
        await self.check()
        job = self._read.accepted(await self._post(take, self.capabilities.submit_timeout_s))
        return Unsure("the replay met another request's job") if claimed(job.job_id) else Found(job)

    async def _job(self, job_id: str) -> dict[str, Any]:
        reply = await self._wire.get(job_path(job_id), enough=self._read.settled)
        if reply.status in (404, 410) and not self._read.carries_failure(reply):
            raise Gone(f"job {job_id} is not known there ({reply.status})")
        data = reply.json()
        if data is None or not (reply.status == 200 or self._read.carries_failure(reply)):
            raise Transient(f"job {job_id} was answered {reply.status}")
        return data

    async def _page(self, query: Mapping[str, str]) -> Page:
        reply = await self._wire.get("/videos", query)
        whole = (reply.json() or {}) if reply.status == 200 else {}
        page = whole.get("data")
        if not isinstance(page, list):
            raise Transient(f"the list was answered {reply.status}")
        jobs = {job["id"]: job for job in page if isinstance(job, dict) and readable_id(job)}
        more = jobs and whole.get("has_more") is not False
        after = {**query, "after": next(reversed(jobs))} if more else None
        return Page(list(jobs.values()), len(jobs) == len(page), after)

    def _result_url(self, data: dict[str, Any]) -> str:
        phase, found = self._read.status(data).phase, dig(data, self._dialect.result_path)
        if phase != "succeeded" or not isinstance(found, str):
            raise Transient(f"there is no result URL yet ({phase})")
        return web_address(found, secure=self._secure)
