"""Replicate's predictions API on loopback, from replicate.com/docs/reference/http (November 2026)."""

import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.support.hosted_provider import HostJob, HostPeer, Outcome

MODEL = "bytedance/seedance-1-lite"


class ReplicatePeer(HostPeer):
    """`base_url` is its API. The URL of the next page names another host: whoever follows it is lost."""

    scheme = "Bearer"

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def _routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/predictions", self._list)
        router.add_post("/v1/predictions", self._create)
        router.add_post("/v1/models/{owner}/{name}/predictions", self._create)
        router.add_get("/v1/predictions/{id}", self._retrieve)
        router.add_post("/v1/predictions/{id}/cancel", self._cancel)
        router.add_get("/v1/files/{id}", self._serve)

    def _is_order(self, path: str) -> bool:
        return path.endswith("/predictions")

    def _receipt(self, job: HostJob) -> tuple[int, dict[str, Any]]:
        return 201, self._shown(job)

    def _refusal(self, outcome: Outcome) -> tuple[int, Any, dict[str, str]] | None:
        titles: dict[str, tuple[int, str]] = {
            "500": (500, "Internal server error"),
            "refuse_invalid": (422, "Input validation failed"),
            "refuse_auth": (401, "Unauthenticated"),
            "refuse_funds": (402, "Insufficient credit"),
        }
        if outcome == "throttle":
            words = f"Request was throttled. Your rate limit resets in ~7s. {self.hostile}"
            return 429, {"detail": words, "status": 429}, {}
        if outcome not in titles:
            return None
        status, title = titles[outcome]
        return status, {"title": title, "detail": self.hostile, "status": status}, {}

    async def _create(self, request: web.Request) -> web.StreamResponse:
        assert "prefer" not in {name.lower() for name in request.headers}
        body = json.loads(await request.read())
        fields = body.pop("input")
        if "owner" in request.match_info:
            assert body == {}
            model = f"{request.match_info['owner']}/{request.match_info['name']}"
        else:
            assert body.keys() == {"version"}
            model = body["version"].partition(":")[0]
        known = {"prompt", "aspect_ratio", "resolution", "duration", "seed"}
        if not fields.keys() <= known or type(fields.get("duration")) is not int:
            status, answer, _ = self._refusal("refuse_invalid") or (422, {}, {})
            return web.json_response(answer, status=status)
        return await self._order(request, model, fields)

    def _word(self, job: HostJob) -> str:
        if job.word:
            return job.word
        if job.stopped:
            return "canceled"
        if not self._done(job):
            return "starting" if job.polls <= 1 else "processing"
        return "succeeded" if job.fate == "video" else "failed"

    def _shown(self, job: HostJob) -> dict[str, Any]:
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
            "created_at": datetime.fromtimestamp(job.made_at, UTC).isoformat(),
            "source": "api",
        }

    def _known(self, request: web.Request) -> HostJob:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            text = json.dumps({"detail": "The requested resource could not be found.", "status": 404})
            raise web.HTTPNotFound(text=text, content_type="application/json")
        return job

    async def _retrieve(self, request: web.Request) -> web.Response:
        job = self._known(request)
        job.polls += 1
        if self._word(job) == "failed":
            self._settle(job)
        return web.json_response(self._shown(job))

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._known(request)
        if not self._done(job) and job.polls <= 1:
            job.stopped = True
            self._refund(job)
        return web.json_response(self._shown(job))

    async def _list(self, request: web.Request) -> web.Response:
        if not self.listing:
            return web.json_response({"detail": self.hostile, "status": 403}, status=403)
        jobs = self._listed()
        if after := request.query.get("created_after"):
            jobs = [job for job in jobs if job.made_at >= datetime.fromisoformat(after).timestamp()]
        start = 0 if self.ignores_cursor else int(request.query.get("cursor", "0"))
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
