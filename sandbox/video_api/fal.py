"""The fake fal: its queue and the request list of its platform API, from fal.ai/docs (November 2026)."""

import base64
import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar, Final

from aiohttp import web

from sandbox.video_api.server import FakeJob, FakeProviderServer, iso_time

MODEL: Final = "fal-ai/bytedance/seedance/v1.5/pro/text-to-video"
_FIELDS: Final = {"prompt", "aspect_ratio", "resolution", "duration", "seed", "generate_audio"}


@dataclass
class FakeFal(FakeProviderServer):
    """`url` is the queue, `base_url` the platform API; both want `Authorization: Key …`.

    Attributes:
        app_alias: Owner and app in the addresses that it gives for a request, where the model has others.
    """

    app_alias: str = ""

    order_path: ClassVar[str] = r"/.+"
    guarded: ClassVar[str] = "/"

    def _routes(self, app: web.Application) -> None:
        app.router.add_get("/v1/models/requests/by-endpoint", self._by_endpoint)
        app.router.add_get("/{owner}/{app}/requests/{id}/status", self._status)
        app.router.add_get("/{owner}/{app}/requests/{id}", self._result)
        app.router.add_post("/{model:.+}", self._create)

    def _scheme(self) -> str:
        return "Key"

    def _receipt(self, job: FakeJob) -> web.Response:
        own = f"{self.url}/{self.app_alias or _app_of(job)}/requests/{job.id}"
        return web.json_response(
            {
                "status": "IN_QUEUE",
                "request_id": job.id,
                "response_url": own,
                "status_url": f"{own}/status",
                "cancel_url": f"{own}/cancel",
                "queue_position": 0,
            }
        )

    def _typed(self, kind: str) -> dict[str, Any]:
        return {"detail": [{"loc": ["body", "prompt"], "msg": self.hostile, "type": kind, "input": "…"}]}

    def _refusal(self, outcome: str) -> web.Response | None:
        locked = f"User is locked. Reason: Exhausted balance. {self.hostile}"
        refusals: dict[str, tuple[int, Any]] = {
            "500": (500, {"detail": self.hostile, "error_type": "internal_error"}),
            "refuse_400": (422, self._typed("missing")),
            "refuse_policy": (422, self._typed("content_policy_violation")),
            "refuse_401": (401, {"detail": self.hostile}),
            "refuse_402": (403, {"detail": locked}),
            "throttle_429": (429, {"detail": self.hostile}),
        }
        if outcome not in refusals:
            return None
        status, body = refusals[outcome]
        return web.json_response(body, status=status)

    def _not_found(self) -> web.Response:
        return web.json_response({"detail": "Request not found"}, status=404)

    def _read_order(self, request: web.Request, body: bytes) -> tuple[str, dict[str, Any]] | web.Response:
        fields = json.loads(body)
        right = isinstance(fields.get("duration"), str) and isinstance(fields.get("seed", 0), int)
        if not fields.keys() <= _FIELDS or not right or "prompt" not in fields:
            return web.json_response(self._typed("value_error"), status=422)
        return request.match_info["model"], fields

    def _known(self, request: web.Request) -> FakeJob:
        job = super()._known(request)
        asked = f"{request.match_info['owner']}/{request.match_info['app']}"
        if asked != (self.app_alias or _app_of(job)):
            raise LookupError(job.id)
        return job

    async def _status(self, request: web.Request) -> web.Response:
        job = self._known(request)
        job.polls += 1
        if job.word:
            return web.json_response({"status": job.word, "request_id": job.id}, status=202)
        if not self._is_done(job):
            word = "IN_QUEUE" if job.polls <= 1 else "IN_PROGRESS"
            return web.json_response({"status": word, "queue_position": 0}, status=202)
        shown: dict[str, Any] = {"status": "COMPLETED", "metrics": {"inference_time": 1.0}, "logs": None}
        if job.fate == "fail":
            shown |= {"error": self.hostile, "error_type": "runner_disconnected"}
        return web.json_response(shown)

    async def _result(self, request: web.Request) -> web.Response:
        job = self._known(request)
        if not self._is_done(job):
            return web.json_response({"detail": "Request is still in progress"}, status=400)
        if job.fate == "video":
            video = {"url": self._output(job), "content_type": "video/mp4"}
            return web.json_response({"video": video, "seed": job.fields.get("seed")})
        self._refund_failed(job)
        if job.fate == "fail":
            answer = {"detail": self.hostile, "error_type": "runner_disconnected"}
            return web.json_response(answer, status=503)
        kind = "content_policy_violation" if job.fate == "moderate" else "value_error"
        return web.json_response(self._typed(kind), status=422)

    async def _by_endpoint(self, request: web.Request) -> web.Response:
        """List ended requests of one endpoint, newest first; the cursor is the number of a page."""
        if self.listing is False:
            return web.json_response({"detail": self.hostile}, status=403)
        query = request.query
        start = datetime.fromisoformat(query["start"]).timestamp()
        ended = [
            job
            for job in self._newest_first()
            if job.model == query["endpoint_id"] and self._is_done(job) and job.made_at >= start
        ]
        number = 0 if self.ignores_after else int(base64.b64decode(query.get("cursor", "MA==")))
        size = min(self.page, int(query["limit"]))
        items = [self._item(job, query.get("expand")) for job in ended[number * size : (number + 1) * size]]
        items += [{"request_id": 17, "sent_at": iso_time(0)}] * self.odd
        more = (number + 1) * size < len(ended)
        cursor = base64.b64encode(str(number + 1).encode()).decode() if more else None
        return web.json_response({"items": items, "next_cursor": cursor, "has_more": more})

    def _item(self, job: FakeJob, expand: str | None) -> dict[str, Any]:
        times = dict.fromkeys(("sent_at", "started_at", "ended_at"), iso_time(job.made_at))
        item = {"request_id": job.id, "endpoint_id": job.model, "status_code": 200, "duration": 1.0, **times}
        kept = expand == "payloads" and not job.wiped
        return item | ({"json_input": job.fields, "json_output": {}} if kept else {})


def _app_of(job: FakeJob) -> str:
    """Owner and app of a model: status and result are asked under these alone."""
    return "/".join(job.model.split("/")[:2])
