"""The machine's clock that no one sets."""

import time


def boot_clock() -> float:
    """Return seconds of a clock that continues while the machine sleeps; a wall clock may jump."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
