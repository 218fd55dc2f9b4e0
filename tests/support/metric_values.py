"""Read values from the metrics page as Prometheus would: the format is parsed strictly."""

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


def families(text: bytes) -> dict[str, Metric]:
    return {one.name: one for one in text_string_to_metric_families(text.decode())}


def value(text: bytes, series: str, **labels: str) -> float:
    """Return the sum of the samples of a series that have these labels; fail if there is none."""
    found = [
        one.value
        for family in families(text).values()
        for one in family.samples
        if one.name == series and labels.items() <= one.labels.items()
    ]
    assert found, f"{series} {labels} is not exposed"
    return sum(found)
