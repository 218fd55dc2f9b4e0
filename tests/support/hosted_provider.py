"""A model host on loopback: the book-keeping under tests/peer_fal.py and tests/peer_replicate.py.

Like tests/peer.py it writes every request and every charge to a file before it answers, and shares no code
with the adapters. A subclass adds the routes and the shapes of one company.
"""

import asyncio
import hashlib
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from aiohttp import web

from sandbox.video_api.charge_log import ProviderLog, clip

KEY = "4c1f2a90-peer:peer-secret-0123456789"
SIGNATURE = "c0ffee-signed-and-secret"

Outcome = Literal[
    "accept",
    "charge_drop",  # charged, then the connection is dropped
    "charge_hang",
    "charge_500",
    "charge_cut",  # charged, then half an answer
    "charge_html",
    "charge_no_id",
    "drop",  # not charged
    "500",
    "refuse_invalid",
    "refuse_policy",
    "refuse_auth",
    "refuse_funds",
    "throttle",
]
Fate = Literal["video", "fail", "invalid", "moderate"]


@dataclass
class HostJob:
    id: str
    model: str
    fields: dict[str, Any]
    micros: int
    fate: Fate
    made_at: float
    word: str = ""  # a status word forced by a test
    polls: int = 0
    stopped: bool = False
    wiped: bool = False  # its input and output were removed


@dataclass
class HostPeer(ProviderLog):
    """The server. Its options are plain attributes and may be changed while it runs.

    Attributes:
        polls: Questions until a job is done; 0 means at once.
        cents_per_second: What it charges.
        bills_failed, bills_moderated: Else such a job is refunded when it is read.
        hostile: Text put into every error message.
        clock_s: How far its clock is ahead of ours.
        content: What the output address serves: video, cut, json, html, empty, huge, 302, 404, 410, 503.
        page: Entries of one page of its list.
        ignores_cursor: The list always begins at its head.
        listing: The list answers; else 403.
        odd: The list ends with an entry whose id is a number.
    """

    polls: int = 0
    cents_per_second: int = 10
    bills_failed: bool = False
    bills_moderated: bool = False
    hostile: str = "something went wrong"
    clock_s: float = 0.0
    content: str = "video"
    page: int = 100
    ignores_cursor: bool = False
    listing: bool = True
    odd: bool = False
    outcomes: deque[Outcome] = field(default_factory=deque)
    fates: deque[Fate] = field(default_factory=deque)
    jobs: dict[str, HostJob] = field(default_factory=dict)

    scheme = "Key"

    def script(self, *outcomes: Outcome) -> None:
        """Say what becomes of the next orders; after them everything is accepted."""
        self.outcomes.extend(outcomes)

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(clip)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._gone = asyncio.Event()
        main, files = (web.Application(middlewares=[self._record_request]) for _ in range(2))
        self._routes(main.router)
        files.router.add_get("/files/{id}", self._serve)
        self._runners = [web.AppRunner(app, shutdown_timeout=0.1, access_log=None) for app in (main, files)]
        ports = []
        for runner in self._runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ports.append(runner.addresses[0][1])
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.files_url = f"http://127.0.0.1:{ports[1]}/files"
        self.own_port = ports[0]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        for runner in self._runners:
            await runner.cleanup()

    def posts(self) -> list[dict[str, Any]]:
        """The requests that may cost money."""
        return [one for one in self.requests() if one["method"] == "POST" and self._is_order(one["path"])]

    def _routes(self, router: web.UrlDispatcher) -> None:
        raise NotImplementedError

    def _is_order(self, path: str) -> bool:
        raise NotImplementedError

    def _receipt(self, job: HostJob) -> tuple[int, dict[str, Any]]:
        """The answer to an accepted order."""
        raise NotImplementedError

    def _refusal(self, outcome: Outcome) -> tuple[int, Any, dict[str, str]] | None:
        raise NotImplementedError

    @web.middleware
    async def _record_request(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        self.write(
            "requests.jsonl",
            {
                "at": time.time(),
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "port": request.url.port,
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "digest": hashlib.sha256(body).hexdigest(),
                "body": body.decode("utf-8", "replace"),
            },
        )
        ours = request.url.port == self.own_port
        if ours and request.headers.get("authorization") != f"{self.scheme} {KEY}":
            status, answer, _ = self._refusal("refuse_auth") or (401, {}, {})
            return web.json_response(answer, status=status)
        return await handler(request)  # type: ignore[no-any-return]

    async def _order(self, request: web.Request, model: str, fields: dict[str, Any]) -> web.StreamResponse:
        """Refuse, or charge and then answer as the script says."""
        outcome: Outcome = self.outcomes.popleft() if self.outcomes else "accept"
        if outcome == "drop":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if (refused := self._refusal(outcome)) is not None:
            return web.json_response(refused[1], status=refused[0], headers=refused[2])
        status, receipt = self._receipt(self._charge(model, fields))
        return await self._answer(request, outcome, status, json.dumps(receipt))

    async def _answer(
        self, request: web.Request, outcome: Outcome, status: int, text: str
    ) -> web.StreamResponse:
        """Answer an order that is charged."""
        assert request.transport is not None
        if outcome == "charge_drop":
            request.transport.close()
        elif outcome == "charge_hang":
            await self._gone.wait()
        elif outcome == "charge_500":
            status, answer, _ = self._refusal("500") or (500, {}, {})
            return web.json_response(answer, status=status)
        elif outcome == "charge_html":
            return web.Response(text="<html>Welcome</html>", content_type="text/html")
        elif outcome == "charge_no_id":
            return web.json_response({"status": "accepted"}, status=202)
        elif outcome == "charge_cut":
            response = web.StreamResponse(headers={"Content-Length": str(len(text))})
            await response.prepare(request)
            await response.write(text[:40].encode())
            request.transport.close()
            return response
        return web.Response(text=text, status=status, content_type="application/json")

    def _charge(self, model: str, fields: dict[str, Any]) -> HostJob:
        name = hashlib.sha256(f"{len(self.jobs)}{fields}".encode()).hexdigest()[:26]
        job = HostJob(
            id=name,
            model=model,
            fields=fields,
            micros=int(fields["duration"]) * self.cents_per_second * 10_000,
            fate=self.fates.popleft() if self.fates else "video",
            made_at=time.time() + self.clock_s,
        )
        line = {"event": "charge", "at": time.time(), "seed": fields.get("seed"), "job": job.id}
        self.write("charges.jsonl", {**line, "micros": job.micros})
        self.jobs[job.id] = job
        return job

    def _refund(self, job: HostJob) -> None:
        if job.micros:
            line = {"event": "refund", "at": time.time(), "job": job.id, "micros": -job.micros}
            self.write("charges.jsonl", line)
        job.micros = 0

    def _settle(self, job: HostJob) -> None:
        """Give the money of a job back that ended badly, unless this host bills it."""
        billed = self.bills_moderated if job.fate == "moderate" else self.bills_failed
        if job.fate != "video" and not billed:
            self._refund(job)

    def _done(self, job: HostJob) -> bool:
        return job.polls > self.polls or self.polls == 0

    def _listed(self) -> list[HostJob]:
        return sorted(self.jobs.values(), key=lambda job: job.made_at, reverse=True)

    def _output(self, job: HostJob) -> str:
        return f"{self.files_url}/{job.id}?X-Amz-Signature={SIGNATURE}"

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        kind, video = self.content, clip()
        if kind in ("404", "410", "503"):
            return web.json_response({"detail": self.hostile}, status=int(kind))
        if kind == "302":
            return web.Response(status=302, headers={"Location": str(request.url)})
        if kind == "json":
            return web.json_response({"status": "succeeded"})
        if kind in ("html", "empty"):
            text = "<html>hello</html>" if kind == "html" else ""
            return web.Response(text=text, content_type="video/mp4" if kind == "empty" else "text/html")
        length = 60_000_000 if kind == "huge" else len(video)
        response = web.StreamResponse(headers={"Content-Type": "video/mp4", "Content-Length": str(length)})
        await response.prepare(request)
        await response.write(video if kind == "video" else video[: len(video) // 2])
        if kind != "video":
            assert request.transport is not None
            request.transport.close()
        return response
