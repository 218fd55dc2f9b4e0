"""The kinds of instruments: each label has a closed list of words, and each series begins at zero."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Final

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from prometheus_client import CollectorRegistry

REGISTRY: Final = CollectorRegistry()
"""Ours alone: what else runs in this process (docket has meters too) is not exposed."""

OTHER: Final = "other"
"""What is no known word of its label; a label that any text could enter would grow without end."""

_READER: Final = PrometheusMetricReader(disable_target_info=True, scope_info_enabled=False, registry=REGISTRY)
METERS: Final = MeterProvider(metric_readers=[_READER], shutdown_on_exit=False)
_METER: Final = METERS.get_meter("onetake")

Words = Sequence[str]


class _Labelled:
    """Labels with closed lists of words."""

    def __init__(self, labels: dict[str, Words]) -> None:
        self._known = {name: list(words) for name, words in labels.items()}

    def of(self, given: dict[str, str]) -> dict[str, str]:
        """Return the labels as they are counted.

        Raises:
            TypeError: The names are not those of the instrument; a defect in the caller.
        """
        if given.keys() != self._known.keys():
            raise TypeError(f"labels {sorted(given)} given, {sorted(self._known)} known")
        return {name: word if word in self._known[name] else OTHER for name, word in given.items()}

    def learn(self, given: dict[str, str]) -> None:
        for name, word in given.items():
            if word not in self._known[name]:
                self._known[name].append(word)

    def all(self) -> list[dict[str, str]]:
        """Return every combination of the words that are known now."""
        return [dict(zip(self._known, words, strict=True)) for words in product(*self._known.values())]


class Count:
    """A counter. It stands at zero for every combination of its words before anything is counted, because
    `increase()` does not see a counter that is born at one.
    """

    def __init__(self, name: str, means: str, **labels: Words) -> None:
        self.name, self._labels = f"{name}_total", _Labelled(labels)
        self._counter = _METER.create_counter(name, description=means)
        for each in self._labels.all():
            self._counter.add(0, each)

    def expect(self, **labels: str) -> None:
        """Make words known that only the settings know (a model's name), and begin their series at zero."""
        self._labels.learn(labels)
        self._counter.add(0, self._labels.of(labels))

    def add(self, amount: float = 1, **labels: str) -> None:
        self._counter.add(amount, self._labels.of(labels))


class Spread:
    """A histogram with bounds of our own."""

    def __init__(self, name: str, means: str, bounds: Sequence[float], **labels: Words) -> None:
        self.name, self._labels = name, _Labelled(labels)
        self._histogram = _METER.create_histogram(
            name, description=means, explicit_bucket_boundaries_advisory=list(bounds)
        )

    def record(self, value: float, **labels: str) -> None:
        self._histogram.record(value, self._labels.of(labels))


class Reading:
    """A figure that is read from a store before each scrape; with `total` it only grows.

    Every replica reads the same store: take the largest, never the sum.
    """

    def __init__(self, name: str, means: str, *, total: bool = False, **labels: Words) -> None:
        self.name, self._labels = f"{name}_total" if total else name, _Labelled(labels)
        self._values: dict[tuple[str, ...], float] = {tuple(one.values()): 0 for one in self._labels.all()}
        self._names = tuple(labels)
        create = _METER.create_observable_counter if total else _METER.create_observable_gauge
        create(name, callbacks=[self._observe], description=means)

    def set(self, value: float, **labels: str) -> None:
        self._values[tuple(self._labels.of(labels)[name] for name in self._names)] = value

    def _observe(self, _: CallbackOptions) -> Iterable[Observation]:
        for words, value in list(self._values.items()):
            yield Observation(value, dict(zip(self._names, words, strict=True)))
