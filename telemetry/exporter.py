"""The way out: spans to an OTLP collector, in threads of their own. No request ever waits for it."""

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from telemetry import semconv
from telemetry.instruments import SPANS
from telemetry.logs import get_logger
from telemetry.privacy import clean

log = get_logger(__name__)

EXPORT_S: Final = 2.0
"""One batch, with its repetitions."""
CLOSE_S: Final = 3.0
"""What is left at the end has this long to leave."""
_DELAY_MS: Final = 500
_MOST: Final = 4096
_SAY_S: Final = 60.0


class Collector(SpanProcessor):
    """Hands spans to a collector; those that it does not take in time are counted, never waited for.

    Args:
        endpoint: The full URL of `/v1/traces`.
        headers: For the collector alone.
        content: Prompts and answers may leave.
        most: Spans that may wait; more are dropped.
    """

    def __init__(
        self, endpoint: str, headers: Mapping[str, str], *, content: bool = False, most: int = _MOST
    ) -> None:
        # The SDK narrates every failed batch; here the first is said, and all are counted.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        self._content, self._most = content, most
        self._held, self._lock = 0, threading.Lock()
        self._lanes = {
            urgent: BatchSpanProcessor(
                _Counting(self, OTLPSpanExporter(
                    endpoint, headers=dict(headers), timeout=EXPORT_S, meter_provider=NoOpMeterProvider()
                )),
                max_queue_size=most, schedule_delay_millis=_DELAY_MS,
                # A batch of one wakes the exporting thread at once: what a kill would take with it.
                max_export_batch_size=1 if urgent else min(512, most),
                meter_provider=NoOpMeterProvider(),
            )
            for urgent in (False, True)
        }  # fmt: skip

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        with self._lock:
            full = self._held >= self._most
            self._held += not full
        if full:
            SPANS.add(result="dropped")
        else:
            self._lanes[span.name == semconv.STARTED].on_end(clean(span, content=self._content))

    def settled(self, count: int, result: str) -> None:
        """Count spans that left, or that could not."""
        with self._lock:
            self._held -= count
        SPANS.add(count, result=result)

    async def close(self, seconds: float = CLOSE_S) -> None:
        """Send what is left, for so long and no longer; what stays behind is counted as dropped.

        In threads that nobody joins: the SDK's own shutdown and flush go on for up to half a minute.
        """
        threads = [threading.Thread(target=lane.shutdown, daemon=True) for lane in self._lanes.values()]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + seconds
        while any(thread.is_alive() for thread in threads) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        with self._lock:
            left, self._held = self._held, 0
        if left > 0:
            SPANS.add(left, result="dropped")
            log.warning("spans are lost at the end", count=left)


class _Counting(SpanExporter):
    def __init__(self, collector: Collector, inner: SpanExporter) -> None:
        self._collector, self._inner = collector, inner
        self._said = -_SAY_S

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever it raises, the spans are lost and no more than that
            result = SpanExportResult.FAILURE
            self._say(type(error).__name__)
        taken = result is SpanExportResult.SUCCESS
        self._collector.settled(len(spans), "exported" if taken else "failed")
        if not taken:
            self._say("the collector did not take them")
        return result

    def _say(self, why: str) -> None:
        if time.monotonic() - self._said >= _SAY_S:
            self._said = time.monotonic()
            log.warning("spans are lost", why=why)

    def shutdown(self) -> None:
        self._inner.shutdown()
