"""Base server: requests, charges, faults."""

import hashlib
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import quote

from aiohttp import web

from sandbox.video_api.charge_log import ProviderLog

FAKE_KEY: Final = "peer-key-0123456789"
SIGNATURE: Final = "c0ffee-signed-and-secret"

ApiShape = Literal["openai", "vllm_omni", "sglang", "inworld"]
PostOutcome = Literal[
    "accept",
    "charge_drop",  # charged, then the connection is dropped
    "charge_hang",
    "charge_500",
    "charge_cut",  # charged, then half an answer
    "charge_html",
    "charge_202_no_id",
    "charge_text",  # charged, then 200 with `Desk.text`
    "charge_503",
    "drop",  # not charged
    "500",
    "503",
    "refuse_400",
    "refuse_policy",
    "refuse_401",
    "refuse_402",
    "throttle_429",
    "429",  # without Retry-After
]
JobFate = Literal["video", "fail", "moderate"]
Content = Literal[
    "video", "cut", "cut once", "json", "running_json", "html", "empty", "404", "410", "503", "302", "huge",
]  # fmt: skip


def read_form(kind: str, body: bytes) -> dict[str, str]:
    """Take a form apart by the letter of RFC 7578: aiohttp's own reader wants a stream that nobody read."""
    line = b"--" + kind.partition("boundary=")[2].encode()
    first, *parts, last = (b"\r\n" + body).split(b"\r\n" + line)
    assert (first, last) == (b"", b"--\r\n"), "not a whole form"
    fields = {}
    for part in parts:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        name = head.decode().removeprefix('Content-Disposition: form-data; name="').removesuffix('"')
        assert name not in fields, f"{name} twice"
        fields[name] = value.decode()
    return fields


@dataclass
class FakeJob:
    """One job; `word` is a status that a test forces on it."""

    id: str
    fields: dict[str, Any]
    micros: int
    fate: JobFate
    made_at: float
    word: str = ""
    polls: int = 0
    stopped: bool = False


@dataclass
class FakeProviderJobs(ProviderLog):
    """What the provider knows and shows. Its options are plain attributes and may be changed while it runs.

    Attributes:
        shape: Whose documentation it follows.
        port: 0 takes a free one.
        idempotency: Honours Idempotency-Key; None as the shape documents.
        listing: Has `GET /videos`; None as the shape documents.
        ignores_after: The list always begins at its head, whatever cursor is sent.
        shows: What a job shows of its order, in place of what the shape documents.
        polls: Questions until a job is done.
        cents_per_second: What it charges.
        bills_failed, bills_moderated: Else such a job is refunded when it ends.
        hostile: Text put into every error message.
        clock_s: How far its clock is ahead of ours.
        litellm: Answers as a LiteLLM proxy.
        content: What the output address serves; `cut once` turns into `video` by itself.
        text: The body of `charge_text`.
        note: Text in the address of a finished video.
    """

    shape: ApiShape = "openai"
    port: int = 0
    idempotency: bool | None = None
    listing: bool | None = None
    ignores_after: bool = False
    shows: tuple[str, ...] | None = None
    polls: int = 1
    cents_per_second: int = 10
    bills_failed: bool = False
    bills_moderated: bool = False
    hostile: str = "something went wrong"
    clock_s: float = 0.0
    litellm: bool = False
    content: Content = "video"
    text: str = ""
    note: str = ""
    base_url: str = ""
    files_url: str = ""
    outcomes: deque[PostOutcome] = field(default_factory=deque)
    fates: deque[JobFate] = field(default_factory=deque)
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)

    def script(self, *outcomes: PostOutcome) -> None:
        """Say what becomes of the next POSTs; after them everything is accepted."""
        self.outcomes.extend(outcomes)

    def _error(self, status: int, code: str, headers: dict[str, str] | None = None) -> web.Response:
        error = {"code": code, "message": self.hostile, "type": "peer_error"}
        return web.json_response({"error": error}, status=status, headers=headers)

    def _charge(self, fields: dict[str, Any], key: str, digest: str) -> FakeJob:
        job = FakeJob(
            id=f"video_{hashlib.sha256(f'{len(self.jobs)}{digest}'.encode()).hexdigest()[:32]}",
            fields=fields,
            micros=int(fields["seconds"]) * self.cents_per_second * 10_000,
            fate=self.fates.popleft() if self.fates else "video",
            made_at=time.time() + self.clock_s,
        )
        line = {"event": "charge", "at": time.time(), "key": key, "digest": digest}
        self.write("charges.jsonl", {**line, "job": job.id, "micros": job.micros})
        self.jobs[job.id] = job
        self.keys[key] = (digest, job.id)
        return job

    def _word(self, job: FakeJob) -> str:
        if job.word:
            return job.word
        if job.stopped:
            return "cancelled"
        if job.polls <= self.polls:
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
            note = f"&note={quote(self.note)}" if self.note else ""
            address = f"{self.files_url}/{job.id}?X-Amz-Signature={SIGNATURE}{note}"
            shown["output"] = {"videos": [{"url": address}]}
        return shown

    def _refund(self, job: FakeJob, *, billed: bool) -> None:
        if not billed:
            line = {"event": "refund", "at": time.time(), "job": job.id, "micros": -job.micros}
            self.write("charges.jsonl", line)
        job.micros = 0
