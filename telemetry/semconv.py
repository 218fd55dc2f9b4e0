"""Names of spans, span events and attributes. People search for them, so they must not change."""

from typing import Final

# Spans. Names with a variable part are built where they are used: `telegram /create`, `chat MODEL`.
PROCESS: Final = "process create"
STARTED: Final = "attempt started"
REQUEST_COMPLETED: Final = "settle create"
VIDEO: Final = "video"
SUBMIT: Final = "submit video"
FETCH: Final = "fetch video"
RECONCILE: Final = "reconcile"
GUARD: Final = "guardrail admit"

COMMANDS: Final = (
    "create", "start", "help", "status", "history", "video", "quota", "cancel", "resolve", "breaker", "holds",
    "correct", "costs", "settings", "report", "privacy", "forget", "stats", "invite", "ban", "unban", "buy",
    "balance", "terms", "paysupport", "grant", "alerts",
)  # fmt: skip
UPDATES: Final = ("message", "callback", "other")

# Events.
DUPLICATE: Final = "duplicate prevented"
STATE_CHANGED: Final = "state"
FINDING_EVENT: Final = "finding"

# Attributes.
REQUEST: Final = "onetake.request"
"""The short id that the user sees (`#1a2b3c`)."""
REQUEST_KEY: Final = "onetake.request.key"
"""The provider's idempotency key, derived from the request's id. The id itself contains a chat's id."""
USER: Final = "onetake.user"
"""A keyed hash."""
ATTEMPT: Final = "onetake.attempt"
OUTCOME: Final = "onetake.outcome"
VIDEOS: Final = "onetake.videos"
DUPLICATES: Final = "onetake.duplicates_prevented"
COST: Final = "onetake.cost_usd"
VIOLATION: Final = "onetake.violation"
OVER_COST: Final = "onetake.over_cost_limit"
OVER_TIME: Final = "onetake.over_time_limit"
REDELIVERED: Final = "onetake.redelivered"
TOOL: Final = "onetake.tool"
"""Not `gen_ai.tool.name`: Jaeger would show a guardrail as a call of the tool."""
DECISION: Final = "onetake.guardrail.decision"
LAYER: Final = "onetake.guardrail.layer"
REASON: Final = "onetake.guardrail.reason"
FAIL_CLOSED: Final = "onetake.fail_closed"
PROVIDER: Final = "onetake.provider"
MODEL: Final = "onetake.model"
FROM: Final = "onetake.from"
TO: Final = "onetake.to"
FINDING: Final = "onetake.finding"
"""A provider's answer about an order with an unknown outcome: `found`, `absent` or `unsure`."""
WHO: Final = "onetake.who"
JOB: Final = "onetake.job"
ERROR: Final = "error.type"
CALL_ID: Final = "gen_ai.tool.call.id"
