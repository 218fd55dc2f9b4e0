"""The names in a trace: a closed set of spans and events, and the attributes that people search for."""

from typing import Final

# Spans. Those with an ending of their own: `telegram /create`, `execute_tool generate_video`, `chat MODEL`.
PROCESS: Final = "process create"
STARTED: Final = "attempt started"
REQUEST_COMPLETED: Final = "settle create"
VIDEO: Final = "video"
SUBMIT: Final = "submit video"
FETCH: Final = "fetch video"
RECONCILE: Final = "reconcile"
GUARD: Final = "guardrail admit"

COMMANDS: Final = (
    "create", "start", "help", "status", "history", "quota", "cancel", "resolve", "breaker", "holds", "costs",
)  # fmt: skip
UPDATES: Final = ("message", "callback", "other")

# Events.
DUPLICATE: Final = "duplicate prevented"
STATE_CHANGED: Final = "state"
FINDING_EVENT: Final = "finding"

# Attributes.
REQUEST: Final = "onetake.request"
"""The six letters that its user can read out (`#1a2b3c`)."""
REQUEST_KEY: Final = "onetake.request.key"
"""The provider's idempotency key: derived from the request's id, which itself holds a chat's number."""
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
"""Not `gen_ai.tool.name`: Jaeger would take a guardrail for a call of the tool."""
DECISION: Final = "onetake.guardrail.decision"
LAYER: Final = "onetake.guardrail.layer"
REASON: Final = "onetake.guardrail.reason"
FAIL_CLOSED: Final = "onetake.fail_closed"
PROVIDER: Final = "onetake.provider"
MODEL: Final = "onetake.model"
FROM: Final = "onetake.from"
TO: Final = "onetake.to"
FINDING: Final = "onetake.finding"
"""What a provider said of a doubtful order: `found`, `absent` or `unsure`."""
WHO: Final = "onetake.who"
JOB: Final = "onetake.job"
ERROR: Final = "error.type"
CALL_ID: Final = "gen_ai.tool.call.id"
