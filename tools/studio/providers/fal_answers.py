"""Reading what fal's queue answers: a request, a refusal, a result, or nothing that we know.

Sources, read in November 2026: fal.ai/docs/api-reference/inference-api (queue), …/model-apis/errors (a list
of typed objects under `detail`), …/request-errors (`error_type`), …/faq (what is billed), and the issues of
fal-ai/fal for the words of an account without funds.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from providers.base import (
    Gone,
    InDoubt,
    Job,
    JobFailed,
    JobModerated,
    Phase,
    Rejected,
    RejectedFor,
    Transient,
)
from providers.http import Reply, settled

POLICY = "content_policy_violation"
LOCKED_FUNDS = "exhausted balance"
REFUSALS: Mapping[int, RejectedFor] = MappingProxyType(
    {401: "auth", 403: "auth", 404: "invalid", 422: "invalid"}
)
WORDS: Mapping[str, Phase] = MappingProxyType(
    {"IN_QUEUE": "queued", "IN_PROGRESS": "running", "COMPLETED": "succeeded"}
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{7,63}")


def readable(request_id: object) -> bool:
    """Say whether an id can stand as one segment of a path."""
    return isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id) is not None


@dataclass(frozen=True, slots=True)
class FalReader:
    """`scrub` makes a stranger's words fit for an error text."""

    scrub: Callable[[str], str]

    def accepted(self, reply: Reply, model: str) -> Job:
        """Read the answer to the POST. A job's id is `{model}/{request_id}`: fal asks for both.

        Raises:
            Rejected: A documented refusal in fal's own words: nothing entered the queue.
            InDoubt: Anything else; a 429 too, which fal documents only for a header that we never send.
        """
        data = reply.json() or {}
        if 200 <= reply.status < 300:
            if not readable(data.get("request_id")):
                raise InDoubt(f"the POST was answered {reply.status} without a request id")
            return Job(f"{model}/{data['request_id']}")
        kinds, said = self._complaint(data)
        reason = REFUSALS.get(reply.status)
        if kinds is None or reason is None:
            raise InDoubt(f"the POST was answered {reply.status}: {said}")
        if LOCKED_FUNDS in said.lower():
            reason = "funds"
        raise Rejected(f"refused with {reply.status}: {said}", "policy" if POLICY in kinds else reason)

    def phase(self, data: Mapping[str, Any]) -> Phase:
        """Read a status. COMPLETED says that the work ended, not that it went well."""
        return WORDS.get(str(data.get("status")), "unknown")

    def ended(self, told: Mapping[str, Any], reply: Reply) -> bool:
        """Say whether the answer about a result needs no second question."""
        return settled(reply) or (_told_of_failure(told) and reply.status != 429)

    def result(self, told: Mapping[str, Any], reply: Reply) -> dict[str, Any]:
        """Read the result of a request whose status, `told`, was COMPLETED.

        A 422 may be billed if a runner spent time on it; errors from 500 on are never charged.

        Raises:
            JobModerated, JobFailed: The model or the queue says so.
            Gone, Transient: The result is not kept; this answer says nothing about the work.
        """
        data = reply.json()
        if reply.status == 200 and data is not None:
            return data
        kinds, said = self._complaint(data or {})
        if kinds is not None and POLICY in kinds and reply.status < 500:
            raise JobModerated(said, "unknown")
        if kinds is not None and reply.status in (400, 422):
            raise JobFailed(said, "unknown")
        if _told_of_failure(told):
            # Both answers have to name the same error of the platform; a gateway's own 5xx proves nothing.
            kind = str(told.get("error_type") or "")
            unbilled = reply.status >= 500 and kind != "" and kind in (kinds or ())
            words = self.scrub(f"{told.get('error_type') or ''} {told.get('error') or said}")
            raise JobFailed(words, "unbilled" if unbilled else "unknown")
        if reply.status in (404, 410):
            raise Gone(f"the result is not kept there ({reply.status})")
        raise Transient(f"the result was answered {reply.status}")

    def _complaint(self, data: Mapping[str, Any]) -> tuple[frozenset[str] | None, str]:
        """Return the types and the words of an error; the types are None where the body is not fal's.

        Only type and message are quoted: an error object repeats the input, which holds the prompt.
        """
        detail = data.get("detail")
        if isinstance(detail, str):
            kind = str(data.get("error_type") or "")
            return frozenset({kind}), self.scrub(f"{kind} {detail}")
        errors = [one for one in detail if isinstance(one, dict)] if isinstance(detail, list) else []
        if not errors:
            return None, "no words that we know"
        kinds = frozenset(str(one.get("type")) for one in errors)
        return kinds, self.scrub("; ".join(f"{one.get('type')}: {one.get('msg')}" for one in errors[:3]))


def _told_of_failure(told: Mapping[str, Any]) -> bool:
    return bool(told.get("error") or told.get("error_type"))
