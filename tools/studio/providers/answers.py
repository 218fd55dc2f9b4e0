"""Reading what a `/v1/videos` server answers: a job, a refusal, a failure, or nothing that we know."""

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from providers.base import InDoubt, Job, JobFailed, JobModerated, Rejected, Status, Throttled
from providers.http import Reply, settled
from providers.job_matching import moment
from providers.openai_dialects import FUNDS_CODES, POLICY_CODES, Dialect

_JOB_ID = re.compile(r"[A-Za-z0-9][\w.:~=+/-]{0,254}", re.ASCII)
_SECONDS = re.compile(r"\d{1,5}(\.\d{1,3})?")


@dataclass(frozen=True, slots=True)
class Reader:
    """Answers in one dialect. `scrub` makes a stranger's words fit for an error text."""

    dialect: Dialect
    scrub: Callable[[str], str]

    def accepted(self, reply: Reply) -> Job:
        """Read the answer to the POST.

        Raises:
            Rejected, Throttled: A documented refusal, in the words of the provider.
            InDoubt: Anything else; a 2xx without a job as well as an error without a provider's body, which
                a gateway on the way may have written after the request had passed it.
        """
        data = reply.json() or {}
        if 200 <= reply.status < 300:
            if (job := readable_id(data)) is None:
                raise InDoubt(f"the POST was answered {reply.status} without a job id")
            return Job(job)
        code, said = self._complaint(data)
        if code is not None:
            self._refused(reply, code, f"refused with {reply.status}: {said}")
        raise InDoubt(f"the POST was answered {reply.status}: {said}")

    def status(self, data: Mapping[str, Any]) -> Status:
        """Read how far a job is.

        Raises:
            JobFailed, JobModerated: It is over, without a video.
        """
        word = self.dialect.words.get(str(data.get("status")), "unknown")
        if word == "cancelled":
            raise JobFailed("the job was cancelled", self.dialect.failed_billing)
        if word == "failed":
            code, said = self._complaint(data)
            if code in POLICY_CODES:
                raise JobModerated(said, self.dialect.moderated_billing)
            raise JobFailed(said, self.dialect.failed_billing)
        progress = data.get("progress")
        known = type(progress) is int and 0 <= progress <= 100
        return Status(word, progress=progress if known else None)

    def settled(self, reply: Reply) -> bool:
        """Say whether an answer about one job needs no second question."""
        return settled(reply) or self.carries_failure(reply)

    def carries_failure(self, reply: Reply) -> bool:
        """Say whether an HTTP error is really a failed job, which some servers send that way."""
        data = (self.dialect.failure_status and reply.json()) or {}
        return "id" in data and self.dialect.words.get(str(data.get("status"))) == "failed"

    def still_running(self, body: bytes) -> bool:
        """Say whether `body` is a job that is not done, sent in place of its video."""
        try:
            word = json.loads(body).get("status")
        except (ValueError, AttributeError, RecursionError):
            return False
        return self.dialect.words.get(str(word)) in ("queued", "running")

    def _refused(self, reply: Reply, code: str, words: str) -> None:
        reason = self.dialect.refusals.get(reply.status)
        if reply.status == 429 and self.dialect.throttles:
            if code in FUNDS_CODES:
                raise Rejected(words, "funds")
            if (pause := _pause(reply)) is not None:
                raise Throttled(words, pause)
        if reason is not None:
            raise Rejected(words, "policy" if code in POLICY_CODES else reason)

    def _complaint(self, data: Mapping[str, Any]) -> tuple[str | None, str]:
        """Return code and words of an error; the code is None where the body has not a provider's shape."""
        error = data.get("error", data)
        if isinstance(error, str):
            error = {"message": error}
        if not isinstance(error, dict) or not error.keys() & {"code", "message", "detail"}:
            return None, "no words that we know"
        code = str(error.get("code") or error.get("type") or "")
        return code, self.scrub(f"{code} {error.get('message') or error.get('detail') or ''}")


def readable_id(data: Mapping[str, Any]) -> str | None:
    """The job's id, if it is one that can stand in a path and in a column."""
    found = data.get("id")
    return found if isinstance(found, str) and _JOB_ID.fullmatch(found) else None


def job_path(job: str, rest: str = "") -> str:
    """The path of a job; whatever its id holds, it stays one segment."""
    return f"/videos/{quote(job, safe='')}{rest}"


def dig(data: object, path: tuple[str | int, ...]) -> object:
    """Follow `path` into nested objects and arrays; None where it does not lead anywhere."""
    for step in path:
        try:
            data = data[step]  # type: ignore[index]  # what is not a container raises, and that is the point
        except (KeyError, IndexError, TypeError):
            return None
    return data


def reaches_back(jobs: list[dict[str, Any]], begin: float) -> bool:
    """Say whether a list, newest first, has passed `begin`; a list in no such order never has."""
    times = [moment(job.get("created_at")) for job in jobs]
    known = [time for time in times if time is not None]
    newest_first = all(early >= late for early, late in itertools.pairwise(known))
    return newest_first and len(known) == len(times) and bool(known) and known[-1] < begin


def _pause(reply: Reply) -> float | None:
    """Seconds from Retry-After; a date there is not documented by anybody we speak to."""
    value = reply.headers.get("retry-after", "").strip()
    return float(value) if _SECONDS.fullmatch(value) else None
