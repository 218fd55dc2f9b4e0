"""fal on loopback: its queue and the request list of its platform API, from fal.ai/docs (November 2026)."""

import base64
import json
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from tests.support.hosted_provider import HostJob, HostPeer, Outcome

MODEL = "fal-ai/bytedance/seedance/v1.5/pro/text-to-video"


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


class FalPeer(HostPeer):
    """`url` is the queue, `api_url` the platform API; both want `Authorization: Key …`."""

    @property
    def api_url(self) -> str:
        return f"{self.url}/v1"

    def _routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/v1/models/requests/by-endpoint", self._by_endpoint)
        router.add_get("/{owner}/{app}/requests/{id}/status", self._status)
        router.add_get("/{owner}/{app}/requests/{id}", self._result)
        router.add_put("/{owner}/{app}/requests/{id}/cancel", self._cancel)
        router.add_post("/{model:.+}", self._create)

    def _is_order(self, path: str) -> bool:
        return True

    def _receipt(self, job: HostJob) -> tuple[int, dict[str, Any]]:
        own = f"{self.url}/{'/'.join(job.model.split('/')[:2])}/requests/{job.id}"
        return 200, {
            "status": "IN_QUEUE",
            "request_id": job.id,
            "response_url": own,
            "status_url": f"{own}/status",
            "cancel_url": f"{own}/cancel",
            "queue_position": 0,
        }

    def _typed(self, kind: str) -> dict[str, Any]:
        return {"detail": [{"loc": ["body", "prompt"], "msg": self.hostile, "type": kind, "input": "…"}]}

    def _refusal(self, outcome: Outcome) -> tuple[int, Any, dict[str, str]] | None:
        locked = f"User is locked. Reason: Exhausted balance. {self.hostile}"
        refusals: dict[str, tuple[int, Any]] = {
            "500": (500, {"detail": self.hostile, "error_type": "internal_error"}),
            "refuse_invalid": (422, self._typed("missing")),
            "refuse_policy": (422, self._typed("content_policy_violation")),
            "refuse_auth": (401, {"detail": self.hostile}),
            "refuse_funds": (403, {"detail": locked}),
            "throttle": (429, {"detail": self.hostile}),
        }
        return (*refusals[outcome], {}) if outcome in refusals else None

    async def _create(self, request: web.Request) -> web.StreamResponse:
        fields = json.loads(await request.read())
        known = {"prompt", "aspect_ratio", "resolution", "duration", "seed", "generate_audio"}
        right = isinstance(fields.get("duration"), str) and isinstance(fields.get("seed", 0), int)
        if not fields.keys() <= known or not right or "prompt" not in fields:
            return web.json_response(self._typed("value_error"), status=422)
        return await self._order(request, request.match_info["model"], fields)

    def _known(self, request: web.Request) -> HostJob:
        job = self.jobs.get(request.match_info["id"])
        place = f"{request.match_info['owner']}/{request.match_info['app']}"
        if job is None or "/".join(job.model.split("/")[:2]) != place:
            text = json.dumps({"detail": "Request not found"})
            raise web.HTTPNotFound(text=text, content_type="application/json")
        return job

    async def _status(self, request: web.Request) -> web.Response:
        job = self._known(request)
        job.polls += 1
        if job.word:
            return web.json_response({"status": job.word, "request_id": job.id}, status=202)
        if not self._done(job):
            word = "IN_QUEUE" if job.polls <= 1 else "IN_PROGRESS"
            return web.json_response({"status": word, "queue_position": 0}, status=202)
        told: dict[str, Any] = {"status": "COMPLETED", "metrics": {"inference_time": 1.0}, "logs": None}
        if job.fate == "fail":
            told |= {"error": self.hostile, "error_type": "runner_disconnected"}
        return web.json_response(told)

    async def _result(self, request: web.Request) -> web.Response:
        job = self._known(request)
        if not self._done(job):
            return web.json_response({"detail": "Request is still in progress"}, status=400)
        self._settle(job)
        if job.fate == "fail":
            answer = {"detail": self.hostile, "error_type": "runner_disconnected"}
            return web.json_response(answer, status=503)
        if job.fate != "video":
            kind = "content_policy_violation" if job.fate == "moderate" else "value_error"
            return web.json_response(self._typed(kind), status=422)
        video = {"url": self._output(job), "content_type": "video/mp4"}
        return web.json_response({"video": video, "seed": job.fields.get("seed")})

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._known(request)
        if self._done(job):
            return web.json_response({"status": "ALREADY_COMPLETED"}, status=400)
        if job.polls > 1:
            return web.json_response({"status": "CANCELLATION_REQUESTED"}, status=202)
        job.stopped = True
        self._refund(job)
        return web.json_response({"status": "OK"})

    async def _by_endpoint(self, request: web.Request) -> web.Response:
        """Ended requests of one endpoint, the latest end first; the cursor is the number of a page."""
        if not self.listing:
            return web.json_response({"detail": self.hostile}, status=403)
        query = request.query
        start = datetime.fromisoformat(query["start"]).timestamp()
        ended = [
            job
            for job in self._listed()
            if job.model == query["endpoint_id"] and self._done(job) and job.made_at >= start
        ]
        number = int(base64.b64decode(query.get("cursor", "MA==")))
        number = 0 if self.ignores_cursor else number
        size = min(self.page, int(query["limit"]))
        items = [self._item(job, query.get("expand")) for job in ended[number * size : (number + 1) * size]]
        items += [{"request_id": 17, "sent_at": _iso(0)}] if self.odd else []
        more = (number + 1) * size < len(ended)
        cursor = base64.b64encode(str(number + 1).encode()).decode() if more else None
        return web.json_response({"items": items, "next_cursor": cursor, "has_more": more})

    def _item(self, job: HostJob, expand: str | None) -> dict[str, Any]:
        times = {"sent_at": _iso(job.made_at), "started_at": _iso(job.made_at), "ended_at": _iso(job.made_at)}
        item = {"request_id": job.id, "endpoint_id": job.model, "status_code": 200, "duration": 1.0, **times}
        kept = expand == "payloads" and not job.wiped
        return item | ({"json_input": job.fields, "json_output": {}} if kept else {})
