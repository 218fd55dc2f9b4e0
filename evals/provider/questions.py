"""What the provider answers to questions, which cost nothing: jobs, lists, the finished video."""

import io
from contextlib import suppress
from typing import Any

from aiohttp import web
from PIL import Image

from evals.provider.books import clip
from evals.provider.desk import Desk
from evals.provider.words import PeerJob


class Questions(Desk):
    """The handlers of everything but the paid POST."""

    def _known(self, request: web.Request) -> PeerJob:
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
