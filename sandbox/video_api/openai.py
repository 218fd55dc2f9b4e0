"""The fake `/v1/videos` provider, in every dialect that `providers/openai_dialects.py` knows.

`python -m sandbox.video_api.openai --dir DIR` runs one as a process; its standard output is its base URL.
"""

import argparse
import asyncio
import base64
import io
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from aiohttp import web
from PIL import Image

from sandbox.video_api.server import FAKE_KEY, ApiShape, FakeJob, FakeProviderServer

_LITELLM_ONLY = ("num_retries", "disable_fallbacks", "extra_headers")
_LITELLM_RETRIES = 2
_PICTURE = "input_reference"
_LITELLM: dict[str, str] = {"x-litellm-version": "1.108.7", "x-litellm-call-id": "4f1c"}


@dataclass
class FakeProvider(FakeProviderServer):
    """`/v1/videos`. Its options may be changed while it runs.

    Attributes:
        shape: The dialect whose documentation it follows.
        idempotency: Whether it honours Idempotency-Key; None as the dialect documents.
        shows: What a job shows of its order, in place of what the dialect documents.
        gateway: Headers of a gateway in front, on answers to those whose key is right. The shape `litellm` is
            LiteLLM 1.108.7 itself, as `make gateway-test` met it.
        sends: How often that gateway says that it sent an order.
    """

    shape: ApiShape = "openai"
    idempotency: bool | None = None
    shows: tuple[str, ...] | None = None
    gateway: dict[str, str] = field(default_factory=dict)
    sends: int = 1
    polls: int = 1

    job_prefix: ClassVar[str] = "video_"

    def _routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/videos", self._create)
        app.router.add_get("/v1/videos", self._list)
        app.router.add_get("/v1/videos/{id}", self._retrieve)
        app.router.add_get("/v1/videos/{id}/content", self._content)
        app.router.add_post("/_script", self._scripted)
        app.on_response_prepare.append(self._add_proxy_header)

    async def _add_proxy_header(self, request: web.Request, response: web.StreamResponse) -> None:
        if not self._has_key(request):
            return
        response.headers.update(_LITELLM if self.shape == "litellm" else self.gateway)
        if self.sends > 1 and request.method == "POST" and response.status == 200:
            response.headers["x-litellm-attempted-retries"] = str(self.sends - 1)

    def _has_key(self, request: web.Request) -> bool:
        return request.headers.get("authorization") == f"{self._scheme()} {FAKE_KEY}"

    def _scheme(self) -> str:
        return "Basic" if self.shape == "inworld" else "Bearer"

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
        error = {"code": code, "message": self.hostile, "type": "fake_error"}
        if self.shape == "litellm":  # the whole answer of its provider is a text in its own
            words = f"litellm.APIError: OpenAIException - {json.dumps({'error': error})}"
            error = {"message": words, "type": "invalid_request_error", "code": str(status)}
            headers = {f"llm_provider-{name.lower()}": value for name, value in (headers or {}).items()}
        return web.json_response({"error": error}, status=status, headers=headers)

    def _not_found(self) -> web.Response:
        return self._error(404, "not_found")

    # The paid POST

    async def _create(self, request: web.Request) -> web.StreamResponse:
        """As LiteLLM by itself, send again what failed at the provider, unless the order forbids it."""
        answer = await super()._create(request)
        if self.shape == "litellm" and answer.status >= 500:
            left = json.loads(await request.read()).get("num_retries", _LITELLM_RETRIES)
            while left > 0 and answer.status >= 500:
                answer, left = await super()._create(request), left - 1
        return answer

    def _key(self, request: web.Request, body: bytes) -> str:
        if self.shape != "litellm":
            return super()._key(request, body)
        handed_on: dict[str, str] = json.loads(body).get("extra_headers", {})
        return handed_on.get("Idempotency-Key", "")

    def _wrong_key(self) -> web.Response:
        if self.shape != "litellm":
            return super()._wrong_key()
        error = {"message": "No connected db.", "type": "no_db_connection", "param": None, "code": "400"}
        return web.json_response({"error": error}, status=400)

    def _refusal(self, outcome: str) -> web.Response | None:
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

    def _read_order(self, request: web.Request, body: bytes) -> tuple[str, dict[str, Any]] | web.Response:
        form = request.content_type == "multipart/form-data"
        if form and self.shape in ("sglang", "inworld"):
            return self._error(400, "input_reference_required")
        if not form and self.shape == "vllm_omni":
            return self._error(422, "form_expected")
        fields = read_form(request.headers["content-type"], body) if form else json.loads(body)
        known = {"model", "prompt", "seconds"}
        known |= {"resolution", "aspect_ratio"} if self.shape == "inworld" else {"size"}
        known |= {"seed", "negative_prompt"} if self.shape in ("vllm_omni", "sglang") else set()
        known |= set(_LITELLM_ONLY) if self.shape == "litellm" else set()
        known |= {_PICTURE} if self.shape in ("openai", "vllm_omni") else set()
        if unknown := fields.keys() - known:
            return self._error(400, f"unknown_parameter_{min(unknown)}")
        if not {"model", "prompt"} <= fields.keys():
            return self._error(400, "missing_parameter")
        if _PICTURE in fields and sides_of(fields[_PICTURE]) != fields["size"]:
            return self._error(400, "inpaint_image_must_match_the_requested_width_and_height")
        return fields["model"], fields

    def _seconds(self, fields: dict[str, Any]) -> int:
        return int(fields["seconds"])

    def _known_order(self, key: str, digest: str) -> FakeJob | web.Response | None:
        honoured = self.shape == "inworld" if self.idempotency is None else self.idempotency
        if not honoured or key not in self.keys:
            return None
        known, job_id = self.keys[key]
        return self.jobs[job_id] if known == digest else self._error(422, "idempotency_key_reused")

    def _job_id(self, number: str) -> str:
        if self.shape != "litellm":
            return super()._job_id(number)
        names = ("litellm:custom_llm_provider:openai", "model_id:m-1", f"video_id:video_{number}")
        text = ";".join((*names, f"deployment_id:{'0' * 64}"))
        return f"video_{base64.b64encode(text.encode()).decode()}"

    def _receipt(self, job: FakeJob) -> web.Response:
        return web.json_response(self._shown(job))

    # Jobs

    def _is_done(self, job: FakeJob) -> bool:
        return job.polls > self.polls  # never before the first question, unlike at a host

    def _word(self, job: FakeJob) -> str:
        if job.word:
            return job.word
        if not self._is_done(job):
            return "queued" if job.polls <= 1 else "in_progress"
        return "completed" if job.fate == "video" else "failed"

    def _shown(self, job: FakeJob) -> dict[str, Any]:
        word = self._word(job)
        usual = {"sglang": ("size", "seconds", "model"), "inworld": ("model",)}
        shows = self.shows or usual.get(self.shape, ("model", "prompt", "size", "seconds"))
        shown: dict[str, Any] = {name: str(job.fields[name]) for name in shows if name in job.fields}
        shown |= {"id": job.id, "object": "video", "status": word, "created_at": int(job.made_at)}
        shown["progress"] = {"completed": 100, "in_progress": 50}.get(word, 0)
        if word == "failed":
            code = "moderation_blocked" if job.fate == "moderate" else "generation_failed"
            shown["error"] = {"code": code, "message": self.hostile}
        if word == "completed" and self.shape == "inworld":
            shown["output"] = {"videos": [{"url": self._output(job)}]}
        return shown

    async def _list(self, request: web.Request) -> web.Response:
        if self.shape == "litellm":
            return self._error(400, "provider_not_named")
        if not (self.shape != "inworld" if self.listing is None else self.listing):
            return self._not_found()
        jobs = self._newest_first()
        names = [job.id for job in jobs]
        after = request.query.get("after", "")
        start = names.index(after) + 1 if after in names and not self.ignores_after else 0
        end = start + min(self.page, int(request.query.get("limit", "20")))
        page: dict[str, Any] = {"object": "list", "data": [self._shown(job) for job in jobs[start:end]]}
        if self.shape != "sglang":
            page["has_more"] = end < len(jobs)
        return web.json_response(page)

    async def _retrieve(self, request: web.Request) -> web.Response:
        job = self._known(request)
        job.polls += 1
        shown = self._shown(job)
        failed = shown["status"] == "failed"
        if failed:
            self._refund_failed(job)
        return web.json_response(shown, status=500 if failed and self.shape == "vllm_omni" else 200)

    async def _content(self, request: web.Request) -> web.StreamResponse:
        job = self._known(request)
        if self._word(job) != "completed":
            return self._error(404, "still_in_progress")
        if request.query.get("variant") == "thumbnail":
            still = io.BytesIO()
            Image.new("RGB", (64, 112), "navy").save(still, "JPEG")
            return web.Response(body=still.getvalue(), content_type="image/jpeg")
        return await self._serve(request)

    async def _scripted(self, request: web.Request) -> web.Response:
        """Take `outcomes`, `fates` and options from the test that runs this process."""
        given = await request.json()
        self.outcomes.extend(given.pop("outcomes", ()))
        self.fates.extend(given.pop("fates", ()))
        for name, value in given.items():
            setattr(self, name, value)
        return web.Response()


def sides_of(picture: bytes) -> str:
    """Return `{width}x{height}` of a picture."""
    with Image.open(io.BytesIO(picture)) as file:
        return f"{file.width}x{file.height}"


def read_form(kind: str, body: bytes) -> dict[str, Any]:
    """Parse a form strictly by RFC 7578; aiohttp's own reader wants a stream that was not read yet.

    A file is its bytes.
    """
    line = b"--" + kind.partition("boundary=")[2].encode()
    first, *parts, last = (b"\r\n" + body).split(b"\r\n" + line)
    assert (first, last) == (b"", b"--\r\n"), "not a whole form"
    fields: dict[str, Any] = {}
    for part in parts:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        asked = head.decode().removeprefix('Content-Disposition: form-data; name="')
        name, _, is_file = asked.removesuffix('"').partition('"; filename="')
        assert name not in fields, f"{name} twice"
        fields[name] = value if is_file else value.decode()
    return fields


async def _main() -> None:
    parser = argparse.ArgumentParser(description="A fake video provider on loopback; prints its base URL.")
    parser.add_argument("--dir", type=Path, required=True, help="where the charge log is kept")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=JSON", help="an option of FakeProvider"
    )
    asked = parser.parse_args()
    options = {name: json.loads(value) for name, value in (pair.split("=", 1) for pair in asked.set)}
    async with FakeProvider(asked.dir, port=asked.port, **options) as fake_provider:
        print(fake_provider.base_url, flush=True)  # noqa: T201 - that is its only output
        # The pipe closes when the parent dies, however it dies: no process outlives its test.
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_main())
