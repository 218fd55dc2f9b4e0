"""Structured logs: one event per line, with the request's short id and its trace.

Everything passes `telemetry.redaction`, the standard library's loggers too: no secret, chat id or user id is
written. Prompts are never logged.
"""

import logging
import sys
from pathlib import Path
from typing import Literal

import structlog
from opentelemetry.trace import get_current_span

from telemetry.redaction import redact_event

LogFormat = Literal["console", "json"]


def setup_logs(level: str = "INFO", fmt: LogFormat = "console", file: Path | None = None) -> None:
    """Send our events and the standard library's through one redacting pipeline.

    Args:
        level: The lowest level that is written, by its standard name.
        fmt: `console` for people, `json` for machines (one object per line).
        file: Write there instead of standard error.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_trace,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact_event,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if fmt == "json"
        else structlog.dev.ConsoleRenderer(colors=file is None and sys.stderr.isatty())
    )
    handler = logging.StreamHandler() if file is None else logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact_event, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(True)  # a library may quote a secret in one
    # These log every poll and every HTTP request at INFO.
    for chatty in (
        "aiogram.event",
        "httpx2",
        "httpcore2",
        "docket",
        "aiosqlite",
        "alembic",
        "aiohttp.access",
    ):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _add_trace(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Add the current trace and span, so that a log line leads to its trace."""
    context = get_current_span().get_span_context()
    if context.is_valid:
        event.setdefault("trace_id", f"{context.trace_id:032x}")
        event.setdefault("span_id", f"{context.span_id:016x}")
    return event


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the logger of one module. Events are constant texts; values go into fields."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger
