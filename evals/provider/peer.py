"""A video provider on loopback, and its books: the oracle of every test about money.

It is written from the servers' documentation and shares no code with the adapters. Every request and every
charge is a line of a file before anything is answered, so the books outlive the connection, the test's
process and the worker that it kills.

    async with Peer(tmp_path, shape="inworld") as peer:
        peer.script("charge_drop")                  # the next POST is charged, then the line goes dead
        …
        assert peer.net() == {job_id: 800_000}

For crash tests the same server runs as its own process: `with running(tmp_path, shape="openai") as peer:`.
"""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Self

from aiohttp import web

from evals.provider.books import Books, PeerProcess, clip, running
from evals.provider.questions import Questions
from evals.provider.words import KEY, SIGNATURE, Content, Outcome, PeerJob, Shape, read_form

__all__ = [
    "KEY",
    "SIGNATURE",
    "Books",
    "Content",
    "Outcome",
    "Peer",
    "PeerProcess",
    "Shape",
    "clip",
    "running",
]


class Peer(Questions):
    """The server. Enter it to start it; its options may be changed while it runs."""

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(clip)
        self.directory.mkdir(parents=True, exist_ok=True)
        self._gone = asyncio.Event()
        self._runners = [
            web.AppRunner(app, shutdown_timeout=0.1, access_log=None) for app in (self._app(), self._files())
        ]
        for runner in self._runners:
            await runner.setup()
        await self.open_door()
        self.port = self._runners[0].addresses[0][1]
        await web.TCPSite(self._runners[1], "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.files_url = f"http://127.0.0.1:{self._runners[1].addresses[0][1]}/files"
        return self

    async def open_door(self) -> None:
        """Listen, at the port of before if there was one."""
        self._site = web.TCPSite(self._runners[0], "127.0.0.1", self.port)
        await self._site.start()

    async def close_door(self) -> None:
        """Be a server that is not there: nothing can be sent to it."""
        await self._site.stop()

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        for runner in self._runners:
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._at_the_door])
        app.router.add_post("/v1/videos", self._create)
        app.router.add_get("/v1/videos", self._list)
        app.router.add_get("/v1/videos/{id}", self._retrieve)
        app.router.add_delete("/v1/videos/{id}", self._delete)
        app.router.add_post("/v1/videos/{id}/cancel", self._cancel)
        app.router.add_get("/v1/videos/{id}/content", self._content)
        app.router.add_get("/health/readiness", self._health)
        app.router.add_post("/_script", self._scripted)
        return app

    def _files(self) -> web.Application:
        """Another host, as results on a content network are: it must never see the key."""
        app = web.Application(middlewares=[self._at_the_door])
        app.router.add_get("/files/{id}", self._serve)
        return app

    @web.middleware
    async def _at_the_door(self, request: web.Request, handler: Any) -> web.StreamResponse:
        body = await request.read()
        if request.path != "/_script":
            line = {
                "at": time.time(),
                "method": request.method,
                "path": request.path,
                "query": dict(request.query),
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "digest": hashlib.sha256(body).hexdigest(),
            }
            self.write("requests.jsonl", line)
        try:
            if request.path.startswith("/v1/") and not self._knows(request):
                response: web.StreamResponse = self._error(401, "invalid_api_key")
            else:
                response = await handler(request)
        except LookupError:
            response = self._error(404, "not_found")
        if self.litellm and not response.prepared:
            response.headers["x-litellm-version"] = "1.99.0"
        return response

    def _knows(self, request: web.Request) -> bool:
        scheme = "Basic" if self.shape == "inworld" else "Bearer"
        return request.headers.get("authorization") == f"{scheme} {KEY}"

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        digest = hashlib.sha256(body).hexdigest()
        outcome: Outcome = self.outcomes.popleft() if self.outcomes else "accept"
        refused = self._refusal(request, outcome)
        if refused is not None:
            return refused
        fields = self._fields(request, body)
        if isinstance(fields, web.Response):
            return fields
        key = request.headers.get("idempotency-key", "")
        honoured = self.shape == "inworld" if self.idempotency is None else self.idempotency
        if honoured and key in self.keys:
            known, job_id = self.keys[key]
            if known != digest:
                return self._error(422, "idempotency_key_reused")
            job = self.jobs[job_id]
        else:
            job = self._charge(fields, key, digest)
        return await self._answer(request, outcome, job)

    def _refusal(self, request: web.Request, outcome: Outcome) -> web.Response | None:
        if outcome == "drop":
            assert request.transport is not None
            request.transport.close()
            return web.Response()
        if outcome == "throttle_429":
            return self._error(429, "rate_limit_exceeded", {"Retry-After": "1"})
        codes = {
            "500": (500, "server_error"),
            "503": (503, "unavailable"),
            "429": (429, "rate_limit_exceeded"),
            "refuse_400": (400, "invalid_value"),
            "refuse_policy": (400, "moderation_blocked"),
            "refuse_401": (401, "invalid_api_key"),
            "refuse_402": (402, "payment_required"),
        }
        return self._error(*codes[outcome]) if outcome in codes else None

    def _fields(self, request: web.Request, body: bytes) -> dict[str, Any] | web.Response:
        form = request.content_type == "multipart/form-data"
        if form and self.shape in ("sglang", "inworld"):
            return self._error(400, "input_reference_required")
        if not form and self.shape == "vllm_omni":
            return self._error(422, "form_expected")
        fields = read_form(request.headers["content-type"], body) if form else json.loads(body)
        known = {"model", "prompt", "seconds"}
        known |= {"resolution", "aspect_ratio"} if self.shape == "inworld" else {"size"}
        known |= {"seed"} if self.shape in ("vllm_omni", "sglang") else set()
        if unknown := fields.keys() - known:
            return self._error(400, f"unknown_parameter_{min(unknown)}")
        if not {"model", "prompt"} <= fields.keys():
            return self._error(400, "missing_parameter")
        return fields

    async def _answer(self, request: web.Request, outcome: Outcome, job: PeerJob) -> web.StreamResponse:
        assert request.transport is not None
        text = json.dumps(self._shown(job))
        if outcome == "charge_drop":
            request.transport.close()
        elif outcome == "charge_hang":
            await self._gone.wait()
        elif outcome in ("charge_500", "charge_503"):
            return self._error(int(outcome.removeprefix("charge_")), "server_error")
        elif outcome == "charge_text":
            text = self.text
        elif outcome == "charge_html":
            return web.Response(text="<html>Welcome</html>", content_type="text/html")
        elif outcome == "charge_202_no_id":
            return web.json_response({"status": "queued"}, status=202)
        elif outcome == "charge_cut":
            response = web.StreamResponse(headers={"Content-Length": str(len(text))})
            await response.prepare(request)
            await response.write(text[:40].encode())
            request.transport.close()
            return response
        return web.Response(text=text, content_type="application/json")

    async def _scripted(self, request: web.Request) -> web.Response:
        said = await request.json()
        self.outcomes.extend(said.pop("outcomes", ()))
        self.fates.extend(said.pop("fates", ()))
        for name, value in said.items():
            setattr(self, name, value)
        return web.Response()


async def _main() -> None:
    parser = argparse.ArgumentParser(description="A video provider on loopback; prints its base URL.")
    parser.add_argument("--dir", type=Path, required=True, help="where the books are kept")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="an attribute of Peer"
    )
    asked = parser.parse_args()
    options = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in asked.set)}
    async with Peer(asked.dir, port=asked.port, **options) as peer:
        print(peer.base_url, flush=True)  # noqa: T201 - that is its only output
        # A parent that dies, however, closes this pipe: no peer outlives its test.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
