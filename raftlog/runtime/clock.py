"""The only place that reads clocks."""

from __future__ import annotations

import time


def monotonic() -> float:
    """Seconds on a clock that never goes back and has no meaning outside this machine."""
    return time.monotonic()


def thread_cpu() -> float:
    """Seconds of CPU time that the calling thread has used."""
    return time.thread_time()


def process_cpu() -> float:
    """Seconds of CPU time that this process has used, in all its threads."""
    return time.process_time()


def wall_microseconds() -> int:
    """Microseconds since the epoch, by this machine's wall clock."""
    return time.time_ns() // 1000


def sleep(seconds: float) -> None:
    time.sleep(seconds)
