"""All counters, histograms and gauges; Prometheus exposition."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry, generate_latest

REGISTRY: Final = CollectorRegistry()
"""Ours alone: what else runs in this process (docket has meters too) is not exposed."""

OTHER: Final = "other"
"""What is no known word of its label; a label that any text could enter would grow without end."""

_READER: Final = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=REGISTRY)
METER_PROVIDER: Final = MeterProvider(metric_readers=[_READER], shutdown_on_exit=False)
_METER: Final = METER_PROVIDER.get_meter("onetake")

LabelValues = Sequence[str]


class _Labels:
    """Labels with closed lists of words."""

    def __init__(self, labels: dict[str, LabelValues]) -> None:
        self._known = {name: list(words) for name, words in labels.items()}

    def checked(self, given: dict[str, str]) -> dict[str, str]:
        """Return the labels as they are counted.

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

    def all(self) -> list[dict[str, str]]:
        """Return every combination of the words that are known now."""
        return [dict(zip(self._known, words, strict=True)) for words in product(*self._known.values())]


class Counter:
    """A counter. It stands at zero for every combination of its words before anything is counted, because
    `increase()` does not see a counter that is born at one.
    """

    def __init__(self, name: str, means: str, **labels: LabelValues) -> None:
        self.name, self._labels = f"{name}_total", _Labels(labels)
        self._counter = _METER.create_counter(name, description=means)
        for each in self._labels.all():
            self._counter.add(0, each)

    def declare(self, **labels: str) -> None:
        """Make words known that only the settings know (a model's name), and begin their series at zero."""
        self._labels.add_known(labels)
        self._counter.add(0, self._labels.checked(labels))

    def add(self, amount: float = 1, **labels: str) -> None:
        self._counter.add(amount, self._labels.checked(labels))


class Histogram:
    """A histogram with bounds of our own."""

    def __init__(self, name: str, means: str, bounds: Sequence[float], **labels: LabelValues) -> None:
        self.name, self._labels = name, _Labels(labels)
        self._histogram = _METER.create_histogram(
            name, description=means, explicit_bucket_boundaries_advisory=list(bounds)
        )

    def record(self, value: float, **labels: str) -> None:
        self._histogram.record(value, self._labels.checked(labels))


class Gauge:
    """A figure that is read from a store before each scrape; with `total` it only grows.

    Every replica reads the same store: take the largest, never the sum.
    """

    def __init__(self, name: str, means: str, *, total: bool = False, **labels: LabelValues) -> None:
        self.name, self._labels = f"{name}_total" if total else name, _Labels(labels)
        self._values: dict[tuple[str, ...], float] = {tuple(one.values()): 0 for one in self._labels.all()}
        self._names = tuple(labels)
        create = _METER.create_observable_counter if total else _METER.create_observable_gauge
        create(name, callbacks=[self._observe], description=means)

    def set(self, value: float, **labels: str) -> None:
        self._values[tuple(self._labels.checked(labels)[name] for name in self._names)] = value

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for words, value in list(self._values.items()):
            yield Observation(value, dict(zip(self._names, words, strict=True)))


OUTCOMES: Final = (
    "delivered", "hold", "failed_paid", "failed_unpaid", "cancelled", "expired", "refused", "no_order",
)  # fmt: skip
PROVIDERS: Final = ("local", "openai_compat", "fal", "replicate")
TOOLS: Final = ("generate_video", "generate_caption")
VERDICTS: Final = ("admitted", "replay", "quota", "cooldown", "budget", "breaker", "closed", "malformed")
LAYERS: Final = ("arguments", "content", "redis", "ledger")
STATES: Final = ("AWAITING_APPROVAL", "QUEUED", "SUBMITTING", "ACCEPTED", "IN_DOUBT", "HOLD", "SUCCEEDED")

# What became of commands.
COMMANDS: Final = Counter("onetake_commands", "Requests that came to an end, by how.", outcome=OUTCOMES)
COMMAND_COST: Final = Histogram(
    "onetake_command_cost_dollars",
    "What one request cost in the end, charged less credited.",
    (0, 0.5, 1, 2, 3, 4, 5, 10, 20, 50, 100),
)
COMMAND_VIDEOS: Final = Histogram(
    "onetake_command_videos", "Videos that were paid for one request.", (0, 1, 2, 3, 5, 8, 13)
)
PAID_VIDEOS: Final = Counter("onetake_paid_videos", "Jobs that stand charged for the requests that ended.")
VIOLATIONS: Final = Counter(
    "onetake_invariant_violations",
    "Things that nothing but a defect, here or at the provider, can explain.",
    kind=("second_job", "job_taken", "not_booked", "guard_failed"),
)

# The agent's calls.
DUPLICATES: Final = Counter(
    "onetake_duplicates_prevented",
    "Repeated calls of a tool that were answered in place of being made.",
    layer=("redis", "ledger"),
    reason=("recorded", "in_hand"),
)
DECISIONS: Final = Counter(
    "onetake_guardrail_decisions",
    "Verdicts of the guards, and the layer that gave them.",
    tool=TOOLS,
    decision=VERDICTS,
    layer=LAYERS,
)

# The studio.
VIDEOS_STARTED: Final = Counter(
    "onetake_videos_started", "Jobs that a provider took.", provider=PROVIDERS, model=()
)
GENERATION: Final = Histogram(
    "onetake_generation_duration_seconds",
    "From a job's acceptance to its finished video.",
    (15, 30, 60, 90, 120, 180, 240, 300, 450, 600, 900),
    provider=PROVIDERS,
)
RECONCILIATIONS: Final = Counter(
    "onetake_reconciliations",
    "Questions to a provider about a POST without an answer, by what came of them.",
    outcome=("adopted", "absent", "unsure"),
)
REDELIVERIES: Final = Counter(
    "onetake_redeliveries",
    "Work that came a second time: an update of Telegram, an attempt at the agent's run.",
    kind=("update", "attempt"),
)
DELIVERIES: Final = Counter(
    "onetake_deliveries",
    "Videos handed to Telegram, by way and answer.",
    way=("edit", "send"),
    outcome=("ok", "refused", "failed"),
)

# Telemetry about itself.
SPANS: Final = Counter(
    "onetake_spans",
    "Spans handed to the collector, refused by it or by its absence, and dropped because the queue was full.",
    result=("exported", "failed", "dropped"),
)

# Read from the ledger.
COST: Final = Gauge(
    "onetake_cost_dollars",
    "The books since the beginning, by kind of entry.",
    total=True,
    kind=("hold", "release", "charge", "credit"),
)
COST_TODAY: Final = Gauge("onetake_cost_today_dollars", "Charged less credited since midnight UTC.")
USER_TODAY: Final = Gauge("onetake_cost_today_largest_user_dollars", "The same of the user who spent most.")
LARGEST_COMMAND: Final = Gauge(
    "onetake_largest_command_dollars", "The most that one request cost, of those charged in 24 hours."
)
TWICE_PAID: Final = Gauge(
    "onetake_twice_paid_requests", "Requests with more than one paid job, of those charged in 24 hours."
)
ORDERS: Final = Gauge("onetake_takes", "Orders that are under way, by state.", state=STATES)
OLDEST_PAID_ORDER: Final = Gauge(
    "onetake_oldest_take_seconds", "Age of the oldest paid order without an end."
)
HOLDS: Final = Gauge("onetake_holds_open", "Orders that wait for a person to settle them.")
OLDEST_HOLD: Final = Gauge("onetake_oldest_hold_seconds", "Since when the oldest of them waits.")
BREAKERS: Final = Gauge("onetake_breakers_open", "Breakers that stop paid work.", scope=("everyone", "user"))

# Read from the queue.
QUEUE_DEPTH: Final = Gauge(
    "onetake_queue_depth",
    "Tasks that wait for a worker, that run, and that are put off.",
    state=("waiting", "running", "later"),
)
QUEUE_AGE: Final = Gauge("onetake_queue_age_seconds", "Since when the oldest due task waits for a worker.")
STORE_UP: Final = Gauge(
    "onetake_store_up",
    "1 if the store answered the last reading; if not, its figures are older.",
    store=("ledger", "queue"),
)


CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def exposition() -> bytes:
    """Return the exposition text. Figures that are read from stores are as of their last reading."""
    return generate_latest(REGISTRY)
