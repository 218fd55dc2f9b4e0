"""Logs stay in their test: a handler on a stream that is closed would speak up in another one."""

import logging
from collections.abc import Iterator

import structlog


def logs_as_they_were() -> Iterator[None]:
    """Take back what a command that sets logs up in this process has set up."""
    root = logging.getLogger()
    before, level, known = list(root.handlers), root.level, structlog.get_config()
    configured = structlog.is_configured()
    yield
    for handler in [one for one in root.handlers if one not in before]:
        if not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
    root.setLevel(level)
    if configured:
        structlog.configure(**known)
    else:
        structlog.reset_defaults()
