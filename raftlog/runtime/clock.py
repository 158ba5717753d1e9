"""The only place that reads clocks."""

from __future__ import annotations

import time


def monotonic() -> float:
    """Seconds on a clock that never goes back and has no meaning outside this machine."""
    return time.monotonic()


def wall_microseconds() -> int:
    """Microseconds since the epoch, by this machine's wall clock."""
    return time.time_ns() // 1000


def sleep(seconds: float) -> None:
    time.sleep(seconds)
