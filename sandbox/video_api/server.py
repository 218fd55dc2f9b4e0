"""Base of the fake providers: an HTTP server that charges, fails as scripted, and logs both to disk.

A subclass adds the routes and shapes of one protocol: `openai` (`/v1/videos`), `fal`, `replicate`. None
shares code with the adapters in `providers/`. Every request and every charge is written to a file before the
answer is sent, so that a test can compare what the app believes with what was charged.
"""

import asyncio
import hashlib
import time
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal, Self
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler

from sandbox.video_api.charge_log import ProviderLog, clip

FAKE_KEY: Final = "4c1f2a90-fake:fake-secret-0123456789"
"""The API key of every fake provider, in the form of fal's: id and secret."""

SIGNATURE: Final = "c0ffee-signed-and-secret"
"""Stands in the address of every finished video, as on a content network; must not reach a log."""

ApiShape = Literal["openai", "vllm_omni", "sglang", "inworld", "litellm"]
PostOutcome = Literal[
    "accept",
    "charge_drop",  # charged, then the connection is dropped
    "charge_hang",
    "charge_500",
    "charge_cut",  # charged, then half an answer
    "charge_html",
    "charge_202_no_id",
    "charge_text",  # charged, then 200 with the option `text`
    "charge_503",
    "drop",  # not charged
    "500",
    "503",
    "refuse_400",  # an invalid order; fal and Replicate answer 422
    "refuse_policy",
    "refuse_401",  # a wrong key
    "refuse_402",  # no funds; fal answers 403
    "throttle_429",
    "429",  # without Retry-After
]
JobFate = Literal["video", "fail", "moderate"]
Content = Literal[
    "video", "cut", "cut once", "json", "running_json", "html", "empty",
    "400", "401", "403", "404", "410", "503", "302", "redirect", "huge",
]  # fmt: skip

_HUGE: Final = 600_000_000
_CUT_AFTER: Final = 40


@dataclass
class FakeJob:
    """One job.

    Attributes:
        micros: What is charged for it, in micro-dollars; 0 after a refund.
        fate: How it ends; `invalid` (fal only) is a job whose arguments turn out to be wrong.
        word: A status that a test forces on it.
        polls: How often its state was asked for.
        wiped: Its input and output were removed, as hosts do after a while.
    """

    id: str
    model: str
    fields: dict[str, Any]
    micros: int
    fate: JobFate | Literal["invalid"]
    made_at: float
    word: str = ""
    polls: int = 0
    wiped: bool = False


@dataclass
class FakeProviderServer(ProviderLog, ABC):
    """The server. Enter it to start it; options are plain attributes that may be changed while it runs.

    Attributes:
        port: 0 takes a free one.
        listing: Whether its list of jobs answers; None as the protocol documents.
        ignores_after: The list always begins at its head, whatever cursor is sent.
        page: Entries of one page of the list at most.
        odd: Each page of the list ends with an entry whose id is a number (fal and Replicate).
        polls: How often a job is asked for until it is done; 0 is at once.
        cents_per_second: What it charges.
        bills_failed: Whether a failed job stays charged; else it is refunded when it is read.
        bills_moderated: The same for a moderated job.
        hostile: Text put into every error message.
        clock_s: How far its clock is ahead of ours, in seconds.
        content: What the address of a finished video serves; `cut once` turns into `video` by itself, `302`
            leads to itself, `redirect` to where the video is.
        redirect: Status of `redirect`, and whether it names another host or a path.
        film: The finished video; None is a small clip.
        text: The body of `charge_text`.
        note: Text in the address of a finished video.
        outcomes: What happens to the next POSTs; after them everything is accepted.
        fates: How the next jobs end; after them every job ends in a video.
        keys: By idempotency key, the digest of the body and the id of the job.
        url: Root of the API, once started; `base_url` is the same with `/v1`.
        files_url: Root of the finished videos, on another port: that host must never see the key.
    """

    port: int = 0
    listing: bool | None = None
    ignores_after: bool = False
    page: int = 100
    odd: bool = False
    polls: int = 0
    cents_per_second: int = 10
    bills_failed: bool = False
    bills_moderated: bool = False
    hostile: str = "something went wrong"
    clock_s: float = 0.0
    content: Content = "video"
    redirect: tuple[int, Literal["host", "path"]] = (302, "host")
    film: bytes | None = None
    text: str = ""
    note: str = ""
    outcomes: deque[PostOutcome] = field(default_factory=deque)
    fates: deque[JobFate | Literal["invalid"]] = field(default_factory=deque)
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    url: str = field(default="", init=False)
    files_url: str = field(default="", init=False)

    guarded: ClassVar[str] = "/v1/"
    """Requests below this path need the key."""
    job_prefix: ClassVar[str] = ""

    @property
    def base_url(self) -> str:
        """Root of the API's first version."""
        return f"{self.url}/v1"

    def script(self, *outcomes: PostOutcome) -> None:
        """Set what happens to the next POSTs; after them everything is accepted."""
        self.outcomes.extend(outcomes)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(clip)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._closing = asyncio.Event()
        api = web.Application(middlewares=[self._record_request, self._authorize])
        self._routes(api)
        files = web.Application(middlewares=[self._record_request])
        files.router.add_get("/files/{id}", self._serve)
        self._runners = [web.AppRunner(app, shutdown_timeout=0.1, access_log=None) for app in (api, files)]
        for runner in self._runners:
            await runner.setup()
        await self.start_listening()
        self.port = self._runners[0].addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        await web.TCPSite(self._runners[1], "127.0.0.1", 0).start()
        self.files_url = f"http://127.0.0.1:{self._runners[1].addresses[0][1]}/files"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        for runner in self._runners:
            await runner.cleanup()

    async def start_listening(self) -> None:
        """Listen, at the previous port if there was one."""
        self._site = web.TCPSite(self._runners[0], "127.0.0.1", self.port)
        await self._site.start()

    async def stop_listening(self) -> None:
        """Refuse every connection: nothing can be sent."""
        await self._site.stop()

    # What a protocol adds

    @abstractmethod
    def _routes(self, app: web.Application) -> None:
        """Add the routes of this protocol."""

    def _scheme(self) -> str:
        """The word before the key in `Authorization`."""
        return "Bearer"

    @abstractmethod
    def _read_order(self, request: web.Request, body: bytes) -> tuple[str, dict[str, Any]] | web.Response:
        """Return model and fields of a POST, or the refusal of what the protocol does not document."""

    def _seconds(self, fields: dict[str, Any]) -> int:
        """Length of the video that was ordered."""
        return int(fields["duration"])

    @abstractmethod
    def _receipt(self, job: FakeJob) -> web.Response:
        """Answer an accepted order."""

    @abstractmethod
    def _refusal(self, outcome: str) -> web.Response | None:
        """Answer an order that is refused; None if this outcome is no refusal."""

    @abstractmethod
    def _not_found(self) -> web.Response:
        """Add the routes of this protocol."""

    def _known_order(self, key: str, digest: str) -> FakeJob | web.Response | None:
        """Return what an idempotency key was used for, where the protocol honours keys."""
        del key, digest
        return None

    # Requests

    @web.middleware
    async def _record_request(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        body = await request.read()
        if request.path != "/_script":
            line = {
                "at": time.time(),
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "port": request.url.port,
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "digest": hashlib.sha256(body).hexdigest(),
                "body": body.decode("utf-8", "replace"),
            }
            self.write("requests.jsonl", line)
        return await handler(request)

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        right = request.headers.get("authorization") == f"{self._scheme()} {FAKE_KEY}"
        if request.path.startswith(self.guarded) and not right:
            return self._wrong_key()
        try:
            return await handler(request)
        except LookupError:
            return self._not_found()

    def _wrong_key(self) -> web.Response:
        return self._refusal("refuse_401") or web.Response(status=401)

    # The paid POST

    async def _create(self, request: web.Request) -> web.StreamResponse:
        """Refuse the order, or charge it and then answer as scripted."""
        body = await request.read()
        outcome: PostOutcome = self.outcomes.popleft() if self.outcomes else "accept"
        if outcome == "drop":
            return self._hang_up(request)
        if (refused := self._refusal(outcome)) is not None:
            return refused
        order = self._read_order(request, body)
        if isinstance(order, web.Response):
            return order
        key, digest = self._key(request, body), hashlib.sha256(body).hexdigest()
        found = self._known_order(key, digest) or self._charge(*order, key, digest)
        return found if isinstance(found, web.Response) else await self._answer(request, outcome, found)

    def _key(self, request: web.Request, body: bytes) -> str:
        """Return the order's idempotency key; empty without one."""
        del body
        return request.headers.get("idempotency-key", "")

    async def _answer(self, request: web.Request, outcome: PostOutcome, job: FakeJob) -> web.StreamResponse:
        """Answer an order that is charged."""
        if outcome == "charge_drop":
            return self._hang_up(request)
        if outcome == "charge_hang":
            await self._closing.wait()
        if outcome == "charge_cut":
            return await self._cut_answer(request, job)
        answers = {
            "charge_text": web.Response(text=self.text, content_type="application/json"),
            "charge_html": web.Response(text="<html>Welcome</html>", content_type="text/html"),
            "charge_202_no_id": web.json_response({"status": "queued"}, status=202),
        }
        error = self._refusal(outcome.removeprefix("charge_"))
        return answers.get(outcome) or error or self._receipt(job)

    async def _cut_answer(self, request: web.Request, job: FakeJob) -> web.StreamResponse:
        whole = self._receipt(job).body
        assert isinstance(whole, bytes)
        response = web.StreamResponse(headers={"Content-Length": str(len(whole))})
        await response.prepare(request)
        await response.write(whole[:_CUT_AFTER])
        self._hang_up(request)
        return response

    @staticmethod
    def _hang_up(request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.close()
        return web.Response()

    # Jobs and money

    def _charge(self, model: str, fields: dict[str, Any], key: str, digest: str) -> FakeJob:
        number = hashlib.sha256(f"{len(self.jobs)}{digest}".encode()).hexdigest()[:26]
        job = FakeJob(
            id=self._job_id(number),
            model=model,
            fields=fields,
            micros=self._seconds(fields) * self.cents_per_second * 10_000,
            fate=self.fates.popleft() if self.fates else "video",
            made_at=time.time() + self.clock_s,
        )
        line = {"event": "charge", "at": time.time(), "key": key, "digest": digest}
        line |= {"seed": fields.get("seed"), "job": job.id, "micros": job.micros}
        self.write("charges.jsonl", line)
        self.jobs[job.id] = job
        self.keys[key] = (digest, job.id)
        return job

    def _job_id(self, number: str) -> str:
        return self.job_prefix + number

    def _refund(self, job: FakeJob) -> None:
        if job.micros:
            line = {"event": "refund", "at": time.time(), "job": job.id, "micros": -job.micros}
            self.write("charges.jsonl", line)
        job.micros = 0

    def _refund_failed(self, job: FakeJob) -> None:
        """Refund a job that ended badly, unless such jobs are billed."""
        if not (self.bills_moderated if job.fate == "moderate" else self.bills_failed):
            self._refund(job)

    def _known(self, request: web.Request) -> FakeJob:
        """Return the job that a path names.

        Raises:
            LookupError: There is none.
        """
        return self.jobs[request.match_info["id"]]

    def _is_done(self, job: FakeJob) -> bool:
        return self.polls == 0 or job.polls > self.polls

    def _newest_first(self) -> list[FakeJob]:
        return sorted(self.jobs.values(), key=lambda job: job.made_at, reverse=True)

    def _output(self, job: FakeJob) -> str:
        """Address of a finished video."""
        note = f"&note={quote(self.note)}" if self.note else ""
        return f"{self.files_url}/{job.id}?X-Amz-Signature={SIGNATURE}{note}"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        """Serve a finished video, or what `content` says in its place."""
        kind, video = self.content, self.film or clip()
        if kind == "cut once":
            self.content = "video"  # this download breaks off; the next one gets it whole
        page = self._page_in_place_of_video(request)
        if page is not None:
            return page
        if kind == "redirect":
            kind = "video"
        length = _HUGE if kind == "huge" else len(video)
        response = web.StreamResponse(headers={"Content-Type": "video/mp4", "Content-Length": str(length)})
        with suppress(ConnectionResetError):  # the client was killed meanwhile
            await response.prepare(request)
            await response.write(video if kind == "video" else video[: len(video) // 2])
        if kind != "video":
            self._hang_up(request)
        return response

    def _page_in_place_of_video(self, request: web.Request) -> web.Response | None:
        job = request.match_info["id"]
        if self.content == "redirect" and "moved" not in request.query:
            status, to = self.redirect
            where = self.files_url.removesuffix("/files") if to == "host" else ""
            path = f"/files/{job}" if to == "host" else request.path
            return web.Response(status=status, headers={"Location": f"{where}{path}?moved=1&sig={SIGNATURE}"})
        if self.content.isdigit() and self.content != "302":
            return web.json_response({"detail": self.hostile}, status=int(self.content))
        pages: dict[str, web.Response] = {
            "302": web.Response(status=302, headers={"Location": str(request.url)}),
            "json": web.json_response({"id": job, "status": "completed"}),
            "running_json": web.json_response({"id": job, "status": "in_progress"}),
            "html": web.Response(text="<html>hello</html>", content_type="text/html"),
            "empty": web.Response(body=b"", content_type="video/mp4"),
        }
        return pages.get(self.content)


def iso_time(seconds: float) -> str:
    """Seconds since 1970 as hosts write them."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()
