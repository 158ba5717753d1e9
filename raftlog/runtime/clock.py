"""The only place that reads clocks.

The functions of `time` are taken when this module is loaded: a project's test that puts a mock in the place of
time.sleep(), say, must not do so in the node's threads.
"""

from __future__ import annotations

import time
from typing import Final

_sleep, _time_ns, _clock_gettime = time.sleep, time.time_ns, time.clock_gettime
_BOOTTIME: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def monotonic() -> float:
    """Seconds on a clock that never goes back and has no meaning outside this machine.

    It goes on while the machine sleeps (a suspended laptop or virtual machine), so that what has become old meanwhile
    is known to be: CLOCK_BOOTTIME. Where the system has none (not Linux), it may stand still.
    """
    return _clock_gettime(_BOOTTIME)


def thread_cpu() -> float:
    """Seconds of CPU time that the calling thread has used."""
    return time.thread_time()


def process_cpu() -> float:
    """Seconds of CPU time that this process has used, in all its threads."""
    return time.process_time()


def wall_microseconds() -> int:
    """Microseconds since the epoch, by this machine's wall clock."""
    return _time_ns() // 1000


def sleep(seconds: float) -> None:
    _sleep(seconds)
