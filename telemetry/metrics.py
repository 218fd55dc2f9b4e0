"""All counters, histograms and gauges, and their Prometheus exposition.

Labels are closed sets of words: an unknown word is counted as `other`, so that no text of a user or a model
creates a series. Counters and gauges exist from the start, with zero for every combination of labels.
"""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

from telemetry.version import VERSION

REGISTRY: Final = CollectorRegistry()
"""Only our own metrics: those of libraries in this process (docket has meters too) are not exposed."""

OTHER: Final = "other"
"""Replaces any value that is not a known word of its label; open labels would grow without end."""

_READER: Final = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=REGISTRY)
METER_PROVIDER: Final = MeterProvider(metric_readers=[_READER], shutdown_on_exit=False)
_METER: Final = METER_PROVIDER.get_meter("onetake")

LabelValues = Sequence[str]


class _Labels:
    """The labels of one instrument, each with its closed list of words."""

    def __init__(self, labels: dict[str, LabelValues]) -> None:
        self._known = {name: list(words) for name, words in labels.items()}

    def checked(self, given: dict[str, str]) -> dict[str, str]:
        """Return the labels with unknown words replaced by `other`.

        Raises:
            TypeError: The names are not those of the instrument; a defect in the caller.
        """
        if given.keys() != self._known.keys():
            raise TypeError(f"labels {sorted(given)} given, {sorted(self._known)} known")
        return {name: word if word in self._known[name] else OTHER for name, word in given.items()}

    def add_known(self, given: dict[str, str]) -> None:
        for name, word in given.items():
            if word not in self._known[name]:
                self._known[name].append(word)

    def combinations_of(self, name: str, word: str) -> list[dict[str, str]]:
        """Return every combination of the words that are known now that has this word."""
        return [each for each in self.all() if each[name] == word]

    def all(self) -> list[dict[str, str]]:
        """Return every combination of the known words."""
        return [dict(zip(self._known, words, strict=True)) for words in product(*self._known.values())]


class Counter:
    """A counter that starts at zero for every combination of its labels.

    Prometheus' `increase()` does not see a counter whose first value is one.
    """

    def __init__(self, name: str, means: str, **labels: LabelValues) -> None:
        self.name, self._labels = f"{name}_total", _Labels(labels)
        self._counter = _METER.create_counter(name, description=means)
        for each in self._labels.all():
            self._counter.add(0, each)

    def declare(self, **labels: str) -> None:
        """Add words that only the settings know (a model's name), and start their series at zero."""
        self._labels.add_known(labels)
        self._counter.add(0, self._labels.checked(labels))

    def declare_word(self, label: str, word: str) -> None:
        """Make one word of a label known, and begin its series at zero."""
        self._labels.add_known({label: word})
        for each in self._labels.combinations_of(label, word):
            self._counter.add(0, each)

    def add(self, amount: float = 1, **labels: str) -> None:
        self._counter.add(amount, self._labels.checked(labels))


class Histogram:
    """A histogram with bounds of our own."""

    def __init__(self, name: str, means: str, bounds: Sequence[float], **labels: LabelValues) -> None:
        self.name, self._labels = name, _Labels(labels)
        self._histogram = _METER.create_histogram(
            name, description=means, explicit_bucket_boundaries_advisory=list(bounds)
        )

    def declare_word(self, label: str, word: str) -> None:
        """Make one word of a label known."""
        self._labels.add_known({label: word})

    def record(self, value: float, **labels: str) -> None:
        self._histogram.record(value, self._labels.checked(labels))


class Gauge:
    """A value that is read from a store before each scrape; `total` makes it an increasing counter.

    Every replica reads the same store: use the maximum over replicas, never the sum.
    """

    def __init__(self, name: str, means: str, *, total: bool = False, **labels: LabelValues) -> None:
        self.name, self._labels = f"{name}_total" if total else name, _Labels(labels)
        self._values: dict[tuple[str, ...], float] = {tuple(one.values()): 0 for one in self._labels.all()}
        self._names = tuple(labels)
        create = _METER.create_observable_counter if total else _METER.create_observable_gauge
        create(name, callbacks=[self._observe], description=means)

    def declare_word(self, label: str, word: str) -> None:
        """Make one word of a label known, and begin its series at zero."""
        self._labels.add_known({label: word})
        for each in self._labels.combinations_of(label, word):
            self._values.setdefault(tuple(each[name] for name in self._names), 0)

    def set(self, value: float, **labels: str) -> None:
        self._values[tuple(self._labels.checked(labels)[name] for name in self._names)] = value

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for words, value in list(self._values.items()):
            yield Observation(value, dict(zip(self._names, words, strict=True)))


OUTCOMES: Final = (
    "delivered", "hold", "failed_paid", "failed_unpaid", "cancelled", "expired", "refused", "no_order",
)  # fmt: skip
VERDICTS: Final = (
    "admitted", "replay", "quota", "cooldown", "budget", "breaker", "content", "closed", "malformed",
)  # fmt: skip
LAYERS: Final = ("arguments", "content", "redis", "ledger")
STATES: Final = ("AWAITING_APPROVAL", "QUEUED", "SUBMITTING", "ACCEPTED", "IN_DOUBT", "HOLD", "SUCCEEDED")
DUE_STEPS: Final = ("run", "notify", "deliver", *STATES[:-1], "FAILED_UNPAID")

# Completed requests.
COMMANDS: Final = Counter("onetake_commands", "Completed requests, by outcome.", outcome=OUTCOMES)
COMMAND_COST: Final = Histogram(
    "onetake_command_cost_dollars",
    "Final cost of one request, charged less refunded.",
    (0, 0.5, 1, 2, 3, 4, 5, 10, 20, 50, 100),
)
COMMAND_VIDEOS: Final = Histogram(
    "onetake_command_videos", "Videos paid for one request.", (0, 1, 2, 3, 5, 8, 13)
)
PAID_VIDEOS: Final = Counter("onetake_paid_videos", "Charged jobs of completed requests.")
VIOLATIONS: Final = Counter(
    "onetake_invariant_violations",
    "Events that only a defect, here or at the provider, can explain.",
    kind=("second_job", "job_taken", "not_booked", "guard_failed", "forgotten_send"),
)

# Tool calls.
DUPLICATES: Final = Counter(
    "onetake_duplicates_prevented",
    "Duplicate tool calls that were answered in place of being made.",
    layer=("redis", "ledger"),
    reason=("recorded", "in_hand"),
)
DECISIONS: Final = Counter(
    "onetake_guardrail_decisions",
    "Verdicts of the guards, by tool and layer.",
    tool=(),  # by `declare_names`
    decision=VERDICTS,
    layer=LAYERS,
)

# Language models.
MODEL_TOKENS: Final = Counter(
    "onetake_model_tokens",
    "Tokens of language models; `input` without what was cached.",
    kind=("input", "cached", "output"),
)
MODEL_COST: Final = Counter(
    "onetake_model_cost_dollars",
    "Cost of language models by MODEL_PRICES; runs without a price are left out.",
)

# Paid jobs and deliveries.
VIDEOS_STARTED: Final = Counter(
    "onetake_videos_started", "Jobs that a provider accepted.", provider=(), model=()
)
GENERATION: Final = Histogram(
    "onetake_generation_duration_seconds",
    "From a job's acceptance to its finished video.",
    (15, 30, 60, 90, 120, 180, 240, 300, 450, 600, 900),
    provider=(),  # by `declare_names`
)
RECONCILIATIONS: Final = Counter(
    "onetake_reconciliations",
    "Reconciliation checks of orders with an unknown outcome, by result.",
    outcome=("adopted", "absent", "unsure"),
)
REDELIVERIES: Final = Counter(
    "onetake_redeliveries",
    "Repeated work: updates that Telegram sent again, further attempts at an agent run.",
    kind=("update", "attempt"),
)
DELIVERIES: Final = Counter(
    "onetake_deliveries",
    "Videos sent to Telegram, by method and result.",
    way=("edit", "send"),
    outcome=("ok", "refused", "failed"),
)

# Rate limits.
SENDS: Final = Counter(
    "onetake_sends",
    "Messages and edits that count toward Telegram's limits: sent at once, after a wait, or held back.",
    priority=("final", "offer", "progress"),
    outcome=("at_once", "waited", "held_back"),
)
SENDS_WAITING: Final = Gauge(
    "onetake_sends_waiting",
    "Messages and edits of this process that wait for Telegram's limits.",
    priority=("final", "offer"),
)
THROTTLED: Final = Counter(
    "onetake_throttled", "429 answers of Telegram, by what they paused.", scope=("chat", "bot")
)
LOCAL_GRANTS: Final = Counter(
    "onetake_local_rate_decisions", "Rate limits decided by one process alone, because Redis was unavailable."
)

# The version that runs. `schema` is known once the app declares it.
BUILD: Final = Gauge(
    "onetake_build_info", "1, with the version of this process.", version=(VERSION,), schema=()
)

# Telemetry about itself.
SPANS: Final = Counter(
    "onetake_spans",
    "Spans that were exported, that the collector did not accept, and that a full queue dropped.",
    result=("exported", "failed", "dropped"),
)

# Read from the ledger.
COST: Final = Gauge(
    "onetake_cost_dollars",
    "Sum of all ledger entries, by kind.",
    total=True,
    kind=("hold", "release", "charge", "credit"),
)
COST_TODAY: Final = Gauge("onetake_cost_today_dollars", "Charged less refunded since midnight UTC.")
MODEL_COST_TODAY: Final = Gauge(
    "onetake_model_cost_today_dollars",
    "What language models cost since midnight UTC, by the price list, as far as it has their prices.",
)
USER_TODAY: Final = Gauge("onetake_cost_today_largest_user_dollars", "The same, of the user who spent most.")
LARGEST_COMMAND: Final = Gauge(
    "onetake_largest_command_dollars",
    "Highest cost of one request, of those charged today or yesterday (UTC).",
)
TWICE_PAID: Final = Gauge(
    "onetake_twice_paid_requests",
    "Requests with more than one paid job, of those charged in the last 24 hours.",
)
ORDERS: Final = Gauge("onetake_takes", "Orders in progress, by state.", state=STATES)
OLDEST_PAID_ORDER: Final = Gauge(
    "onetake_oldest_take_seconds", "Age of the oldest paid order that is not finished."
)
HOLDS: Final = Gauge("onetake_holds_open", "Orders that wait for manual review.")
OLDEST_HOLD: Final = Gauge("onetake_oldest_hold_seconds", "Age of the oldest order in manual review.")
BREAKERS: Final = Gauge("onetake_breakers_open", "Breakers that stop paid work.", scope=("everyone", "user"))
OLDEST_OPEN: Final = Gauge(
    "onetake_oldest_open_request_seconds", "Age of the oldest request whose agent has not ended."
)
UNDELIVERED: Final = Gauge("onetake_paid_undelivered", "Videos that are paid and stored, and not delivered.")
OLDEST_UNDELIVERED: Final = Gauge(
    "onetake_oldest_paid_undelivered_seconds", "For how long the oldest of them has been stored."
)
PROCESSES: Final = Gauge(
    "onetake_processes_alive",
    "Processes that looked for work (worker) or heard Telegram (bot) in the last 35 s, by the ledger.",
    role=("worker", "bot"),
)
ALERTS_OPEN: Final = Gauge(
    "onetake_operator_alerts_open",
    "Alerts in the chat whose cause lasts, by whether someone has taken them on.",
    acknowledged=("no", "yes"),
)
ALERTS_MISSED: Final = Gauge(
    "onetake_operator_alerts_missed", "Alerts of the last 7 days that an admin could not be told."
)
OVERDUE: Final = Gauge(
    "onetake_overdue_seconds",
    "How long the oldest due step of each kind has waited for a worker; `run` is an agent run.",
    step=DUE_STEPS,
)
LEDGER_BYTES: Final = Gauge("onetake_ledger_bytes", "Size of the ledger's database, once a minute.")

CLOCK_STEPS: Final = Counter("onetake_clock_steps", "Times that the store's clock was seen to be set.")
CLOCK_SKEW: Final = Gauge(
    "onetake_provider_clock_skew_seconds",
    "Largest difference between the clock of a provider and the store's, in this process.",
    provider=(),
)

# What this process hears of Telegram.
UPDATE_ERRORS: Final = Counter(
    "onetake_update_errors",
    "Failed questions for updates, or about the webhook, by what Telegram answered.",
    code=("401", "409", "429", "5xx", "network"),
)
HEARD_AGE: Final = Gauge(
    "onetake_last_heard_age_seconds",
    "How long ago Telegram last answered for updates; 0 in a process that receives none.",
)
UPDATE_AGE: Final = Gauge(
    "onetake_last_update_age_seconds",
    "How long ago the last update came, or this process began; 0 in a process that receives none.",
)
WEBHOOK_PENDING: Final = Gauge(
    "onetake_webhook_pending_updates", "Updates that Telegram has not delivered to the webhook, each minute."
)
WEBHOOK_ERROR: Final = Gauge(
    "onetake_webhook_last_error_timestamp_seconds",
    "When Telegram last failed to deliver to the webhook, in seconds since the epoch; 0: never.",
)

# Read from the media folder, and from the disks of this process.
DISK_FREE: Final = Gauge(
    "onetake_disk_free_bytes", "Free space where videos and where data are written.", folder=("media", "var")
)
DISK_NEEDED: Final = Gauge(
    "onetake_disk_needed_bytes", "With less free space for videos than this, no order is sent."
)
MEDIA_BYTES: Final = Gauge("onetake_media_bytes", "Size of all files in MEDIA_DIR, every ten minutes.")
MEDIA_FILES: Final = Gauge("onetake_media_files", "Number of files in MEDIA_DIR, every ten minutes.")

# Read from the queue.
QUEUE_DEPTH: Final = Gauge(
    "onetake_queue_depth",
    "Tasks that wait for a worker, that run, and that are scheduled for later.",
    state=("waiting", "running", "later"),
)
QUEUE_AGE: Final = Gauge("onetake_queue_age_seconds", "Age of the oldest wake-up that waits for a worker.")
STORE_UP: Final = Gauge(
    "onetake_store_up",
    "1 if the store answered the last reading; if 0, its values are older.",
    store=("ledger", "queue"),
)


def declare_build(schema: str) -> None:
    """Say which schema of the ledger this process knows."""
    BUILD.declare_word("schema", schema)
    BUILD.set(1, version=VERSION, schema=schema)


def declare_names(*, tools: Iterable[str], providers: Iterable[str]) -> None:
    """Make the names of tools and providers known words. Called once at start, with what the registries hold.

    Until then each is counted as `other`.
    """
    for name in tools:
        DECISIONS.declare_word("tool", name)
    for name in providers:
        VIDEOS_STARTED.declare_word("provider", name)
        GENERATION.declare_word("provider", name)
        CLOCK_SKEW.declare_word("provider", name)


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition() -> bytes:
    """Return the exposition text. Values that come from stores are those of the last reading."""
    return generate_latest(REGISTRY)
