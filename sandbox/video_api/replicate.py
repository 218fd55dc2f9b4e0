"""The fake Replicate: its predictions API, from replicate.com/docs/reference/http (November 2026)."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

from aiohttp import web

from sandbox.video_api.server import FakeJob, FakeProviderServer, iso_time

MODEL: Final = "bytedance/seedance-1-lite"
_FIELDS: Final = {"prompt", "aspect_ratio", "resolution", "duration", "seed", "image"}


@dataclass
class FakeReplicate(FakeProviderServer):
    """`base_url` is its API. The URL of the next page names another host, which a client must not follow."""

    order_path: ClassVar[str] = r"/v1/(.+/)?predictions"

    def _routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/predictions", self._list)
        app.router.add_post("/v1/predictions", self._create)
        app.router.add_post("/v1/models/{owner}/{name}/predictions", self._create)
        app.router.add_get("/v1/predictions/{id}", self._retrieve)
        app.router.add_get("/v1/files/{id}", self._serve)

    def _receipt(self, job: FakeJob) -> web.Response:
        return web.json_response(self._shown(job), status=201)

    def _refusal(self, outcome: str) -> web.Response | None:
        if outcome == "throttle_429":
            words = f"Request was throttled. Your rate limit resets in ~7s. {self.hostile}"
            return web.json_response({"detail": words, "status": 429}, status=429)
        titles: dict[str, tuple[int, str]] = {
            "500": (500, "Internal server error"),
            "refuse_400": (422, "Input validation failed"),
            "refuse_401": (401, "Unauthenticated"),
            "refuse_402": (402, "Insufficient credit"),
        }
        return self._error(*titles[outcome]) if outcome in titles else None

    def _error(self, status: int, title: str) -> web.Response:
        body = {"title": title, "detail": self.hostile, "status": status}
        return web.json_response(body, status=status)

    def _not_found(self) -> web.Response:
        answer = {"detail": "The requested resource could not be found.", "status": 404}
        return web.json_response(answer, status=404)

    def _read_order(self, request: web.Request, body: bytes) -> tuple[str, dict[str, Any]] | web.Response:
        assert "prefer" not in {name.lower() for name in request.headers}
        order = json.loads(body)
        fields = order.pop("input")
        if "owner" in request.match_info:
            assert order == {}
            model = f"{request.match_info['owner']}/{request.match_info['name']}"
        else:
            assert order.keys() == {"version"}
            model = order["version"].partition(":")[0]
        if not fields.keys() <= _FIELDS or type(fields.get("duration")) is not int:
            return self._error(422, "Input validation failed")
        return model, fields

    def _word(self, job: FakeJob) -> str:
        if job.word:
            return job.word
        if not self._is_done(job):
            return "starting" if job.polls <= 1 else "processing"
        return "succeeded" if job.fate == "video" else "failed"

    def _shown(self, job: FakeJob) -> dict[str, Any]:
        word = self._word(job)
        sensitive = f"The input or output was flagged as sensitive. (E005) {self.hostile}"
        return {
            "id": job.id,
            "model": job.model,
            "version": "hidden",
            "status": word,
            "input": {} if job.wiped else job.fields,
            "output": self._output(job) if word == "succeeded" and not job.wiped else None,
            "error": (sensitive if job.fate == "moderate" else self.hostile) if word == "failed" else None,
            "data_removed": job.wiped,
            "created_at": iso_time(job.made_at),
            "source": "api",
        }

    async def _retrieve(self, request: web.Request) -> web.Response:
        job = self._known(request)
        job.polls += 1
        if self._word(job) == "failed":
            self._refund_failed(job)
        return web.json_response(self._shown(job))

    async def _list(self, request: web.Request) -> web.Response:
        if self.listing is False:
            return web.json_response({"detail": self.hostile, "status": 403}, status=403)
        jobs = self._newest_first()
        if after := request.query.get("created_after"):
            jobs = [job for job in jobs if job.made_at >= datetime.fromisoformat(after).timestamp()]
        start = 0 if self.ignores_after else int(request.query.get("cursor", "0"))
        end = start + self.page
        query = {**request.query, "cursor": str(end)}
        more = "&".join(f"{name}={value}" for name, value in query.items())
        return web.json_response(
            {
                "previous": None,
                "next": f"https://elsewhere.invalid/v1/predictions?{more}" if end < len(jobs) else None,
                "results": [*(self._shown(job) for job in jobs[start:end]), *([{"id": 17}] * self.odd)],
            }
        )
