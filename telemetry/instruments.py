"""Every instrument of the house. Labels never hold a user, a chat, a request, a job, a prompt or a trace.

What a process counts is summed over processes; what is read from a store (`Reading`) is the same in all of
them, so take its largest value.
"""

from typing import Final

from telemetry.meters import Count, Reading, Spread

OUTCOMES: Final = (
    "delivered", "hold", "failed_paid", "failed_unpaid", "cancelled", "expired", "refused", "no_order",
)  # fmt: skip
PROVIDERS: Final = ("local", "openai_compat", "fal", "replicate")
TOOLS: Final = ("generate_video", "generate_caption")
VERDICTS: Final = ("admitted", "replay", "quota", "cooldown", "budget", "breaker", "closed", "malformed")
LAYERS: Final = ("arguments", "content", "redis", "ledger")
STATES: Final = ("AWAITING_APPROVAL", "QUEUED", "SUBMITTING", "ACCEPTED", "IN_DOUBT", "HOLD", "SUCCEEDED")

# What became of commands.
COMMANDS: Final = Count("onetake_commands", "Requests that came to an end, by how.", outcome=OUTCOMES)
COMMAND_COST: Final = Spread(
    "onetake_command_cost_dollars",
    "What one request cost in the end, charged less credited.",
    (0, 0.5, 1, 2, 3, 4, 5, 10, 20, 50, 100),
)
COMMAND_VIDEOS: Final = Spread(
    "onetake_command_videos", "Videos that were paid for one request.", (0, 1, 2, 3, 5, 8, 13)
)
PAID_VIDEOS: Final = Count("onetake_paid_videos", "Jobs that stand charged for the requests that ended.")
VIOLATIONS: Final = Count(
    "onetake_invariant_violations",
    "Things that nothing but a defect, here or at the provider, can explain.",
    kind=("second_job", "job_taken", "not_booked", "guard_failed"),
)

# The agent's calls.
DUPLICATES: Final = Count(
    "onetake_duplicates_prevented",
    "Repeated calls of a tool that were answered in place of being made.",
    layer=("redis", "ledger"),
    reason=("recorded", "in_hand"),
)
DECISIONS: Final = Count(
    "onetake_guardrail_decisions",
    "Verdicts of the guards, and the layer that gave them.",
    tool=TOOLS,
    decision=VERDICTS,
    layer=LAYERS,
)

# The studio.
VIDEOS_STARTED: Final = Count(
    "onetake_videos_started", "Jobs that a provider took.", provider=PROVIDERS, model=()
)
GENERATION: Final = Spread(
    "onetake_generation_duration_seconds",
    "From a job's acceptance to its finished video.",
    (15, 30, 60, 90, 120, 180, 240, 300, 450, 600, 900),
    provider=PROVIDERS,
)
RECONCILIATIONS: Final = Count(
    "onetake_reconciliations",
    "Questions to a provider about a POST without an answer, by what came of them.",
    outcome=("adopted", "absent", "unsure"),
)
REDELIVERIES: Final = Count(
    "onetake_redeliveries",
    "Work that came a second time: an update of Telegram, an attempt at the agent's run.",
    kind=("update", "attempt"),
)
DELIVERIES: Final = Count(
    "onetake_deliveries",
    "Videos handed to Telegram, by way and answer.",
    way=("edit", "send"),
    outcome=("ok", "refused", "failed"),
)

# Telemetry about itself.
SPANS: Final = Count(
    "onetake_spans",
    "Spans handed to the collector, refused by it or by its absence, and dropped because the queue was full.",
    result=("exported", "failed", "dropped"),
)

# Read from the ledger.
COST: Final = Reading(
    "onetake_cost_dollars",
    "The books since the beginning, by kind of entry.",
    total=True,
    kind=("hold", "release", "charge", "credit"),
)
COST_TODAY: Final = Reading("onetake_cost_today_dollars", "Charged less credited since midnight UTC.")
USER_TODAY: Final = Reading("onetake_cost_today_largest_user_dollars", "The same of the user who spent most.")
LARGEST_COMMAND: Final = Reading(
    "onetake_largest_command_dollars", "The most that one request cost, of those charged in 24 hours."
)
TWICE_PAID: Final = Reading(
    "onetake_twice_paid_requests", "Requests with more than one paid job, of those charged in 24 hours."
)
TAKES: Final = Reading("onetake_takes", "Orders that are under way, by state.", state=STATES)
OLDEST_TAKE: Final = Reading("onetake_oldest_take_seconds", "Age of the oldest paid order without an end.")
HOLDS: Final = Reading("onetake_holds_open", "Orders that wait for a person to settle them.")
OLDEST_HOLD: Final = Reading("onetake_oldest_hold_seconds", "Since when the oldest of them waits.")
BREAKERS: Final = Reading(
    "onetake_breakers_open", "Breakers that stop paid work.", scope=("everyone", "user")
)

# Read from the queue.
QUEUE_DEPTH: Final = Reading(
    "onetake_queue_depth",
    "Tasks that wait for a worker, that run, and that are put off.",
    state=("waiting", "running", "later"),
)
QUEUE_AGE: Final = Reading("onetake_queue_age_seconds", "Since when the oldest due task waits for a worker.")
STORE_UP: Final = Reading(
    "onetake_store_up",
    "1 if the store answered the last reading; if not, its figures are older.",
    store=("ledger", "queue"),
)
