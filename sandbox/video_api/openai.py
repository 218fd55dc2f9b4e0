"""/v1/videos."""

import argparse
import asyncio
import hashlib
import io
import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from aiohttp import web
from PIL import Image

from sandbox.video_api.charge_log import clip
from sandbox.video_api.server import FAKE_KEY, FakeJob, FakeProviderJobs, PostOutcome, read_form


class FakeProviderReads(FakeProviderJobs):
    """The handlers of everything but the paid POST."""

    def _known(self, request: web.Request) -> FakeJob:
        return self.jobs[request.match_info["id"]]

    async def _list(self, request: web.Request) -> web.Response:
        if not (self.shape != "inworld" if self.listing is None else self.listing):
            return self._error(404, "not_found")
        jobs = sorted(self.jobs.values(), key=lambda job: job.made_at, reverse=True)
        names = [job.id for job in jobs]
        after = request.query.get("after", "")
        start = names.index(after) + 1 if after in names and not self.ignores_after else 0
        end = start + int(request.query.get("limit", "20"))
        page: dict[str, Any] = {"object": "list", "data": [self._shown(job) for job in jobs[start:end]]}
        if self.shape != "sglang":
            page["has_more"] = end < len(jobs)
        return web.json_response(page)

    async def _retrieve(self, request: web.Request) -> web.Response:
        job = self._known(request)
        job.polls += 1
        shown = self._shown(job)
        failed = shown["status"] == "failed"
        if failed and job.micros:
            billed = self.bills_moderated if job.fate == "moderate" else self.bills_failed
            self._refund(job, billed=billed)
        return web.json_response(shown, status=500 if failed and self.shape == "vllm_omni" else 200)

    async def _delete(self, request: web.Request) -> web.Response:
        job = self._known(request)
        del self.jobs[job.id]
        return web.json_response({"id": job.id, "deleted": True, "object": "video.deleted"})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._known(request)
        if self._word(job) != "queued":
            return self._error(409, "video_not_cancellable")
        job.stopped = True
        self._refund(job, billed=False)
        return web.json_response(self._shown(job))

    async def _content(self, request: web.Request) -> web.StreamResponse:
        job = self._known(request)
        if self._word(job) != "completed":
            return self._error(404, "still_in_progress")
        if request.query.get("variant") == "thumbnail":
            still = io.BytesIO()
            Image.new("RGB", (64, 112), "navy").save(still, "JPEG")
            return web.Response(body=still.getvalue(), content_type="image/jpeg")
        return await self._serve(request)

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        kind, video = self.content, clip()
        if kind == "cut once":
            self.content = "video"  # this download breaks off; whoever asks again gets it whole
        if kind in ("404", "410", "503"):
            return self._error(int(kind), "not_here")
        if kind == "302":
            return web.Response(status=302, headers={"Location": str(request.url)})
        if kind in ("json", "running_json"):
            word = "in_progress" if kind == "running_json" else "completed"
            return web.json_response({"id": request.match_info["id"], "status": word})
        if kind == "html":
            return web.Response(text="<html>hello</html>", content_type="text/html")
        if kind == "empty":
            return web.Response(body=b"", content_type="video/mp4")
        length = 60_000_000 if kind == "huge" else len(video)
        response = web.StreamResponse(headers={"Content-Type": "video/mp4", "Content-Length": str(length)})
        with suppress(ConnectionResetError):  # whoever asked was killed meanwhile: that is their affair
            await response.prepare(request)
            await response.write(video if kind == "video" else video[: len(video) // 2])
        if kind != "video" and request.transport is not None:
            request.transport.close()
        return response

    async def _health(self, _: web.Request) -> web.Response:
        if self.litellm:
            return web.json_response({"status": "healthy", "litellm_version": "1.99.0"})
        return self._error(404, "not_found")


class FakeProvider(FakeProviderReads):
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
        await self.start_listening()
        self.port = self._runners[0].addresses[0][1]
        await web.TCPSite(self._runners[1], "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self.port}/v1"
        self.files_url = f"http://127.0.0.1:{self._runners[1].addresses[0][1]}/files"
        return self

    async def start_listening(self) -> None:
        """Listen, at the port of before if there was one."""
        self._site = web.TCPSite(self._runners[0], "127.0.0.1", self.port)
        await self._site.start()

    async def stop_listening(self) -> None:
        """Be a server that is not there: nothing can be sent to it."""
        await self._site.stop()

    async def __aexit__(self, *_: object) -> None:
        self._gone.set()
        for runner in self._runners:
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._record_request])
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
        app = web.Application(middlewares=[self._record_request])
        app.router.add_get("/files/{id}", self._serve)
        return app

    @web.middleware
    async def _record_request(self, request: web.Request, handler: Any) -> web.StreamResponse:
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
        return request.headers.get("authorization") == f"{scheme} {FAKE_KEY}"

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        digest = hashlib.sha256(body).hexdigest()
        outcome: PostOutcome = self.outcomes.popleft() if self.outcomes else "accept"
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

    def _refusal(self, request: web.Request, outcome: PostOutcome) -> web.Response | None:
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

    async def _answer(self, request: web.Request, outcome: PostOutcome, job: FakeJob) -> web.StreamResponse:
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
    async with FakeProvider(asked.dir, port=asked.port, **options) as fake_provider:
        print(fake_provider.base_url, flush=True)  # noqa: T201 - that is its only output
        # A parent that dies, however, closes this pipe: no peer outlives its test.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
